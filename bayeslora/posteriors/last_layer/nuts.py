"""The exact posterior of a softmax last layer by Markov chains: the reference for the others.

    p(W | D) ∝ Π_n softmax(W φ_n)_{y_n} · N(W; 0, σ0² I),   σ0² = τ² / mean ‖φ‖²

The weights are trained with the adapter as a MAP head. `fit` finds the mode for the cached
features and runs chains around it, in the directions that affect the likelihood; in all others the
posterior equals the prior, exactly and independently. A row with parts φ_in inside and φ_out
outside the row space of the training features therefore has, under draw s,

    z_s = W_s φ_in + σ0 ‖φ_out‖ ε_s + σ0 ‖φ_in‖ η_s 1/√C,   ε_s ~ N(0, I_C), η_s ~ N(0, 1)

The last term is the shift common to all classes, which changes the variance of a logit but not the
softmax. ε and η are drawn once for all rows: exact for each row, but not jointly for two rows.

Sources: Neal 2011, arXiv 1206.1901, for Hamiltonian Monte Carlo; Hoffman and Gelman 2014,
arXiv 1111.4246, for its no-U-turn form.

*Target*: the posterior of softmax regression, in coordinates in which it is nearly standard normal.

    U(A) = Σ_n [ lse(z_n) − z_{n,y_n} ] + δ/2 ‖A‖²,   z_n = o_n + U A φ_n,   A [C−1, r]

with A relative to the prior mean, whose logits o_n are constant.

The likelihood does not depend on a shift common to all classes or on weights outside the row space
of the training features, so only the contrasts U [C, C−1] between classes are sampled, in
coordinates of the row space. Near its mode the Hessian is about B ⊗ ΦᵀΦ + δI with B the mean over
rows of Uᵀ(diag p − ppᵀ)U. Rotating both factors to their eigenvectors and dividing by the square
root of the eigenvalues makes it about the identity, at no cost per step: features and contrasts are
rotated once.

*Chains* run with Pyro, one after the other.

R-hat is that of chains split in two, the effective sample size that of all chains (Pyro's).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, cast

import torch
from annotated_types import Interval
from torch import Tensor
from torch.nn.functional import one_hot

from bayeslora.errors import InputError
from bayeslora.links import antithetic_noise
from bayeslora.logits import SampledLogits, evenly
from bayeslora.option_checks import LARGEST_COUNT, Count, Positive, Share, UpTo1000
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.last_layer.algebra import (
    MeanProblem,
    RowSpace,
    class_contrasts,
    maximise_mean,
)
from bayeslora.posteriors.point import AroundPoint
from bayeslora.posteriors.types import Features, check_features, check_fit
from bayeslora.processes import restored_random_state


@dataclass(frozen=True)
class NUTS(Posterior):
    """The exact posterior of the last layer, sampled by Hamiltonian Monte Carlo: the reference."""

    prior_scale: Positive = 2.0
    """Prior standard deviation of a logit."""
    num_chains: UpTo1000 = 4
    """Number of independent chains, run one after the other."""
    num_warmup: Count = 300
    """Warm-up steps of each chain, which are discarded."""
    # Each chain is split in two, and a variance takes two draws.
    num_samples: Annotated[int, Interval(ge=4, le=LARGEST_COUNT)] = 1000
    """Draws of each chain after the warm-up."""
    max_draws: Count = 1000
    """Maximum number of draws kept for prediction, evenly spaced over all chains; files and
    predictions grow with it."""
    target_accept: Share = 0.8
    """Target acceptance probability for adapting the step size."""

    name: ClassVar[str] = "nuts"
    head: ClassVar[str] = "bayeslora.posteriors.last_layer.nuts:NUTSHead"
    summary: ClassVar[str] = "exact posterior of the last layer by Markov chains: the reference"
    use: ClassVar[str] = "A reference for measuring approximations of the last layer."
    source: ClassVar[str] = "Hoffman and Gelman 2014, arXiv 1111.4246"
    passes: ClassVar[str] = "1"
    moves_mean: ClassVar[bool] = True

    def starts_over(self, *, adapter_trains: bool) -> bool:
        """Return True: the chains depend on the features and the prior only."""
        return True


_ITERATIONS = 500


@dataclass(frozen=True, kw_only=True)
class Target:
    """A posterior over z [C−1, r], nearly a standard normal: weights mode + scale · z; float64.

    Attributes:
        features: [N, r] in the eigenvectors of ΦᵀΦ.
        contrasts: [C, C−1] in the eigenvectors of B.
        directions: [r, r], the eigenvectors of ΦᵀΦ.
        mode: [C−1, r] weights of maximal density.
        scale: [C−1, r] approximate posterior standard deviations.
        linear: [C−1, r], the gradient of Σ_n z_{n,y_n}.
        precision: δ of the prior.
        offset: [N, C], known logits plus those of the prior mean.
    """

    features: Tensor
    contrasts: Tensor
    directions: Tensor
    mode: Tensor
    scale: Tensor
    linear: Tensor
    precision: float
    offset: Tensor

    @classmethod
    def of(
        cls,
        features: Tensor,
        labels: Tensor,
        start: Tensor,
        precision: float,
        offset: Tensor | None = None,
    ) -> Target:
        """Find the mode and whiten around it.

        Args:
            features: [N, r] float64, in row-space coordinates.
            labels: [N] int64.
            start: [C, r] weights to start from, relative to the prior mean.
            precision: δ.
            offset: [N, C] logits of the prior mean; None for zero.
        """
        curvature, directions = torch.linalg.eigh(features.T @ features)
        curvature = curvature.clamp_min(0)
        rotated = features @ directions
        targets = one_hot(labels, len(start)).to(rotated)
        offset = torch.zeros_like(targets) if offset is None else offset
        weights = maximise_mean(
            MeanProblem(rotated, targets, offset, 1 / precision),
            start @ directions,
            # Half ΦᵀΦ bounds the curvature of any class (Böhning 1992).
            lambda gradient: gradient / (curvature / 2 + precision),
            max_iterations=_ITERATIONS,
            tolerance=1e-8,
        )
        contrasts = class_contrasts(len(start)).to(rotated)
        probs = (offset + rotated @ weights.T).softmax(-1)
        covariance = torch.diag(probs.mean(0)) - probs.T @ probs / len(probs)
        eigenvalues, rotation = torch.linalg.eigh(contrasts.T @ covariance @ contrasts)
        contrasts = contrasts @ rotation
        product = eigenvalues.clamp_min(0)[:, None] * curvature
        return cls(
            features=rotated,
            contrasts=contrasts,
            directions=directions,
            linear=contrasts.T @ targets.T @ rotated,
            mode=contrasts.T @ weights,
            scale=(product + precision).rsqrt(),
            precision=precision,
            offset=offset,
        )

    def weights(self, z: Tensor) -> Tensor:
        """Return the [..., C−1, r] weights at z."""
        return self.mode + self.scale * z

    def potential(self, z: Tensor) -> Tensor:
        """Return the energy at z, in nats up to a constant."""
        weights = self.weights(z)
        logits = self.offset + self.features @ weights.mT @ self.contrasts.T
        quadratic = 0.5 * self.precision * weights.square() - self.linear * weights
        return logits.logsumexp(-1).sum(-1) + quadratic.sum((-2, -1))

    def class_weights(self, z: Tensor) -> Tensor:
        """Return the [S, C, r] weights of [S, C−1, r] draws; they sum to zero over classes."""
        return self.contrasts @ self.weights(z) @ self.directions.T


# Standard deviation of a chain's start: wider than the posterior, as R-hat requires.
_OVERDISPERSION = 2.0


@dataclass(frozen=True)
class Chains:
    """Draws of several chains.

    Attributes:
        draws: [chains, S, C−1, r] float64, in the target's coordinates.
        energies: [chains, S] potential energy of each draw, in nats.
        divergences: Steps after the warm-up whose trajectory left the energy surface.
    """

    draws: Tensor
    energies: Tensor
    divergences: int


def run_chains(
    target: Target, config: NUTS, seed: int, advance: Callable[[int], object] = lambda _: None
) -> Chains:
    """Run the chains, each from its own start.

    Pyro's global parameter store and torch's global random state do not change.

    Args:
        target: Posterior to sample, on the CPU.
        config: Kernel, chains and their lengths.
        seed: Seed of the first chain; the others are derived from it.
        advance: Called with 1 after every step of a chain, warm-up included.
    """
    draws, energies, divergences = [], [], 0
    for chain in range(config.num_chains):
        # Fits with neighbouring seeds share no chain.
        samples, count = _run_chain(target, config, seed * 1_000_003 + chain, advance)
        draws.append(samples)
        divergences += count
        energies.append(torch.stack([target.potential(sample) for sample in samples]))
    return Chains(torch.stack(draws), torch.stack(energies), divergences)


def _run_chain(
    target: Target, config: NUTS, seed: int, advance: Callable[[int], object]
) -> tuple[Tensor, int]:
    """Return the draws [S, C−1, r] of one chain and its number of divergences."""
    import pyro.infer.mcmc

    mcmc: Any = pyro.infer.mcmc  # Pyro's own annotations are partial

    divergences: list[int] = []

    def potential(parameters: dict[str, Tensor]) -> Tensor:
        return target.potential(parameters["z"])

    def after_step(kernel: Any, _params: object, stage: str, _step: int) -> None:
        advance(1)
        # Pyro discards them at the end of the run.
        if stage.startswith("Sample"):
            divergences[:] = kernel.diagnostics()["divergences"]

    # Pyro draws from the global generator.
    with restored_random_state(), torch.enable_grad():
        torch.manual_seed(seed)
        kernel = mcmc.NUTS(potential_fn=potential, target_accept_prob=config.target_accept)
        chain = mcmc.MCMC(
            kernel,
            num_samples=config.num_samples,
            warmup_steps=config.num_warmup,
            initial_params={"z": _OVERDISPERSION * torch.randn_like(target.mode)},
            disable_progbar=True,
            hook_fn=after_step,
        )
        chain.run()
    return chain.get_samples()["z"], len(divergences)


RHAT_LIMIT = 1.01
"""Largest R-hat without a warning (Vehtari et al. 2021, section 4)."""

# Pyro's effective sample size allocates (draws of a half chain)² / 4 numbers per quantity.
_CHUNK = 1 << 22


class Convergence(NamedTuple):
    """Convergence of the worst of several quantities.

    Attributes:
        max_rhat: Largest R-hat; 1 if the chains are indistinguishable.
        min_ess: Smallest bulk effective sample size, over all chains.
    """

    max_rhat: float
    min_ess: float


def convergence(draws: Tensor) -> Convergence:
    """Return R-hat and effective sample size of the worst quantity.

    Args:
        draws: [chains, draws, quantities], at least four draws per chain.

    Raises:
        InputError: A quantity is constant, as when every step is rejected.
    """
    import pyro.ops.stats

    stats: Any = pyro.ops.stats  # Pyro's own annotations are partial
    rhat = stats.split_gelman_rubin(draws).max()
    size = max(1, 4 * _CHUNK // draws.shape[1] ** 2)
    parts = torch.split(draws, size, dim=2)
    sizes = torch.cat([stats.effective_sample_size(part) for part in parts])
    total = draws.shape[0] * draws.shape[1]
    # Antithetic chains may yield a negative correlation time; the limit is Stan's.
    times = (total / sizes).clamp_min(1 / math.log10(total))
    if not (math.isfinite(rhat) and bool(times.isfinite().all())):
        raise InputError(
            "the chains did not move, so their draws do not represent the posterior; raise "
            "num_warmup or num_samples, or lower target_accept"
        )
    return Convergence(float(rhat), float(total / times.max()))


logger = logging.getLogger(__name__)

# Draws of the Gaussian that replaces the chains while epochs are compared.
_STAND_IN_DRAWS = 200
_MEASURED = ("max_rhat", "min_ess", "divergences")


class NUTSHead(AroundPoint):
    """The head; a `LastLayer`.

    Attributes:
        draws: [S, C, r] float32 weights in row-space coordinates; they sum to zero over classes.
        noise: [S, C + 1] float64: ε and, last, η.
        basis: [d, r] float64 of the row space; None if r = d.
        max_rhat: Largest R-hat over all weights and the energy; NaN before the chains have run.
        min_ess: Smallest bulk effective sample size over all weights and the energy.
        divergences: Divergent steps of all chains.
    """

    uses_training_features = True
    config: NUTS
    draws: Tensor | None
    noise: Tensor | None
    basis: Tensor | None
    max_rhat: Tensor
    min_ess: Tensor
    divergences: Tensor

    def __init__(self, config: NUTS, num_features: int, num_classes: int, **options: Any) -> None:
        super().__init__(config, num_features, num_classes, **options)
        for name in ("draws", "noise", "basis"):
            self.register_buffer(name, None)
        for name in _MEASURED:
            self.register_buffer(name, torch.tensor(math.nan, dtype=torch.float64))

    @property
    def fit_steps(self) -> int:
        """Steps of all chains of a fit, warm-up included."""
        return self.config.num_chains * (self.config.num_warmup + self.config.num_samples)

    @torch.no_grad()
    def fit(
        self, train: Features, validation: Features | None = None, *, choose_prior: bool = True
    ) -> None:
        """Run the chains, always on the CPU; the trained weights do not change.

        With `choose_prior=False`, as when epochs are compared, draws from a Gaussian around the
        mode replace the chains.

        Raises:
            InputError: The chains did not move, or the features are not finite.
        """
        check_fit(train, validation)
        target, space = self._target(train.double().to(torch.device("cpu")))
        if choose_prior:
            chains = run_chains(target, self.config, self.seed, self.advance)
            self._measure(chains)
            draws = chains.draws.flatten(0, 1)
            draws = draws[evenly(len(draws), self.config.max_draws)]
        else:
            count = min(_STAND_IN_DRAWS, self.config.max_draws)
            # Not the seed of the noise outside the row space.
            draws = antithetic_noise(count, tuple(target.mode.shape), self.seed + 1)
        weights = target.class_weights(draws)
        count, classes, _ = weights.shape
        device = self.weight.device
        self.draws = weights.float().to(device)
        self.noise = antithetic_noise(count, (classes + 1,), self.seed).to(device)
        self.basis = None if space.basis is None else space.basis.to(device)

    def _target(self, rows: Features) -> tuple[Target, RowSpace]:
        """Return the target to sample, and the space of its draws."""
        space = RowSpace.of(rows.values)
        centre = self._prior_mean().cpu()
        target = Target.of(
            space.coordinates(rows.values),
            rows.targets,
            space.coordinates(self.weight.double().cpu() - centre),
            self.prior_precision,
            rows.logits(centre),
        )
        return target, space

    @torch.no_grad()
    def predict(self, rows: Features) -> SampledLogits:
        """Return the logits of each draw, [S, N, C]."""
        draws, noise = cast("tuple[Tensor, Tensor]", (self.draws, self.noise))
        check_features(rows)
        return SampledLogits(self._logits(rows.double(), draws.double(), noise))

    def _logits(self, rows: Features, draws: Tensor, noise: Tensor) -> Tensor:
        """Return the logits [S, N, C] of rows under [S, C, r] draws of the weights."""
        states = rows.values
        space = RowSpace(self.basis)
        inside = space.coordinates(states)
        classes = draws.shape[1]
        logits = (draws @ inside.T).transpose(1, 2) + rows.logits(self._prior_mean())
        norm = inside.norm(dim=-1, keepdim=True) / math.sqrt(classes)
        noise = noise[:, None]
        prior_noise = (
            space.outside(states).sqrt() * noise[..., :classes] + norm * noise[..., classes:]
        )
        drawn: Tensor = logits + prior_noise / math.sqrt(self.prior_precision)
        return drawn

    @property
    def mean_weight(self) -> Tensor:
        """[C, d]: the mean of the draws; before a fit, the trained weights."""
        if self.draws is None:
            return super().mean_weight
        mean = RowSpace(self.basis).expand(self.draws.double().mean(0)) + self._prior_mean()
        return mean.to(self.weight)

    def extra_config(self) -> dict[str, Any]:
        """Return the number of draws and the rank of the training features."""
        point = super().extra_config()
        if self.draws is None:
            return point | {"fitted": False}
        return point | {"fitted": True, "draws": self.draws.shape[0], "rank": self.draws.shape[2]}

    def prepare(self, extra: Mapping[str, Any]) -> None:
        """Allocate the tensors that `extra` describes."""
        super().prepare(extra)
        if not extra.get("fitted"):
            return
        classes, size = self.weight.shape
        count, rank = int(extra["draws"]), int(extra["rank"])
        self.draws = torch.zeros(count, classes, rank)
        self.noise = torch.zeros(count, classes + 1, dtype=torch.float64)
        self.basis = torch.zeros(size, rank, dtype=torch.float64) if rank < size else None

    def report(self) -> dict[str, float | str]:
        """Return the prior scale and, after chains, R-hat, effective draws and divergences."""
        if self.draws is None:
            return {"fitted": "no"}
        measured = () if math.isnan(self.max_rhat) else _MEASURED
        values = {name: float(getattr(self, name)) for name in measured}
        return {"prior_scale": self.config.prior_scale, **values}

    def _prior_mean(self) -> Tensor:
        """Return the prior mean, the origin of the draws: [C, d] float64."""
        centre = self.prior_mean
        weight = self.weight.detach()
        return torch.zeros_like(weight).double() if centre is None else centre.double()

    def _measure(self, chains: Chains) -> None:
        result = convergence(torch.cat([chains.draws.flatten(2), chains.energies[..., None]], -1))
        self.max_rhat.fill_(result.max_rhat)
        self.min_ess.fill_(result.min_ess)
        self.divergences.fill_(chains.divergences)
        if result.max_rhat > RHAT_LIMIT:
            logger.warning(
                "the chains have not converged: the largest R-hat is %.3f, above %g, with %.0f "
                "effective draws; raise num_samples or num_warmup",
                result.max_rhat,
                RHAT_LIMIT,
                result.min_ess,
            )
        if chains.divergences:
            logger.warning(
                "%d steps of the chains diverged; raise target_accept", chains.divergences
            )
