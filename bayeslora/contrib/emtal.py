"""EMTAL: experts among hidden units, whose gate fades during LoRA training.

*Gate*: the up projection of a feed-forward network, gated by a router during training.

    ω = K · softmax(x Rᵀ / τ)              per token; the mean over the K experts is 1
    y = (x Wᵀ + b + s · x (B A)ᵀ) · (1 + f (ω_e − 1)),       e = expert of the unit

The gate acts on the pre-activation, including the bias, as published. In a gated network (SwiGLU)
the up projection is a factor of the input of the down projection, so that this input is gated. f
fades from 1 to 0 and is 0 in evaluation, where the layer is plain LoRA: the router has no effect on
predictions, merging or export. With R = 0 and B = 0 the initial change is zero.

Source: Zhong et al. 2024, arXiv 2501.06884.

*Experts* among the hidden units of a feed-forward network.

    X = rows of the up projection (of the gate in gated networks) [h, d], divided by their norms
    C = K of the rows
    repeat: labels = the assignment of h/K units to each expert that maximises Σ_j X_j · C_{label j}
            C = means of the experts' rows, until the labels converge

The published code sorts hidden units by expert, so that each expert is contiguous. The order of
hidden units is a symmetry of the network and irrelevant here: units keep their positions, and each
has an expert label. The weights remain the backbone's.

Source: Zhong et al. 2024, arXiv 2501.06884, section 3.2; balanced k-means as an assignment problem:
Malinen and Fränti 2014.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from bayeslora.adapters.base import Adapted, Layers, LowRankAdapter, StepHook
from bayeslora.adapters.lora import kaiming_zero
from bayeslora.adapters.low_rank import Factors, LowRank, check_rank
from bayeslora.adapters.site import Site, trained_layer
from bayeslora.adapters.targets import find_targets, split_at_layer
from bayeslora.errors import InputError, located
from bayeslora.option_checks import BelowOne, Count, NotNegative, OnlyWith, Positive, Texts, UpToOne


@dataclass(frozen=True)
class EMTAL(LowRankAdapter):
    """LoRA on attention and feed-forward layers, with a gate over experts that fades out.

    The hidden units of each feed-forward network are grouped into experts of equal size by their
    weights. While training, a router weighs the experts for each token; its influence is `fade`,
    1 at first, and 0 from `fade_to` on and in every evaluation. What is left is the dense network
    with plain LoRA.
    """

    name: ClassVar[str] = "emtal"
    has_dropout: ClassVar[bool] = True
    is_free: ClassVar[bool] = True
    summary: ClassVar[str] = (
        "LoRA with a gate over groups of hidden units that fades out in training"
    )
    use: ClassVar[str] = (
        "LoRA that includes feed-forward layers, guided by experts during training."
    )
    source: ClassVar[str] = "Zhong et al. 2024, arXiv 2501.06884"
    parameters: ClassVar[str] = "r (in + out) per layer; K in a router, unused after training"
    default_lr: ClassVar[float] = 1e-3
    input_dependent: ClassVar[str] = (
        "its router weights hidden units by token until it has faded out"
    )
    only_with: ClassVar[OnlyWith] = {}

    r: Count = 8
    alpha: Positive | None = None
    """The change is multiplied by `alpha / r`; None means `r`."""
    num_experts: Count = 16
    """Number K of experts per feed-forward network, a divisor of its hidden units; 1 is LoRA."""
    router_temperature: Positive = 5.0
    """Temperature τ of the router's softmax; a large value keeps the experts' weights near 1."""
    fade_from: UpToOne = 0.25
    """Share of the steps before the router starts to fade out."""
    fade_to: UpToOne = 0.75
    """Share of the steps after which its influence is 0; 0 trains without it."""
    init: Literal["gaussian", "zero"] = "zero"
    """`zero` starts from the pretrained network, with the second factor and the router at 0;
    `gaussian` draws both factors from N(0, 0.02²), as in the published code."""
    dropout: BelowOne = 0.0
    target_modules: Texts | None = None
    """Endings of dotted module names, or regular expressions for whole names, of layers with LoRA
    besides the feed-forward layers; None means all other linear layers of the same transformer
    layers, which are those of the attention."""
    num_layers: Layers = "auto"
    lr: Positive | None = None
    """Learning rate of AdamW on factors and router; None means {default_lr}."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of factors and router."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fade_to < self.fade_from:
            raise InputError(
                f"fade_to must be at least fade_from = {self.fade_from!r}, got {self.fade_to!r}"
            )

    def fade(self, share: float) -> float:
        """Return the router's influence, from 1 to 0, after a share of the training steps."""
        if share >= self.fade_to:
            return 0.0
        if share <= self.fade_from:
            return 1.0
        return (self.fade_to - share) / (self.fade_to - self.fade_from)

    def targets(self, model: nn.Module) -> list[str]:
        """Return the layers to adapt; see `emtal.expert_targets`."""
        return expert_targets(model, self)

    def start(self, weight: Tensor, generator: Generator) -> Factors:
        """Return LoRA's initial factors, or those of the published code."""
        out_features, in_features = weight.shape
        begin = gaussian if self.init == "gaussian" else kaiming_zero
        return begin(out_features, in_features, self.r, generator)

    def make_sites(
        self,
        model: nn.Module,
        hosts: Mapping[str, nn.Linear],
        generator: Generator,
        *,
        blank: bool = False,
    ) -> list[Site]:
        """Return a `LowRank` for each layer, gated if its outputs are hidden units.

        Raises:
            InputError: `num_experts` does not divide the hidden units, or the rank is too large.
        """
        blocks = {block.up: block for block in find_ffns(model) if block.up in hosts}
        for block in blocks.values():
            check_divides(hosts[block.up].out_features, self.num_experts, block.up)
        return expert_sites(self, hosts, blocks, generator, blank=blank)

    def callbacks(self, network: Adapted) -> Sequence[StepHook]:
        """Return the callback that sets the router's influence before each step."""
        return [Fading(self, network.sites)]


