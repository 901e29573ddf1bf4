"""Markov chains on a whitened posterior, run with Pyro one after the other, and their convergence.

R-hat and the effective sample size are those of Vehtari, Gelman, Simpson, Carpenter and Bürkner
2021, arXiv 1903.08008: draws are replaced by the normal scores of their ranks over all chains, each
chain is split in two, and the split R-hat and the effective sample size (Geyer's initial monotone
sequence) are taken of the scores. R-hat is the larger of that of the draws and that of their
distances from the median, which sees chains of unequal spread.
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

# Lengths of `hmc` trajectories, drawn anew for each. The period of a standard normal, which the
# target nearly is, is 2π: after a whole one a weight is where it was, after a half one where it was
# on the other side of its mean, which leaves its distance from the mean the same for ever. Weights
# whose scale is off by a factor of two have other periods, so no one length would be safe (Neal
# 2011, section 3.2).
_LENGTHS = (math.pi / 4, math.pi)
# Deviations of a chain's start: wider than the posterior, as R-hat wants it.
_OVERDISPERSION = 2.0


@dataclass(frozen=True)
class Chains:
    """Draws of several chains.

    Attributes:
        draws: [chains, S, C−1, r] float64, in the target's coordinates.
        energies: [chains, S] potential energy of each, in nats.
        divergences: Steps after the warm-up whose trajectory left the energy surface.
    """

    draws: Tensor
    energies: Tensor
    divergences: int


def run_chains(
    target: AnyTarget, config: NUTS, seed: int, advance: Callable[[int], object] = lambda _: None
) -> Chains:
    """Run every chain from a start of its own.

    Pyro's global parameter store and torch's global random state stay as they are.

    Args:
        target: What to sample, on the CPU.
        config: Kernel, chains and their lengths.
        seed: Of the first chain; the others follow from it.
        advance: Called with 1 after every step of a chain, warm-up included.
    """
    draws, energies, divergences = [], [], 0
    for chain in range(config.num_chains):
        found, count = _run_chain(target, config, _chain_seed(seed, chain), advance)
        draws.append(found)
        divergences += count
        energies.append(torch.stack([target.potential(one) for one in found]))
    return Chains(torch.stack(draws), torch.stack(energies), divergences)


def _run_chain(
    target: AnyTarget, config: NUTS, seed: int, advance: Callable[[int], object]
) -> tuple[Tensor, int]:
    """Return the draws [S, C−1, r] of one chain and the number of its divergences."""
    import pyro.infer.mcmc

    mcmc: Any = pyro.infer.mcmc  # Pyro's own annotations are partial

    divergences: list[int] = []

    def after_step(kernel: Any, _params: object, stage: str, _step: int) -> None:
        advance(1)
        if config.kernel == "hmc":
            kernel.trajectory_length = _length()
        # Pyro forgets them when the run is over.
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


def _chain_seed(seed: int, chain: int) -> int:
    # Neighbouring seeds of a fit share no chain.
    return seed * 1_000_003 + chain


RHAT_LIMIT = 1.01
"""R-hat above this is worth a warning (Vehtari et al. 2021, section 4)."""

# Pyro's effective sample size holds (draws of a half chain)² / 4 numbers a quantity.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Convergence:
    """The worst of several quantities.

    Attributes:
        max_rhat: Largest R-hat; 1 where chains cannot be told apart.
        min_ess: Smallest bulk effective sample size, over all chains.
    """

    max_rhat: float
    min_ess: float


def convergence(draws: Tensor) -> Convergence:
    """Return R-hat and effective sample size of the worst quantity.

    Args:
        draws: [chains, draws, quantities], at least four draws a chain.

    Raises:
        InputError: A quantity is the same in every draw of a half chain, as where every step is
            rejected.
    """
    halves = split_chains(draws)
    size = max(1, 4 * _CHUNK // halves.shape[1] ** 2)
    found = [_convergence(part) for part in torch.split(halves, size, dim=2)]
    if not all(math.isfinite(one.max_rhat) and math.isfinite(one.min_ess) for one in found):
        raise InputError(
            "the chains did not move, so they say nothing about the posterior; "
            "raise num_warmup or num_samples, or lower target_accept"
        )
    return Convergence(max(one.max_rhat for one in found), min(one.min_ess for one in found))


def _convergence(halves: Tensor) -> Convergence:
    import pyro.ops.stats

    stats: Any = pyro.ops.stats  # Pyro's own annotations are partial
    scores = normal_scores(halves)
    median = halves.flatten(0, 1).median(0).values
    folded = normal_scores((halves - median).abs())
    rhat = torch.maximum(*(stats.gelman_rubin(item) for item in (scores, folded)))
    total = scores.shape[0] * scores.shape[1]
    # Chains that swing from side to side may estimate a negative correlation time; Stan's limit.
    times = (total / stats.effective_sample_size(scores)).clamp_min(1 / math.log10(total))
    return Convergence(float(rhat.max()), float(total / times.max()))


def split_chains(draws: Tensor) -> Tensor:
    """Return [2 · chains, draws // 2, quantities]: first and second halves, the middle left out."""
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
