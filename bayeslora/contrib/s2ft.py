"""S²FT: training of weight columns, those of a few heads and channels.

    y = x Wᵀ + b + x[…, idx] Dᵀ

Source: Yang et al. 2024, arXiv 2412.06289.

*Layer*: W and b are frozen, and D [out, k] is zero at the start. D is the change of the columns
`W[:, idx]`, so its gradient, dYᵀ x[…, idx], equals these columns of the gradient of full
fine-tuning. PyTorch saves no input for a linear layer whose weight needs no gradient: only the k
selected inputs of x are saved for the backward pass, as a copy, since a view would keep all of x.

The published S²FT permutes the selected units to the front and trains them in place. The
permutation must respect the groups of grouped-query attention, and the columns of W are no longer
the host's. Here nothing is permuted, and W stays the host's tensor: shared with other adapters,
with the same fingerprint, and not rounded if W is bfloat16 and D float32.

*Selection* of columns: heads and channels, with one budget over all adapted layers.

    random       a uniform draw without replacement
    weight       ‖W[:, u]‖_F
    activation   (Σ_{c∈u} E x_c²)^½
    product      (Σ_{c∈u} E x_c² ‖W[:, c]‖²)^½
    gradient     ‖∂L/∂W[:, u]‖_F

u are the columns of one unit: the columns of a head in the attention's output projection, or the
column of a feed-forward channel. Queries, keys and values stay unchanged, so with grouped queries a
head is trained independently of its group.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from bayeslora.adapters.base import Adapter, Layers
from bayeslora.adapters.site import Site, trained_layer
from bayeslora.adapters.targets import find_targets, no_default
from bayeslora.contrib.moments import SecondMoment, batches, moments_on, spread
from bayeslora.engine.network import unscaled
from bayeslora.engine.progress import progress_bar
from bayeslora.engine.training.base import Training
from bayeslora.errors import InputError
from bayeslora.io.files import open_tensors
from bayeslora.option_checks import Count, NotNegative, OnlyWith, Positive, Texts, UpToOne
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.registry import build_head, closed_form

LEARNED = ("activation", "gradient", "product")
"""Selections that run training rows."""


@dataclass(frozen=True)
class S2FT(Adapter):
    """A few attention heads and feed-forward channels, trained in full while the rest is frozen.

    A head is its columns of the attention's output projection, a channel its column of the
    feed-forward down projection. Both budgets are shares of all adapted layers together: some
    layers get more than others, and some none.
    """

    name: ClassVar[str] = "s2ft"
    summary: ClassVar[str] = "trains a few heads and channels of the weights; the rest stays frozen"
    use: ClassVar[str] = (
        "Training single heads and channels, or merging several fits that change different columns."
    )
    source: ClassVar[str] = "Yang et al. 2024, arXiv 2412.06289"
    parameters: ClassVar[str] = "out per column"
    default_lr: ClassVar[float] = 1e-2
    only_with: ClassVar[OnlyWith] = {
        "largest": tuple(("selection", name) for name in ("weight", *LEARNED)),
        "context_rows": tuple(("selection", name) for name in LEARNED),
    }

    o_ratio: UpToOne = 0.052
    """Share of the attention heads to train, at least one; 0 leaves attention unchanged."""
    d_ratio: UpToOne = 0.02
    """Share of the feed-forward channels to train, at least one; 0 leaves them unchanged."""
    selection: Literal["activation", "gradient", "product", "random", "weight"] = "random"
    """Selection of heads and channels: `random`; or by the norm of the columns (`weight`), of their
    inputs on training rows (`activation`), of both together (`product`), or of the loss's gradient
    (`gradient`)."""
    largest: bool = True
    """Whether to select the largest norms; otherwise the smallest."""
    avoid: Texts | None = None
    """Model directories whose columns are not selected, so that their changes and this one can be
    added to the same weight. The ratios remain shares of all heads and channels."""
    context_rows: Count = 1000
    """Maximum number of training rows that are run for a selection, evenly spread over them."""
    target_modules: Texts | None = None
    """Endings of dotted module names, or regular expressions for whole names; None means the output
    and down projections of the architecture. An attention output is split into heads, any other
    layer into channels."""
    num_layers: Layers = "auto"
    lr: Positive | None = None
    """Learning rate of AdamW on the columns; None means {default_lr}."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of the columns towards their pretrained values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.o_ratio and not self.d_ratio:
            raise InputError("o_ratio and d_ratio are both 0, so nothing would be trained")

    @property
    def starts_from_rows(self) -> bool:
        """Whether the selection of columns depends on training rows."""
        return self.selection in LEARNED

    @property
    def start_alike(self) -> str:
        """All selections except `random` give every member the same columns."""
        return (
            ""
            if self.selection == "random"
            else "choose selection=random, which gives each member other columns"
        )

    def targets(self, model: nn.Module) -> list[str]:
        """Return the layers to select columns from; see `column_targets`."""
        return column_targets(model, self)

    def make_sites(
        self,
        model: nn.Module,
        hosts: Mapping[str, nn.Linear],
        generator: Generator,
        *,
        blank: bool = False,
    ) -> list[Site]:
        """Return a `Columns` for each layer, without columns if `blank`."""
        columns: Mapping[str, Tensor] = {}
        if not blank:
            units = units_at(model, list(hosts), self)
            weights = {name: host.get_parameter("weight") for name, host in hosts.items()}
            columns = choose_columns(units, weights, self, generator)
        none = torch.zeros(0, dtype=torch.int64)
        return [Columns(name, host, columns.get(name, none)) for name, host in hosts.items()]

    def settled(self, data: Any) -> Self:
        """Check that the models to avoid have columns.

        Raises:
            InputError: A directory has no adapter of columns.
        """
        for directory in self.avoid or ():
            _columns_in(directory)
        return self

    def begin(self, fit: Training) -> None:
        """Select the columns of the sites by training rows."""
        network = fit.network
        sites = [cast("Columns", site) for site in network.sites]
        units = units_at(network.encoder.model, [site.name for site in sites], self)
        if self.selection == "gradient":
            begin_by_gradient(sites, units, self, lambda: backward(fit, self.context_rows))
            return
        moments = moments_on(network, fit.train, self.context_rows, shown=fit.plan.progress)
        weights: dict[str, Tensor] = {site.name: site.weight for site in sites}
        chosen = choose_columns(units, weights, self, torch.Generator(), moments)
        for site in sites:
            site.begin(chosen[site.name])


