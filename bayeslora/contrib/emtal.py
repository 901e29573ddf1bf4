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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy, kl_div, one_hot
from torch.optim import Optimizer

from bayeslora.adapters.base import Layers, LowRankAdapter, StepHook
from bayeslora.adapters.lora import kaiming_zero
from bayeslora.adapters.low_rank import Factors, LowRank
from bayeslora.adapters.site import Site, trained_layer
from bayeslora.adapters.targets import find_targets, split_at_layer
from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import Examples, union, union_classes
from bayeslora.data.read import read
from bayeslora.engine.data import TrainingData
from bayeslora.engine.training import Training
from bayeslora.errors import InputError, located
from bayeslora.logits import ABSENT
from bayeslora.option_checks import BelowOne, Count, NotNegative, Positive, Texts, UpToOne
from bayeslora.posteriors.types import Features


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
    default_lr: ClassVar[float] = 1e-3
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
    quality_retaining: Literal["none", "mean"] = "none"
    """A loss that keeps logits near recent ones of their class; its weight grows as the loss of the
    row's task falls, so that a task that is learnt waits for the others. `mean` keeps a running
    mean of the logits of each class's correctly predicted rows."""
    momentum: BelowOne = 0.9
    """Share of the stored logits of a class that is kept when rows of the class are seen."""
    temperature: Positive = 2.0
    """Temperature T, by which logits are divided where they are compared."""
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

    def refuses(self, posterior: Any) -> str:
        """Refuse posteriors over factors while they train."""
        if posterior.over_factors and posterior.from_start:
            return "weights hidden units by token until its router has faded out"
        return super().refuses(posterior)

    def settled(self, data: TrainingData) -> Self:
        """Refuse the loss of `quality_retaining` for questions, whose options are not classes."""
        if self.quality_retaining != "none" and data.rows.choices is not None:
            raise InputError(
                "quality_retaining keeps rows near others of their class, but the options of a "
                "question are not classes; leave it out"
            )
        return self

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
        """Return LoRA's initial factors."""
        out_features, in_features = weight.shape
        return kaiming_zero(out_features, in_features, self.r, generator)

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
        for name in blocks:
            num_units = hosts[name].out_features
            if num_units % self.num_experts:
                raise InputError(
                    f"num_experts must divide the {num_units} hidden units of {name}, got "
                    f"{self.num_experts}"
                )
        sites: list[Site] = []
        for name, host in hosts.items():
            with located(name):
                factors = self.start(host.weight, generator)
            if name not in blocks:
                sites.append(LowRank(name, host, factors, self.scale, self.dropout))
                continue
            experts = torch.zeros(host.out_features, dtype=torch.int64)
            if not blank:
                # In gated networks the gate's rows, which activate units.
                deciding = hosts[blocks[name].gate or name].weight.detach().double().cpu().numpy()
                experts = torch.from_numpy(balanced_clusters(deciding, self.num_experts, _SEED))
            sites.append(GatedUnits(name, host, factors, self, experts))
        return sites

    def hooks(self, fit: Training) -> Sequence[StepHook]:
        """Return the schedule of the router's influence, and the quality-retaining loss."""
        fading: list[StepHook] = [Fading(self, fit.network.sites)]
        return fading if self.quality_retaining == "none" else [*fading, Retained.of(self, fit)]


def across_tasks(parts: Mapping[str, Any]) -> Examples:
    """Return the rows of several tasks as one, to be classified among the classes of all of them.

    This is the published form; predictions then need no task. Classes are called `task: class`.

    Args:
        parts: Labelled data by the name of the task.

    Raises:
        InputError: A task has fewer than two classes, or the rows are of several kinds.
    """
    rows = {task: read(data, DataColumns(), labels="required") for task, data in parts.items()}
    union_classes(rows)
    return union(rows)


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
            "supported one; choose 'lora' or 'polar'"
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


_SEED = 0
"""Seed of the clusters, which members of an ensemble share, as they share the weights."""


class GatedUnits(LowRank):
    """An up projection with LoRA, whose units a router weights by expert.

    Attributes:
        router: R [K, in], trained; without effect at `fade` 0.
        experts: [h] int64, the expert of each unit.
        temperature: τ.
        fade: The router's influence f during training, from 1 to 0.

    Args:
        name: Dotted path of the replaced layer in its host.
        host: The layer to replace, with h outputs.
        factors: Initial factors.
        config: Scale, dropout, number of experts and temperature.
        experts: [h] int64.
    """

    experts: Tensor

    def __init__(
        self, name: str, host: nn.Linear, factors: Factors, config: EMTAL, experts: Tensor
    ) -> None:
        super().__init__(name, host, factors, config.scale, config.dropout)
        router = torch.zeros(config.num_experts, host.in_features)
        self.router = trained_layer(router, host.weight.device)
        self.temperature = config.router_temperature
        self.register_buffer("experts", experts.to(host.weight.device))
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
        # A one-hot product is as exact as indexing and has a cheaper gradient.
        chosen = F.linear(excess, F.one_hot(self.experts, self.num_experts).to(excess))
        return y * (1 + chosen).to(y.dtype)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the factors and the router; `linears()` has only the factors."""
        return {**super().trainable(), "router": self.router.get_parameter("weight")}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save, including the experts."""
        return {**super().tensors(), "experts": self.experts}