LAYOUTS: tuple[tuple[str, str, str | None], ...] = (
    ("up_proj", "down_proj", "gate_proj"),  # Llama, Mistral, Qwen, Gemma
    ("intermediate.dense", "output.dense", None),  # BERT, RoBERTa, ELECTRA, DeBERTa, MPNet, ViT
    ("ffn", "ffn_output", None),  # ALBERT
    ("lin1", "lin2", None),  # DistilBERT
    ("dense_h_to_4h", "dense_4h_to_h", None),  # GPT-NeoX, BLOOM, Falcon
    ("fc1", "fc2", None),  # OPT, BART, DINOv2
    ("wi_1", "wo", "wi_0"),  # T5 1.1
    ("wi", "wo", None),  # T5
)
"""Name suffixes of the up, down and, in gated networks, gate projection of one parent module."""

_MOST_ROUNDS = 30


@dataclass(frozen=True)
class FFN:
    """A feed-forward network by the dotted names of its layers.

    Attributes:
        up: Its outputs are the hidden units, before the activation or the gate.
        down: Its inputs are the hidden units.
        gate: The gate projection of a gated network, or None.
    """

    up: str
    down: str
    gate: str | None

    @property
    def deciding(self) -> str:
        """The layer whose rows are clustered: in gated networks the gate, which activates units."""
        return self.up if self.gate is None else self.gate

    @property
    def names(self) -> tuple[str, ...]:
        """All of its layers."""
        return (self.up, self.down) if self.gate is None else (self.gate, self.up, self.down)


def find_ffns(model: nn.Module) -> list[FFN]:
    """Return the feed-forward networks whose hidden units are the outputs of a linear layer.

    Networks whose gate and up projection share a matrix are excluded.
    """
    sizes = {
        name: tuple(module.get_parameter("weight").shape)
        for name, module in model.named_modules()
        if hasattr(module, "weight") and isinstance(module.weight, nn.Parameter)
    }
    blocks = []
    for up, down, gate in LAYOUTS:
        for name, size in sizes.items():
            stem = name.removesuffix(up)
            if not name.endswith(f".{up}") or stem + down not in sizes:
                continue
            block = FFN(name, stem + down, None if gate is None else stem + gate)
            shapes = {sizes.get(layer) for layer in block.names[:-1]}
            if shapes == {size} and sizes[block.down] == size[::-1]:
                blocks.append(block)
    return blocks


