"""C-LoRA: a Gaussian over an r × r matrix in each adapter, with moments that follow the token.

    ΔW(x) = s B E(x) A        (LoRA)            ΔW(x) = s X Θ E(x) Yᵀ        (PoLAR)
    E = I + M(z) + σ(z) ∘ ε,   z = A x or Yᵀ x,   ε ~ N(0, 1)^{r×r} for each token
    KL(z) = Σ_ij [ log(σp / σ_ij) + (σ_ij² + M_ij²) / (2 σp²) − ½ ]

The prior is N(I, σp²) entry by entry: under it, and at the start, an adapter is the plain one. (The
published code has N(0, 0.2²), with a weight of the KL that leaves next to nothing of it.) PoLAR is
not among the published adapters. E multiplies its core there, as it multiplies LoRA's factors, so
that the noise is relative to what was learned, the change is zero at the start, and rotating z with
the factors that surround it leaves the prior as it is.

The KL is the mean over the real tokens of a batch, summed over sites. Weighted by 1 / N, it is that
of a single E for all inputs where the gate ignores its input. (With an E of its own for each token,
every token would count with weight one in a bound, and the KL would outweigh the labels by far.)
Its gradient reaches the gates and stops at their inputs.

A draw fixes ε for each position in a text, and all texts share it.

Source: Rahmati, Jantre, Zhang, Wang, Yoon, Urban and Qian 2025, arXiv 2505.17773.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bayeslora.adapters.low_rank import LowRank
from bayeslora.adapters.real_tokens import real_tokens
from bayeslora.errors import InputError
from bayeslora.posteriors.weights.clora.gate import (
    PositionNoise,
    StateNoise,
    TokenGate,
    fresh_noise,
)
from bayeslora.posteriors.weights.clora.options import CLoRA
from bayeslora.posteriors.weights.gaussian import gaussian_kl
from bayeslora.posteriors.weights.random_layers import check_texts_apart

Seen = list[list[Tensor]]
"""The states that passed each gate, [..., r], one tensor a call."""

# Its logarithm is finite, and no gradient pushes at an exact zero.
_LEAST_STD = 1e-8


class CLoRAWeights(nn.Module):
    """The gates of all sites, which take part in every pass of the network.

    Attributes:
        gates: One a site.
        prior_std: σp.
        measured: [3] float64: KL in nats and the mean squares of M and σ over the real tokens of
            the training rows; zero before the fit.
    """

    measured: Tensor

    def __init__(self, config: CLoRA, sites: Sequence[LowRank], seed: int = 0) -> None:
        """Attach a gate to each of `sites`; they compute the same as before."""
        super().__init__()
        self.prior_std = config.prior_std
        self._names = tuple(site.name for site in sites)
        generator = torch.Generator().manual_seed(seed)
        self._gates = tuple(
            TokenGate(site.r, config.num_hidden, config.initial_std, generator) for site in sites
        )
        self.gates = nn.ModuleList(self._gates)
        self.register_buffer("measured", torch.zeros(3, dtype=torch.float64))
        for site, gate in zip(sites, self._gates, strict=True):
            site.attach(gate)

    def kl(self, seen: Seen, mask: Tensor) -> Tensor:
        """Return the KL to the prior in nats: the mean over real tokens, summed over sites.

        Args:
            seen: What `watching` caught in one pass.
            mask: [B, T], 1 at real tokens.

        Raises:
            InputError: A gate took no part in the pass, or saw other than tokens or rows.
        """
        return self._kl(self._moments(seen, mask))

    @torch.no_grad()
    def figures(self, seen: Seen, mask: Tensor) -> Tensor:
        """Return what `measured` holds, [3] float64, for the pass that `seen` comes from."""
        moments = self._moments(seen, mask)
        squares = [[item.square().mean() for item in pair] for pair in moments]
        means = torch.stack([torch.stack(pair) for pair in squares]).mean(0)
        return torch.cat([self._kl(moments)[None], means]).double().cpu()

    @contextmanager
    def watching(self) -> Iterator[Seen]:
        """Yield a list that the states which pass each gate are added to."""
        seen: Seen = [[] for _ in self._gates]
        try:
            for gate, states in zip(self._gates, seen, strict=True):
                gate.seen = states
            yield seen
        finally:
            for gate in self._gates:
                gate.seen = None

    @contextmanager
    def noise(self) -> Iterator[None]:
        """Draw noise for each token of a pass; gradients reach mean and spread."""
        with self._under([fresh_noise] * len(self._gates)):
            yield

    @contextmanager
    def draw(self, generator: torch.Generator) -> Iterator[None]:
        """Fix the noise at each position of a text, and take it out again afterwards."""
        seeds = torch.randint(2**62, (len(self._gates),), generator=generator).tolist()
        with self._under([PositionNoise(seed) for seed in seeds]):
            yield

    def report(self) -> dict[str, float | str]:
        """Return the KL in nats and the root mean squares of M and σ, at the training rows."""
        kl, change, std = self.measured.tolist()
        return {"kl": kl, "gate_change": change**0.5, "gate_std": std**0.5}

    @contextmanager
    def _under(self, noises: Sequence[StateNoise]) -> Iterator[None]:
        try:
            for gate, noise in zip(self._gates, noises, strict=True):
                gate.noise = noise
            yield
        finally:
            for gate in self._gates:
                gate.noise = None

    def _kl(self, moments: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        parts = [
            gaussian_kl(change, std.clamp_min(_LEAST_STD), self.prior_std) / len(change)
            for change, std in moments
        ]
        return torch.stack(parts).sum()

    def _moments(self, seen: Seen, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return M and σ of each site at the real tokens, [tokens, r, r]."""
        return [
            gate.moments(_real(states, mask, name))
            for gate, states, name in zip(self._gates, seen, self._names, strict=True)
        ]


def _real(states: Sequence[Tensor], mask: Tensor, name: str) -> Tensor:
    """Return the states at real tokens, [tokens, r], of all calls; a site may see one per row."""
    if not states:
        raise InputError(f"the adapter at {name} took no part in the network's forward pass")
    for z in states:
        # The noise of a prediction goes by position in a text.
        check_texts_apart(name, z, len(mask))
    return torch.cat([z[real_tokens(f"the adapter at {name}", z, mask)] for z in states])