class Fading(StepHook):
    """Sets the router's influence before each step, as a function of the step alone."""

    def __init__(self, config: EMTAL, sites: Sequence[Site]) -> None:
        """Select the gated sites."""
        self._config = config
        self._gated = [site for site in sites if isinstance(site, GatedUnits)]

    def before_step(self, step: int, num_steps: int, optimizer: Optimizer) -> None:
        """Set the influence of this step."""
        for site in self._gated:
            site.fade = self._config.fade(step / num_steps)

    def finish(self) -> None:
        """Turn the gate off."""
        for site in self._gated:
            site.fade = 0.0


_KEPT = 0.95
_FIRST_LOSS = _LARGEST = 10.0
"""ℓ before the first step, and the upper limit of 1 / ℓ."""


class Retained(StepHook):
    """Recent logits of each class and the running loss of each task: the quality-retaining loss.

    L = CE + mean_s w_t T² KL( softmax(Z_{y_s} / T) ‖ softmax(z_s / T) )
    w_t = min(1 / ℓ_t, 10),  ℓ_t ← .95 ℓ_t + .05 CE_t,  loss of the row's task, initially 10
    Z_c ← m Z_c + (1 − m) mean of z over the batch's correctly predicted rows of class c

    Z and ℓ have no gradient; a class without Z contributes nothing. The logits are those of the
    last layer's mean weights, and the loss trains the adapter alone: the last layer follows by its
    own objective with an unchanged likelihood.

    Source: Zhong et al. 2024, arXiv 2501.06884, section 3.3.

    Attributes:
        logits: Z [C, C], float32.
        known: [C] bool, which rows of Z are set.
        losses: ℓ [T], nats.
    """

    def __init__(self, options: EMTAL, task_of: Tensor) -> None:
        """Initialise without logits.

        Args:
            options: Options of the loss.
            task_of: [C] int64, the task of each class, from 0.
        """
        classes = len(task_of)
        self._options = options
        self._task_of = task_of
        device = task_of.device
        self.logits = torch.zeros(classes, classes, device=device)
        self.known = torch.zeros(classes, dtype=torch.bool, device=device)
        self.losses = torch.full((int(task_of.max()) + 1,), _FIRST_LOSS, device=device)

    @classmethod
    def of(cls, options: EMTAL, fit: Training) -> Retained:
        """Return the loss of a training."""
        sizes = torch.tensor([*fit.tasks.values()] or [len(fit.network.head.mean_weight)])
        task_of = torch.arange(len(sizes)).repeat_interleave(sizes)
        return cls(options, task_of.to(fit.network.feature_scale.device))

    def loss(self, rows: Features, weight: Tensor) -> Tensor:
        """Return the loss of a batch under mean weights [C, d], and update the state with it."""
        logits = rows.to(torch.float32).logits(weight.float())
        penalty = self.penalty(logits, rows.targets)
        self.see(logits, rows.targets)
        return penalty

    def penalty(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean penalty over rows, in nats, for leaving the logits of their class.

        Args:
            logits: [B, C], with a graph; `ABSENT` for classes of other tasks.
            labels: [B] int64.
        """
        T = self._options.temperature
        absent = logits <= ABSENT / 2
        targets = self.logits[labels].masked_fill(absent, ABSENT)
        expected, log_probs = ((values / T).log_softmax(-1) for values in (targets, logits))
        divergences = kl_div(log_probs, expected, log_target=True, reduction="none").sum(-1)
        weight = (1 / self.losses[self._task_of[labels]]).clamp_max(_LARGEST)
        row_losses: Tensor = weight * T**2 * divergences * self.known[labels]
        return row_losses.mean()

    @torch.no_grad()
    def see(self, logits: Tensor, labels: Tensor) -> None:
        """Update the running losses, and then the classes' logits, from a batch's logits [B, C]."""
        tasks = one_hot(self._task_of[labels], len(self.losses)).to(logits)
        counts = tasks.sum(0)
        sums = tasks.T @ cross_entropy(logits, labels, reduction="none")
        means = sums / counts.clamp_min(1)
        moved = _KEPT * self.losses + (1 - _KEPT) * means
        self.losses = torch.where(counts > 0, moved, self.losses)
        is_right = (logits.argmax(1) == labels)[:, None]
        members = one_hot(labels, len(self.logits)).to(logits) * is_right
        counts = members.sum(0)
        means = (members.T @ logits) / counts.clamp_min(1)[:, None]
        m = self._options.momentum
        seen = counts > 0
        moved = torch.where(self.known[:, None], m * self.logits + (1 - m) * means, means)
        self.logits = torch.where(seen[:, None], moved, self.logits)
        self.known = self.known | seen

    def state(self) -> dict[str, Tensor]:
        """Return the tensors for a checkpoint."""
        return {"logits": self.logits, "known": self.known, "losses": self.losses}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        device = self._task_of.device
        self.logits, self.known, self.losses = (
            state[name].to(device) for name in ("logits", "known", "losses")
        )
