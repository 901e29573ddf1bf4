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

u are the columns of one unit: the columns of a head in the attention's output projection, or the
column of a feed-forward channel. Queries, keys and values stay unchanged, so with grouped queries a
head is trained independently of its group.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from bayeslora.adapters.base import Adapter, Layers
from bayeslora.adapters.site import Site, trained_layer
from bayeslora.adapters.targets import find_targets, no_default
from bayeslora.contrib.moments import moments_on
from bayeslora.engine.training import Training
from bayeslora.errors import InputError
from bayeslora.option_checks import Count, NotNegative, Positive, Texts, UpToOne

LEARNED = ("activation", "product")
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
    use: ClassVar[str] = "Training single heads and channels."
    source: ClassVar[str] = "Yang et al. 2024, arXiv 2412.06289"
    default_lr: ClassVar[float] = 1e-2
    o_ratio: UpToOne = 0.052
    """Share of the attention heads to train, at least one; 0 leaves attention unchanged."""
    d_ratio: UpToOne = 0.02
    """Share of the feed-forward channels to train, at least one; 0 leaves them unchanged."""
    selection: Literal["activation", "product", "random", "weight"] = "random"
    """Selection of heads and channels: `random`; or by the norm of the columns (`weight`), of their
    inputs on training rows (`activation`), or of both together (`product`)."""
    largest: bool = True
    """Whether to select the largest norms; otherwise the smallest."""
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

    def begin(self, fit: Training) -> None:
        """Select the columns of the sites by training rows."""
        network = fit.network
        sites = [cast("Columns", site) for site in network.sites]
        units = units_at(network.encoder.model, [site.name for site in sites], self)
        moments = moments_on(network, fit.train, self.context_rows, shown=fit.plan.progress)
        weights: dict[str, Tensor] = {site.name: site.weight for site in sites}
        chosen = choose_columns(units, weights, self, torch.Generator(), moments)
        for site in sites:
            site.begin(chosen[site.name])


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
        """Reset to the stored columns if they differ from the current columns."""
        idx = stored.get("idx")
        if idx is not None and idx.tolist() != self.idx.tolist():
            self.begin(idx)

    def linears(self) -> dict[str, nn.Linear]:
        """Return the layer `sel`, or nothing without columns."""
        return {"sel": self.sel} if self.k else {}


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
    """Return the units of linear layers, or of sites, with these names."""
    units = []
    for name in names:
        width = model.get_submodule(name).get_parameter("weight").shape[1]
        if not is_attention_output(name):
            units.append(Units(name, width, 1, config.d_ratio))
            continue
        heads = cast("Any", model).config.get_text_config().num_attention_heads
        units.append(Units(name, heads, width // heads, config.o_ratio))
    return units


def choose_columns(
    units: Sequence[Units],
    hosts: Mapping[str, Tensor],
    config: S2FT,
    generator: Generator,
    moments: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the columns to train of each layer, possibly none.

    Args:
        units: Units of each layer.
        hosts: Weights [out, in] by name of the layer.
        config: Options.
        generator: Source of randomness, on the CPU.
        moments: Second moments of the layers' inputs by name, for the selections `activation` and
            `product`.
    """
    if config.selection == "random":
        draws = {unit.name: torch.rand(unit.count, generator=generator) for unit in units}
        return largest_units(units, draws)
    scores = {}
    for unit in units:
        norms = hosts[unit.name].detach().double().square().sum(0).cpu()
        if config.selection != "weight":
            inputs = (moments or {})[unit.name].diagonal()
            norms = inputs if config.selection == "activation" else inputs * norms
        scores[unit.name] = norms.view(unit.count, unit.width).sum(1).sqrt()
    return largest_units(units, scores, largest=config.largest)


def largest_units(
    units: Sequence[Units], scores: Mapping[str, Tensor], *, largest: bool = True
) -> dict[str, Tensor]:
    """Return the columns of the units with the largest scores, with a budget per kind.

    A budget is a share of the units of all layers together, at least one. Ties go to the earlier
    unit.

    Args:
        units: Units of each layer.
        scores: [count] per layer.
        largest: Whether to take the largest scores instead of the smallest.
    """
    chosen: dict[str, Tensor] = {}
    for ratio, kind in _kinds(units):
        merged = torch.cat([scores[unit.name].double() for unit in kind])
        order = merged.argsort(descending=largest, stable=True)
        taken = torch.zeros(len(merged), dtype=torch.bool)
        taken[order[: max(1, round(ratio * len(merged)))]] = True
        parts = torch.split(taken, [unit.count for unit in kind])
        for unit, part in zip(kind, parts, strict=True):
            chosen[unit.name] = part.repeat_interleave(unit.width).nonzero()[:, 0]
    return {unit.name: chosen[unit.name] for unit in units}


def _kinds(units: Sequence[Units]) -> list[tuple[float, list[Units]]]:
    """Return heads and channels separately, each with its ratio."""
    heads = [unit for unit in units if is_attention_output(unit.name)]
    channels = [unit for unit in units if not is_attention_output(unit.name)]
    return [(kind[0].ratio, kind) for kind in (heads, channels) if kind]