def expert_targets(model: nn.Module, config: EMTAL) -> list[str]:
    """Return the layers to adapt: those of the feed-forward networks and further targets.

    Raises:
        InputError: There is no such network, or `target_modules` is invalid.
    """
    blocks = [block for block in find_ffns(model) if split_at_layer(block.up) is not None]
    if not blocks:
        raise InputError(
            "adapter 'emtal' needs feed-forward networks with a separate linear layer for the "
            "hidden units (as in BERT, ViT, Llama, OPT, GPT-NeoX), and this backbone has no "
            f"supported one{_fused(model)}; choose 'lora' or 'polar'"
        )
    ffn_layers = [name for block in blocks for name in block.names]
    extra = config.target_modules
    if extra is None:
        layers = {split_at_layer(name) for name in ffn_layers}
        extra = tuple(
            name
            for name, module in model.named_modules()
            if type(module) is nn.Linear and split_at_layer(name) in layers
        )
    return find_targets(model, [*dict.fromkeys([*ffn_layers, *extra])], config.top_layers)


def _fused(model: nn.Module) -> str:
    """Return a note on a layer that looks like a fused gate and up projection, for a message."""
    ends = ("gate_up_proj", "mlp.Wi", "c_fc")
    names = [name for name, _ in model.named_modules() if name.endswith(ends)]
    return f" ({names[0]} has another layout)" if names else ""


def check_divides(num_units: int, num_experts: int, name: str) -> None:
    """Raise InputError if experts cannot have equal numbers of hidden units.

    Raises:
        InputError: `num_experts` does not divide `num_units`.
    """
    if num_units % num_experts:
        divisors = [k for k in range(2, min(num_units, 65)) if num_units % k == 0]
        raise InputError(
            f"num_experts must divide the {num_units} hidden units of {name}, got {num_experts}; "
            f"for example {', '.join(map(str, divisors)) or 1}"
        )


def balanced_clusters(
    rows: NDArray[np.float64], num_clusters: int, seed: int = 0
) -> NDArray[np.int64]:
    """Return the cluster [h] of each of h rows, with clusters of equal size.

    Args:
        rows: [h, d]; only their directions matter.
        num_clusters: K, a divisor of h.
        seed: Seed for the initial centres.
    """
    count, _ = rows.shape
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    X = rows / np.maximum(norms, np.finfo(np.float64).tiny)
    size = count // num_clusters
    centres = X[np.random.default_rng(seed).choice(count, num_clusters, replace=False)]
    labels = np.full(count, -1, dtype=np.int64)
    for _ in range(_MOST_ROUNDS):
        # One column for each place in a cluster: an assignment fills all of them.
        gains = np.repeat(X @ centres.T, size, axis=1)
        new_labels = linear_sum_assignment(gains, maximize=True)[1] // size
        if np.array_equal(new_labels, labels):
            break
        labels = new_labels
        centres = np.stack([X[labels == k].mean(0) for k in range(num_clusters)])
    return labels


logger = logging.getLogger(__name__)

_SD = 0.02
_SEED = 0
"""Seed of the clusters, which members of an ensemble share, as they share the weights."""