_GRADIENT_BATCH = 16


class Columns(Site):
    """A frozen linear layer plus a change of some columns of its weight.

    Without columns it equals the frozen layer and has no parameters.

    Attributes:
        idx: [k] int64 buffer, the columns, ascending.
        sel: Linear layer from the k chosen inputs to the outputs; its weight is the change.

    Args:
        name: Dotted path of the replaced layer in its host.
        host: The layer to replace. Its weight and bias are shared, not copied, and frozen.
        idx: [k] integers, the columns to change, in any order; may be empty.

    Raises:
        InputError: See `check_columns`.
    """

    idx: Tensor

    def __init__(self, name: str, host: nn.Linear, idx: Tensor) -> None:
        super().__init__(name, host)
        device = host.weight.device
        self.register_buffer("idx", torch.zeros(0, dtype=torch.int64, device=device))
        # One column until `begin`: torch warns about a layer without inputs.
        self.sel = trained_layer(torch.zeros(len(host.weight), 1), device)
        self.begin(idx)
        self.train(host.training)

    @property
    def k(self) -> int:
        """Number of trained columns."""
        return len(self.idx)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] in the frozen layer's precision; the change is computed in its own."""
        base = F.linear(x, self.weight, self.bias)
        if not self.k:
            return base
        selected = x.index_select(-1, self.idx).to(self.sel.weight.dtype)
        product: Tensor = self.sel(selected)
        return base + product.to(base.dtype)

    def change(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return `(A [k, in], B [out, k])` for the change `B·A`; A selects the columns.

        Args:
            dtype: Dtype of the result; None means the adapter's.
        """
        B = self.sel.weight.to(dtype or self.sel.weight.dtype)
        A = torch.zeros(self.k, self.in_features, dtype=B.dtype, device=B.device)
        A[torch.arange(self.k, device=B.device), self.idx] = 1
        return A, B

    @torch.no_grad()
    def begin(self, idx: Tensor) -> None:
        """Reset, in place, to a zero change of these columns.

        The parameter stays the same object, but objects that hold its gradient or size must be
        recreated.

        Args:
            idx: [k] int64, in any order.
        """
        chosen = idx.sort().values.to(self.weight.device)
        self.idx = chosen
        weight = self.sel.weight
        weight.grad = None
        weight.data = weight.new_zeros(self.out_features, len(chosen))
        weight.requires_grad_(bool(len(chosen)))
        self.sel.in_features = len(chosen)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save: `sel` [out, k] and `idx` [k]."""
        return {"sel": self.sel.weight, "idx": self.idx}

    def resize(self, stored: Mapping[str, Tensor]) -> None:
        """Reset to the stored columns if they differ from the current columns.

        Raises:
            InputError: See `check_columns`.
        """
        idx = stored.get("idx")
        if idx is None:
            return
        check_columns(f"{self.name}.idx", idx, self.in_features)
        if idx.tolist() != self.idx.tolist():
            self.begin(idx)

    def linears(self) -> dict[str, nn.Linear]:
        """Return the layer `sel`, or nothing without columns."""
        return {"sel": self.sel} if self.k else {}


def check_columns(name: str, idx: Tensor, in_features: int) -> None:
    """Raise InputError unless a file's columns are ascending indices of a weight's columns.

    Args:
        name: Name of the layer, for messages.
        idx: [k].
        in_features: Number of columns of the weight.

    Raises:
        InputError: They are not.
    """
    is_vector = idx.ndim == 1 and idx.dtype == torch.int64
    ascends = is_vector and bool((idx.diff() > 0).all())
    if not ascends or (len(idx) and not 0 <= idx[0] <= idx[-1] < in_features):
        raise InputError(
            f"{name}: columns must be a vector of integers from 0 to {in_features - 1} in "
            f"ascending order, got {idx.flatten()[:8].tolist()}, …"
        )


ADAPTER_FILE = "adapter.safetensors"
"""Name of the file with the tensors of the sites in a model directory."""


@dataclass(frozen=True)
class Units:
    """How the columns of one layer are grouped.

    Attributes:
        name: Name of the layer.
        count: Number of heads or channels.
        width: Columns per unit, which are contiguous.
        ratio: Share of all such units to train.
    """

    name: str
    count: int
    width: int
    ratio: float


COUPLED_TARGETS: tuple[tuple[str, str], ...] = (
    ("o_proj", "down_proj"),  # Llama, Mistral, Qwen, Gemma, Phi-3
    ("attention.output.dense", r".*\d\.output\.dense"),  # BERT, RoBERTa, ELECTRA, DeBERTa
    ("attention.dense", "ffn_output"),  # ALBERT
    ("attention.out_lin", "ffn.lin2"),  # DistilBERT
    ("attn.Wo", "mlp.Wo"),  # ModernBERT
    ("attention.dense", "dense_4h_to_h"),  # GPT-NeoX
    ("self_attention.dense", "dense_4h_to_h"),  # BLOOM, Falcon
    ("self_attn.out_proj", "fc2"),  # OPT, BART
    ("attn.c_proj", "mlp.c_proj"),  # GPT-2: recognised, then refused
)
"""Attention output projection and feed-forward down projection, whose columns are heads and
channels. The first matching pair wins."""


def is_attention_output(name: str) -> bool:
    """Return whether a dotted name is that of a known attention output projection."""
    return any(_is_named(name, pattern) for pattern, _ in COUPLED_TARGETS)


def _is_named(name: str, pattern: str) -> bool:
    return name == pattern or name.endswith(f".{pattern}") or bool(re.fullmatch(pattern, name))


def column_targets(model: nn.Module, config: S2FT) -> list[str]:
    """Return the names of the layers to select columns from, in module order.

    Raises:
        InputError: See `find_targets`; or all named layers have a ratio of 0.
    """
    patterns = config.target_modules
    if patterns is None:
        modules = dict(model.named_modules())
        known = (
            pair
            for pair in COUPLED_TARGETS
            if all(any(_is_named(name, pattern) for name in modules) for pattern in pair)
        )
        output, down = next(known, ("", ""))
        if not output:
            raise no_default(modules)
        ratios = {output: config.o_ratio, down: config.d_ratio}
        patterns = tuple(pattern for pattern, ratio in ratios.items() if ratio)
    names = find_targets(model, patterns, config.top_layers)
    kinds = {name: "o_ratio" if is_attention_output(name) else "d_ratio" for name in names}
    targets = [name for name, kind in kinds.items() if getattr(config, kind)]
    if not targets:
        kind = kinds[names[0]]
        raise InputError(f"{kind} is 0, and target_modules match no other layers: {names}")
    return targets


def units_at(model: nn.Module, names: Sequence[str], config: S2FT) -> list[Units]:
    """Return the units of linear layers, or of sites, with these names.

    Raises:
        InputError: The heads of an attention's output projection cannot be separated.
    """
    described: Any = getattr(model, "config", None)
    if hasattr(described, "get_text_config"):
        described = described.get_text_config()
    heads = getattr(described, "num_attention_heads", None)
    units = []
    for name in names:
        width = model.get_submodule(name).get_parameter("weight").shape[1]
        if not is_attention_output(name):
            units.append(Units(name, width, 1, config.d_ratio))
            continue
        if not isinstance(heads, int) or not heads or width % heads:
            raise InputError(
                f"{name}: its {width} inputs cannot be split into heads: the model's configuration "
                f"has num_attention_heads={heads}; choose other target_modules, or o_ratio=0"
            )
        units.append(Units(name, heads, width // heads, config.o_ratio))
    return units


def choose_columns(
    units: Sequence[Units],
    hosts: Mapping[str, Tensor],
    config: S2FT,
    generator: Generator,
    moments: Mapping[str, SecondMoment] | None = None,
) -> dict[str, Tensor]:
    """Return the columns to train of each layer, possibly none.

    Args:
        units: Units of each layer.
        hosts: Weights [out, in] by name of the layer.
        config: Options; any selection but `gradient`, which is of `begin_by_gradient`.
        generator: Source of randomness, on the CPU.
        moments: Second moments of the layers' inputs by name, for the selections `activation` and
            `product`.

    Raises:
        InputError: See `free_units`.
    """
    free = free_units(units, config)
    if config.selection == "random":
        draws = {unit.name: torch.rand(unit.count, generator=generator) for unit in units}
        return largest_units(units, draws, free=free)
    squares = {}
    for unit in units:
        norms = hosts[unit.name].detach().double().square().sum(0).cpu()
        if config.selection != "weight":
            inputs = (moments or {})[unit.name].matrix.diagonal()
            norms = inputs if config.selection == "activation" else inputs * norms
        squares[unit.name] = norms
    return largest_units(units, _scores(units, squares), largest=config.largest, free=free)


def begin_by_gradient(
    sites: Sequence[Columns], units: Sequence[Units], config: S2FT, backward: Callable[[], object]
) -> None:
    """Select the units whose columns have the largest loss gradient, and reset the sites to them.

    While `backward` runs, every column of the sites is trainable, which takes the memory of full
    fine-tuning of these layers.

    Args:
        sites: Sites to reset.
        units: Units of each site, in the same order.
        config: Options.
        backward: Accumulates the gradient of the loss, in any number of `backward()` calls.

    Raises:
        InputError: No gradient reaches a site, or it is not finite; see also `free_units`.
    """
    free = free_units(units, config)
    for site in sites:
        site.begin(torch.arange(site.in_features))
    backward()
    squares = {}
    for site in sites:
        gradient = site.sel.weight.grad
        if gradient is None:
            raise InputError(f"no gradient of the loss reaches the columns of {site.name}")
        squares[site.name] = gradient.double().square().sum(0).cpu()
    chosen = largest_units(units, _scores(units, squares), largest=config.largest, free=free)
    for site in sites:
        site.begin(chosen[site.name])


def backward(fit: Training, count: int) -> None:
    """Accumulate the loss gradient of a last layer fitted to the frozen features.

    The network's own last layer is still zero.

    Args:
        fit: A training whose network's sites change nothing yet.
        count: Maximal number of rows to run, evenly spread.
    """
    network, train = fit.network, fit.train
    rows = spread(len(train), count)
    pieces = batches(network.encoder, train, rows, _GRADIENT_BATCH)
    network.eval()
    with torch.no_grad():
        features = torch.cat([network.encoder(train.collate(piece)) for piece in pieces])
    states = unscaled(network.encoder, features)
    scale = states.values.double().square().sum(-1).mean().sqrt().float()
    labels = train.labels[[row for piece in pieces for row in piece]].to(features.device)
    scaled = Features(states.values / scale, labels, states.known)
    width, is_shared = states.values.shape[-1], states.values.ndim == 3
    head: Any = build_head(closed_form(), width, len(network.head.mean_weight), shared=is_shared)
    head.to(features.device).refit(scaled)
    weight: Tensor = head.mean_weight / scale
    with progress_bar("gradients", len(rows), shown=fit.plan.progress, unit="text") as advance:
        for piece in pieces:
            piece_states = unscaled(network.encoder, network.encoder(train.collate(piece)))
            logits = piece_states.logits(weight)
            truth = train.labels[piece].to(logits.device)
            loss = F.cross_entropy(logits, truth, reduction="sum") / len(rows)
            torch.autograd.backward(loss)
            advance(len(piece))


def free_units(units: Sequence[Units], config: S2FT) -> dict[str, Tensor] | None:
    """Return a mask [count] bool per layer of the units not in the models to avoid; None for all.

    Raises:
        InputError: A directory has no adapter of columns, or one for other or wider layers, or too
            few units are left.
    """
    if config.avoid is None:
        return None
    free = {unit.name: torch.ones(unit.count, dtype=torch.bool) for unit in units}
    for directory in config.avoid:
        is_known = False
        for name, idx in _columns_in(directory).items():
            for unit in units:
                if name == unit.name or name.endswith(f".{unit.name}"):
                    check_columns(f"avoid={directory!r}: {name}", idx, unit.count * unit.width)
                    free[unit.name][idx // unit.width] = False
                    is_known = True
        if not is_known:
            raise InputError(
                f"avoid={directory!r} changes none of the layers to select columns from, such as "
                f"{units[0].name}; was it fitted on another backbone?"
            )
    for ratio, kind in _kinds(units):
        num_free = sum(int(free[unit.name].sum()) for unit in kind)
        if num_free < (budget := _budget(ratio, kind)):
            heads = is_attention_output(kind[0].name)
            raise InputError(
                f"avoid={list(config.avoid)} leaves {num_free} of "
                f"{sum(unit.count for unit in kind)} {'heads' if heads else 'channels'}, but "
                f"{'o' if heads else 'd'}_ratio={ratio:g} needs {budget}"
            )
    return free


def _columns_in(directory: str) -> dict[str, Tensor]:
    """Return the columns that a saved model changes, by full name of the layer."""
    path = Path(directory) / ADAPTER_FILE
    try:
        with open_tensors(path) as file:
            names = [name for name in file.keys() if name.endswith(".idx")]  # noqa: SIM118
            columns = {name.removesuffix(".idx"): file.get_tensor(name) for name in names}
    except InputError as error:
        raise error.within(f"avoid={directory!r} is not a model directory") from None
    if not columns:
        raise InputError(
            f"avoid={directory!r} contains no adapter 's2ft', so there are no columns to avoid"
        )
    return columns


def largest_units(
    units: Sequence[Units],
    scores: Mapping[str, Tensor],
    *,
    largest: bool = True,
    free: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the columns of the units with the largest scores, with a budget per kind.

    A budget is a share of the units of all layers together, at least one. Ties go to the earlier
    unit.

    Args:
        units: Units of each layer.
        scores: [count] per layer.
        largest: Whether to take the largest scores instead of the smallest.
        free: Mask of the selectable units, [count] bool per layer; None for all.
    """
    chosen: dict[str, Tensor] = {}
    for ratio, kind in _kinds(units):
        merged = torch.cat([scores[unit.name].double() for unit in kind])
        order = merged.argsort(descending=largest, stable=True)
        if free is not None:
            order = order[torch.cat([free[unit.name] for unit in kind])[order]]
        taken = torch.zeros(len(merged), dtype=torch.bool)
        taken[order[: _budget(ratio, kind)]] = True
        parts = torch.split(taken, [unit.count for unit in kind])
        for unit, part in zip(kind, parts, strict=True):
            chosen[unit.name] = part.repeat_interleave(unit.width).nonzero()[:, 0]
    return {unit.name: chosen[unit.name] for unit in units}


def _budget(ratio: float, kind: Sequence[Units]) -> int:
    """Return the number of units of one kind to train."""
    return max(1, round(ratio * sum(unit.count for unit in kind)))


def _kinds(units: Sequence[Units]) -> list[tuple[float, list[Units]]]:
    """Return heads and channels separately, each with its ratio."""
    heads = [unit for unit in units if is_attention_output(unit.name)]
    channels = [unit for unit in units if not is_attention_output(unit.name)]
    return [(kind[0].ratio, kind) for kind in (heads, channels) if kind]


def _scores(units: Sequence[Units], squares: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the root of the sum over each unit's columns."""
    return {
        unit.name: squares[unit.name].view(unit.count, unit.width).sum(1).sqrt() for unit in units
    }
