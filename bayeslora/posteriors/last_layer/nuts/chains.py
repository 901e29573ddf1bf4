"""Markov chains on a whitened posterior, run with Pyro one after the other, and their convergence.

R-hat and the effective sample size follow Vehtari, Gelman, Simpson, Carpenter and Bürkner 2021,
arXiv 1903.08008: draws are replaced by the normal scores of their ranks over all chains, each chain
is split in two, and the split R-hat and the effective sample size (Geyer's initial monotone
sequence) are computed from the scores. R-hat is the maximum over the draws and their distances from
the median, which detects chains of unequal spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayeslora.errors import InputError
from bayeslora.posteriors.last_layer.nuts.options import NUTS
from bayeslora.posteriors.last_layer.nuts.target import AnyTarget
from bayeslora.runtime import restored_random_state

# Range of the lengths of `hmc` trajectories, drawn anew for each. The target is nearly a standard
# normal, whose period is 2π: after a full period a weight returns to its value, after half a period
# to the mirrored value, so its distance from the mean would never change. Weights whose scale is
# off by a factor of two have other periods, so no fixed length is safe (Neal 2011, section 3.2).
_LENGTHS = (math.pi / 4, math.pi)
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
    target: AnyTarget, config: NUTS, seed: int, advance: Callable[[int], object] = lambda _: None
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
    target: AnyTarget, config: NUTS, seed: int, advance: Callable[[int], object]
) -> tuple[Tensor, int]:
    """Return the draws [S, C−1, r] of one chain and its number of divergences."""
    import pyro.infer.mcmc

    mcmc: Any = pyro.infer.mcmc  # Pyro's own annotations are partial

    divergences: list[int] = []

    def after_step(kernel: Any, _params: object, stage: str, _step: int) -> None:
        advance(1)
        if config.kernel == "hmc":
            kernel.trajectory_length = _length()
        # Pyro discards them at the end of the run.
        if stage.startswith("Sample"):
            divergences[:] = kernel.diagnostics()["divergences"]

    # Pyro draws from the global generator.
    with restored_random_state(), torch.enable_grad():
        torch.manual_seed(seed)
        chain = mcmc.MCMC(
            _kernel(mcmc, target, config),
            num_samples=config.num_samples,
            warmup_steps=config.num_warmup,
            initial_params={"z": _OVERDISPERSION * torch.randn_like(target.mode)},
            disable_progbar=True,
            hook_fn=after_step,
        )
        chain.run()
    return chain.get_samples()["z"], len(divergences)


def _kernel(mcmc: Any, target: AnyTarget, config: NUTS) -> Any:
    def potential(parameters: dict[str, Tensor]) -> Tensor:
        return target.potential(parameters["z"])

    if config.kernel == "hmc":
        return mcmc.HMC(
            potential_fn=potential,
            trajectory_length=_length(),
            target_accept_prob=config.target_accept,
        )
    return mcmc.NUTS(
        potential_fn=potential,
        target_accept_prob=config.target_accept,
        max_tree_depth=config.max_tree_depth,
    )


def _length() -> float:
    low, high = _LENGTHS
    return low + (high - low) * float(torch.rand(()))


RHAT_LIMIT = 1.01
"""Largest R-hat without a warning (Vehtari et al. 2021, section 4)."""

# Pyro's effective sample size allocates (draws of a half chain)² / 4 numbers per quantity.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Convergence:
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
        InputError: A quantity is constant over a half chain, as when every step is rejected.
    """
    halves = split_chains(draws)
    size = max(1, 4 * _CHUNK // halves.shape[1] ** 2)
    results = [_convergence(part) for part in torch.split(halves, size, dim=2)]
    if not all(
        math.isfinite(result.max_rhat) and math.isfinite(result.min_ess) for result in results
    ):
        raise InputError(
            "the chains did not move, so their draws do not represent the posterior; raise "
            "num_warmup or num_samples, or lower target_accept"
        )
    return Convergence(
        max(result.max_rhat for result in results), min(result.min_ess for result in results)
    )


def _convergence(halves: Tensor) -> Convergence:
    import pyro.ops.stats

    stats: Any = pyro.ops.stats  # Pyro's own annotations are partial
    scores = normal_scores(halves)
    median = halves.flatten(0, 1).median(0).values
    folded = normal_scores((halves - median).abs())
    rhat = torch.maximum(*(stats.gelman_rubin(values) for values in (scores, folded)))
    total = scores.shape[0] * scores.shape[1]
    # Antithetic chains may yield a negative correlation time; the limit is Stan's.
    times = (total / stats.effective_sample_size(scores)).clamp_min(1 / math.log10(total))
    return Convergence(float(rhat.max()), float(total / times.max()))


def split_chains(draws: Tensor) -> Tensor:
    """Return [2 · chains, draws // 2, quantities]: first and second halves, without the middle."""
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, draws.shape[1] - half :]])


def normal_scores(draws: Tensor) -> Tensor:
    """Return Φ⁻¹((rank − 3/8) / (n + 1/4)) of each of n draws, ranks over all chains, ties shared.

    Args:
        draws: [chains, draws, quantities].
    """
    values = draws.flatten(0, 1).T.contiguous()
    ordered = values.sort(-1).values
    first, last = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    rank = (first + last + 1).double() / 2
    scores: Tensor = torch.special.ndtri((rank - 0.375) / (values.shape[-1] + 0.25))
    return scores.T.reshape(draws.shape)
