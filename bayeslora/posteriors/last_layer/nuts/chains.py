"""Running Markov chains on a whitened posterior with Pyro, one after the other in this process."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
