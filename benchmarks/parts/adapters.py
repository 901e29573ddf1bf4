"""PoLAR and LoRA with other starts, rates, steps and averages than those of the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import TrainerCallback

from bayeslora.adapters.base import Adapted, TrainingRows
from bayeslora.adapters.factors import Factors
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.low_rank import LowRank
from bayeslora.adapters.optimizers import manifold_parameters
from bayeslora.adapters.polar.options import PoLAR
from bayeslora.adapters.polar.riemannian import RiemannianAdamW
from bayeslora.adapters.polar.stiefel import polar_retraction
from bayeslora.adapters.site import Site
from bayeslora.posteriors.types import LastLayer
from benchmarks.label_budget.gradient_start import gradient_factors, gradients

Average = Literal["none", "epoch", "ema"]
_ROWS, _DECAY, _MOMENTUM = 1000, 0.95, 0.95


@dataclass(frozen=True)
class PoLARVariant(PoLAR):
    """PoLAR with another start, other rates, another step of the core, or averaged changes.

    Attributes:
        start_from: `gradient`: directions of the loss gradient (Wang, Yu & Li 2024, arXiv
            2407.05000). `eva`: input directions of most variance (Paischer et al. 2024, arXiv
            2410.07170). `changes`: those in `changes`.
        factor_rate: Learning rate of X and Y as a share of that of Θ.
        spectral: Whether Θ steps along the polar factor of its momentum (Jordan et al. 2024).
        average: Whether the changes of the last epoch, or an exponential average over all steps,
            replace the final ones.
    """

    start_from: Literal["random", "gradient", "eva", "changes"] = "random"
    factor_rate: float = 1.0
    spectral: bool = False
    average: Average = "none"
    name: ClassVar[str] = "polar_variant"
    summary: ClassVar[str] = "PoLAR with parts of its training exchanged"
    changes: ClassVar[Mapping[str, Tensor]] = {}

    @property
    def starts_from_rows(self) -> bool:
        """Return whether anything is exchanged at the start."""
        return self.start_from != "random"

    def begin(self, rows: TrainingRows) -> None:
        """Initialise every site."""
        sites = [cast(LowRank, site) for site in rows.sites]
        if self.start_from == "gradient":
            weight_gradients = gradients(sites, lambda: rows.backward(_ROWS))
            starts = [gradient_factors(gradient, self.r) for gradient in weight_gradients]
        elif self.start_from == "eva":
            moments = rows.moments(_ROWS)
            starts = [eva_factors(site, moments[site.name].matrix) for site in sites]
        else:
            starts = [orthonormal_factors(self.changes[site.name], site) for site in sites]
        for site, factors in zip(sites, starts, strict=True):
            site.begin(factors)

    def manifold_optimizer(self, sites: Sequence[Site]) -> Optimizer:
        """Return the optimiser of X and Y; with `spectral`, it steps Θ, too."""
        make = SpectralCores if self.spectral else RiemannianAdamW
        options: dict[str, Any] = {
            "lr": self.factor_rate * self.learning_rate,
            "max_rotation": self.max_rotation,
        }
        if self.spectral:
            options["cores"] = [site.trainable()["core"] for site in sites]
        return make(manifold_parameters(sites), **options)

    def callbacks(self, network: Adapted) -> Sequence[TrainerCallback]:
        """Return what averages."""
        return averaging(network, self.average)


@dataclass(frozen=True)
class LoRAVariant(LoRA):
    """LoRA with averaged changes."""

    average: Average = "none"
    name: ClassVar[str] = "lora_variant"
    summary: ClassVar[str] = "LoRA with averaged changes"

    def callbacks(self, network: Adapted) -> Sequence[TrainerCallback]:
        """Return what averages."""
        return averaging(network, self.average)


class SpectralCores(RiemannianAdamW):
    """Riemannian AdamW on the factors, after a spectral step of the cores.

        m ← .95 m + G,   Θ ← Θ − η √r · polar factor of (G + .95 m)

    A step's root mean square entry is η, as in Adam. AdamW steps the cores before; here they are
    put back to where they were.
    """

    def __init__(
        self, params: Sequence[nn.Parameter], *, cores: Sequence[nn.Parameter], **options: Any
    ) -> None:
        super().__init__(params, **options)
        self._cores = list(cores)
        self._before = [core.detach().clone() for core in cores]
        self._momentum = [torch.zeros_like(core) for core in cores]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step the cores, then the factors."""
        rate = self.param_groups[0]["lr"]
        for core, before, momentum in zip(self._cores, self._before, self._momentum, strict=True):
            core.copy_(before)
            if core.grad is not None:
                momentum.mul_(_MOMENTUM).add_(core.grad)
                direction = polar_retraction((core.grad + _MOMENTUM * momentum)[None])[0]
                core.sub_(rate * len(core) ** 0.5 * direction)
            before.copy_(core)
        return super().step(closure)