class GatedUnits(LowRank):
    """An up projection with LoRA, whose units a router weights by expert.

    Attributes:
        router: R [K, in], trained; without effect at `fade` 0.
        experts: [h] int64, the expert of each unit.
        temperature: τ.
        fade: The router's influence f during training, from 1 to 0.
        largest: Largest |f (ω − 1)| of the last gated pass.

    Args:
        name: Dotted path of the replaced layer in its host.
        host: The layer to replace, with h outputs.
        factors: Initial factors.
        config: Scale, dropout, experts and temperature.
        router: [K, in], initial router.
        experts: [h] int64.
    """

    experts: Tensor

    def __init__(
        self,
        name: str,
        host: nn.Linear,
        factors: Factors,
        config: EMTAL,
        *,
        router: Tensor,
        experts: Tensor,
    ) -> None:
        super().__init__(name, host, factors, config.scale, config.dropout)
        self.router = trained_layer(router, host.weight.device)
        self.temperature = config.router_temperature
        self.register_buffer("experts", experts.to(host.weight.device))
        self.largest = torch.zeros(())
        self.fade = 0.0

    @property
    def num_experts(self) -> int:
        """K."""
        return self.router.out_features

    def weights(self, x: Tensor) -> Tensor:
        """Return ω [..., K], with mean 1, for inputs [..., in]."""
        logits: Tensor = self.router(x.to(self.router.weight.dtype)) / self.temperature
        shares: Tensor = logits.softmax(-1)
        return self.num_experts * shares

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., h] in the frozen layer's precision, gated only during training."""
        y = super().forward(x)
        if not self.training or self.fade == 0:
            return y
        # In this form the gate is exactly 1 if ω is 1.
        excess = self.fade * (self.weights(x) - 1)
        self.largest = excess.detach().abs().max()
        # A one-hot product is as exact as indexing and has a cheaper gradient.
        chosen = F.linear(excess, F.one_hot(self.experts, self.num_experts).to(excess))
        return y * (1 + chosen).to(y.dtype)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the factors and the router; `linears()` has only the factors."""
        return {**super().trainable(), "router": self.router.get_parameter("weight")}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save, including the experts."""
        return {**super().tensors(), "experts": self.experts}


def expert_sites(
    config: EMTAL,
    hosts: Mapping[str, nn.Linear],
    blocks: Mapping[str, FFN],
    generator: Generator,
    *,
    blank: bool,
) -> list[Site]:
    """Return the adapted layers.

    Args:
        config: Options.
        hosts: The linear layers to adapt, by their dotted names.
        blocks: Feed-forward networks by the name of their up projection.
        generator: Source of randomness, on the CPU.
        blank: Whether to skip the clustering because tensors will be loaded.

    Raises:
        InputError: The rank exceeds a layer's size.
    """
    sites: list[Site] = []
    for name, host in hosts.items():
        with located(name):
            factors = config.start(host.weight, generator)
        if name not in blocks:
            sites.append(LowRank(name, host, factors, config.scale, config.dropout))
            continue
        experts = torch.zeros(host.out_features, dtype=torch.int64)
        if not blank:
            deciding = hosts[blocks[name].deciding].weight.detach().double().cpu().numpy()
            experts = torch.from_numpy(balanced_clusters(deciding, config.num_experts, _SEED))
        router = _router(config, host.in_features, generator)
        sites.append(GatedUnits(name, host, factors, config, router=router, experts=experts))
    return sites


def _router(config: EMTAL, in_features: int, generator: Generator) -> Tensor:
    shape = (config.num_experts, in_features)
    if config.init == "zero":
        return torch.zeros(shape)
    # The initialisation of nn.Linear, as for the published router.
    start: Tensor = (2 * torch.rand(shape, generator=generator) - 1) / in_features**0.5
    return start


def gaussian(out_features: int, in_features: int, r: int, generator: Generator) -> Factors:
    """Return the published initial factors: both from N(0, 0.02²), with a small initial change.

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    check_rank(out_features, in_features, r)
    A = _SD * torch.randn(r, in_features, generator=generator)
    B = _SD * torch.randn(out_features, r, generator=generator)
    return Factors(A, B, None, orthonormal=False)


class Fading(StepHook):
    """Sets the router's influence before each step, as a function of the step alone."""

    def __init__(self, config: EMTAL, sites: Sequence[Site]) -> None:
        """Select the gated sites."""
        self._config = config
        self._gated = [site for site in sites if isinstance(site, GatedUnits)]

    def before_step(self, step: int, num_steps: int, optimizer: Optimizer) -> None:
        """Set the influence of this step; log when the router has faded."""
        fade = self._config.fade(step / num_steps)
        previous = self._gated[0].fade
        for site in self._gated:
            site.fade = fade
        if previous > 0 and fade == 0:
            largest = max(float(site.largest) for site in self._gated)
            logger.info(
                "the router has faded out after %d of %d steps; in its last step it changed "
                "hidden units by at most %.2g of their value",
                step,
                num_steps,
                largest,
            )

    def finish(self) -> None:
        """Turn the gate off."""
        for site in self._gated:
            site.fade = 0.0