def eva_factors(site: LowRank, moment: Tensor) -> Factors:
    """Return factors whose input directions are the leading eigenvectors of a second moment.

    Args:
        site: Layer whose random output directions are kept.
        moment: [in, in], the mean of x xᵀ.
    """
    directions = torch.linalg.eigh(moment.double())[1][:, -site.r :].flip(1)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))[0]
    directions = directions * torch.where(largest < 0, -1.0, 1.0).to(directions)
    output = site.B.weight.detach().clone()
    return Factors(directions.T.float(), output, torch.zeros(site.r, site.r), orthonormal=True)


def weight_change(site: LowRank) -> Tensor:
    """Return s·B·core·A, [out, in] float64."""
    A, B = site.change(torch.float64)
    return site.scale * (B @ A).detach()


def orthonormal_factors(change: Tensor, site: LowRank) -> Factors:
    """Return factors of the change nearest to a given one: exact up to rank r.

    Args:
        change: [out, in].
        site: Layer with orthonormal factors around a core.
    """
    U, S, Vh = torch.linalg.svd(change.double(), full_matrices=False)
    core = torch.diag(S[: site.r] / site.scale)
    return Factors(Vh[: site.r].float(), U[:, : site.r].float(), core.float(), orthonormal=True)


def free_factors(change: Tensor, site: LowRank) -> Factors:
    """Return LoRA's factors of the change nearest to a given one: exact up to rank r."""
    U, S, Vh = torch.linalg.svd(change.double(), full_matrices=False)
    roots = (S[: site.r] / site.scale).sqrt()
    A, B = roots[:, None] * Vh[: site.r], U[:, : site.r] * roots
    return Factors(A.float(), B.float(), None, orthonormal=False)


def set_changes(sites: Sequence[LowRank], changes: Sequence[Tensor]) -> None:
    """Give every site the change of rank r nearest to a given one, [out, in]."""
    for site, change in zip(sites, changes, strict=True):
        make = orthonormal_factors if site.orthonormal else free_factors
        site.begin(make(change, site))


def averaging(network: Adapted, average: Average) -> Sequence[TrainerCallback]:
    """Return the callback that averages, if any is asked for."""
    return [] if average == "none" else [Averaging(network, average)]


class Averaging(TrainerCallback):
    """At the end of training, sets every change and the head's means to averages over steps.

        ΔW̄ = Σ_t a_t ΔW_t,   a_t equal over the last epoch, or ∝ .95^(T−t) over all steps

    The average of changes, not of factors: factors of one change are not unique. Its leading part
    of rank r is kept.
    """

    def __init__(self, network: Adapted, average: Average) -> None:
        self._sites = [cast(LowRank, site) for site in network.sites]
        self._head = cast(LastLayer, cast(Any, network).head)
        self._decay = _DECAY if average == "ema" else 1.0
        self._over_last_epoch = average == "epoch"
        self._weight = 0.0
        self._changes: list[Tensor] = []
        self._mean = torch.zeros(())

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the state after a step."""
        every = state.max_steps // round(args.num_train_epochs)
        if self._over_last_epoch and state.global_step <= state.max_steps - every:
            return
        changes = [weight_change(site) for site in self._sites]
        self._weight = self._decay * self._weight + 1.0
        share = 1.0 / self._weight
        mean = self._head.trained_mean.double()
        if not self._changes:
            self._changes, self._mean = changes, mean.clone()
            return
        for total, change in zip(self._changes, changes, strict=True):
            total.lerp_(change, share)
        self._mean.lerp_(mean, share)

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Replace the last state by the averages."""
        set_changes(self._sites, self._changes)
        self._head.set_mean(self._mean.to(self._head.trained_mean))
