"""C-LoRA: a Gaussian over an r × r matrix in each adapter, with moments that follow the token.

    ΔW(x) = s B E(x) A        (LoRA)            ΔW(x) = s X Θ E(x) Yᵀ        (PoLAR)
    E = I + M(z) + σ(z) ∘ ε,   z = A x or Yᵀ x,   ε ~ N(0, 1)^{r×r} for each token
    (M, G) = MLP(z),   σ = G²
    KL(z) = Σ_ij [ log(σp / σ_ij) + (σ_ij² + M_ij²) / (2 σp²) − ½ ]

The prior is N(I, σp²) entry by entry: its mean, like the initial E, is the plain adapter. (The
published code has N(0, 0.2²), with a KL weight that makes it negligible.) PoLAR is not among the
published adapters. There E multiplies the core, as it multiplies LoRA's factors, so the noise is
relative to the learned weights, the change is initially zero, and the prior is invariant to
rotations of z and the surrounding factors.

The KL is the mean over the real tokens of a batch, summed over sites. Weighted by 1 / N, it is that
of a single E for all inputs if the gate ignores its input. (With a separate E for each token, every
token would have weight one in a bound, and the KL would far outweigh the labels.) Its gradient
reaches the gates and stops at their inputs.

The network has one hidden layer of rectified units. Its last layer is initialised to M = 0 and
constant G, so E starts at the identity with a small variance. (The published code initialises it,
and so E, at random.)

A draw fixes ε for each position in a text, shared by all texts.

Source: Rahmati, Jantre, Zhang, Wang, Yoon, Urban and Qian 2025, arXiv 2505.17773.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.low_rank import LowRank
from bayeslora.backbones.tokens import Batch, real_tokens
from bayeslora.errors import InputError
from bayeslora.option_checks import Count, Draws, Positive
from bayeslora.posteriors.base import FactorPosterior
from bayeslora.posteriors.types import TrainingRun, WeightPosterior, WeightTraining
from bayeslora.posteriors.weights.draws import gaussian_kl, initial_root


@dataclass(frozen=True)
class CLoRA(FactorPosterior):
    """Gaussian over an r × r matrix inside each adapter, with moments that follow the token."""

    prior_std: Positive = 0.2
    """Prior standard deviation of an entry; the prior mean is the identity."""
    initial_std: Positive = 0.05
    """Largest initial standard deviation of an entry; the smallest is half of it."""
    num_hidden: Count = 64
    """Hidden units of the small network that predicts mean and standard deviation."""
    num_samples: Draws = 10

    name: ClassVar[str] = "clora"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.clora:CLoRAWeights.of"
    summary: ClassVar[str] = "Gaussian inside each adapter, with mean and variance set by the input"
    use: ClassVar[str] = "Uncertainty that depends on the input, for models that need no export."
    source: ClassVar[str] = "Rahmati et al. 2025, arXiv 2505.17773"
    not_shared: ClassVar[str] = (
        "averages its KL over all tokens of a batch, of which each process has only some"
    )

    def adapter_for(self, adapter: Adapter) -> Adapter:
        """Return the adapter.

        Raises:
            InputError: Noise between its factors would act on a part of the pretrained weight, or
                its training changes the states between them.
        """
        if adapter.from_weight:
            raise InputError(
                "posterior 'clora' adds noise between the factors, and those of adapter "
                f"{adapter.name!r} contain part of the pretrained weight, which would be noisy "
                "from the start; choose 'lora' or 'polar'",
                code="factors-hold-weight",
            )
        if adapter.no_gate:
            raise InputError(
                "posterior 'clora' needs a gate between the factors, which adapter "
                f"{adapter.name!r} does not allow: {adapter.no_gate}",
                code="second-gate",
            )
        return adapter


StateNoise = Callable[[Tensor], Tensor]
"""Maps states [..., r] to standard normal numbers, broadcastable to [..., r, r]."""

_BLOCK = 64


class TokenGate(nn.Module):
    """The Gaussian E of one site.

    Attributes:
        noise: Source of ε in the following passes; None sets E to its mean.
        seen: List that collects the detached input states, or None.
    """

    def __init__(
        self, r: int, num_hidden: int, initial_std: float, generator: torch.Generator
    ) -> None:
        """Initialise to the identity, with standard deviations in [initial_std / 2, initial_std].

        Args:
            r: Rank of the site.
            num_hidden: Hidden units.
            initial_std: Largest standard deviation.
            generator: Generator of the initial values, on the CPU.
        """
        super().__init__()
        self.noise: StateNoise | None = None
        self.seen: list[Tensor] | None = None
        # Without the layers' default initialisation, which would advance the global generator.
        self.hidden = nn.Linear(r, num_hidden, device="meta").to_empty(device="cpu")
        self.output = nn.Linear(num_hidden, 2 * r**2, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            for parameter in self.hidden.parameters():
                parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) / r**0.5)
            self.output.weight.zero_()
            roots = initial_root(torch.Size([r**2]), initial_std, generator)
            self.output.bias.copy_(torch.cat([torch.zeros(r**2), roots]))

    def moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return M and σ for states [..., r], each [..., r, r]; the mean of E is I + M."""
        r = z.shape[-1]
        outputs = self.output(self.hidden(z).relu()).unflatten(-1, (2, r, r))
        mean, root = outputs.unbind(-3)
        return mean, root.square()

    def forward(self, z: Tensor) -> Tensor:
        """Return E z for states [..., r]."""
        if self.seen is not None:
            self.seen.append(z.detach())
        change, std = self.moments(z)
        if self.noise is not None:
            change = change + std * self.noise(z)
        return z + (change @ z[..., None])[..., 0]


class PositionNoise:
    """Standard normal numbers for each position in a text, the same for all texts.

    The noise of a text then depends neither on the other texts of its batch nor on their number and
    order. Within a text the tokens have independent numbers, as in training.
    """

    def __init__(self, seed: int) -> None:
        """Start without drawing any number.

        Args:
            seed: Seed of all numbers.
        """
        self._generator = torch.Generator().manual_seed(seed)
        self._drawn: Tensor | None = None

    def __call__(self, z: Tensor) -> Tensor:
        """Return [T, r, r] for states [..., T, r]; [r, r] for one state per text, [N, r].

        Numbers are drawn in consecutive blocks of positions, so that they do not depend on the
        longest text so far.
        """
        r, count = z.shape[-1], z.shape[-2] if z.ndim > 2 else 1
        while self._drawn is None or len(self._drawn) < count:
            block = torch.randn(_BLOCK, r, r, generator=self._generator, dtype=z.dtype)
            self._drawn = block if self._drawn is None else torch.cat([self._drawn, block])
        noise = self._drawn[:count].to(z.device)
        return noise if z.ndim > 2 else noise[0]


Seen = list[list[Tensor]]
"""Input states of each gate, [..., r], one tensor per call."""

# Keeps the logarithm finite, and gradients away from an exact zero.
_LEAST_STD = 1e-8


class CLoRAWeights(WeightPosterior):
    """The gates of all sites, which take part in every pass of the network.

    Attributes:
        gates: One per site.
        prior_std: σp.
    """

    def __init__(self, config: CLoRA, sites: Sequence[LowRank], seed: int = 0) -> None:
        """Attach a gate to each of `sites`, whose outputs do not change."""
        super().__init__()
        self.config = config
        self.prior_std = config.prior_std
        self._names = tuple(site.name for site in sites)
        generator = torch.Generator().manual_seed(seed)
        self._gates = tuple(
            TokenGate(site.r, config.num_hidden, config.initial_std, generator) for site in sites
        )
        self.gates = nn.ModuleList(self._gates)
        for site, gate in zip(sites, self._gates, strict=True):
            site.attach(gate)

    def kl(self, seen: Seen, mask: Tensor) -> Tensor:
        """Return the KL to the prior in nats: the mean over real tokens, summed over sites.

        Args:
            seen: States recorded by `watching` in one pass.
            mask: [B, T], 1 at real tokens.

        Raises:
            InputError: A gate took no part in the pass, or its inputs are neither per token nor
                per row.
        """
        parts = []
        for gate, states, name in zip(self._gates, seen, self._names, strict=True):
            real = [z[real_tokens(f"the adapter at {name}", z, mask)] for z in states]
            change, std = gate.moments(torch.cat(real))
            kl = gaussian_kl(change, std.clamp_min(_LEAST_STD), self.prior_std)
            parts.append(kl / len(change))
        return torch.stack(parts).sum()

    @contextmanager
    def watching(self) -> Iterator[Seen]:
        """Yield a list that collects the input states of each gate."""
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
        """Draw noise for each token of a pass; gradients reach mean and standard deviation."""

        def fresh(z: Tensor) -> Tensor:
            return torch.randn(*z.shape, z.shape[-1], dtype=z.dtype, device=z.device)

        with self._under([fresh] * len(self._gates)):
            yield

    @contextmanager
    def draw(self, generator: torch.Generator) -> Iterator[None]:
        """Fix the noise at each position of a text within the context."""
        seeds = torch.randint(2**62, (len(self._gates),), generator=generator).tolist()
        with self._under([PositionNoise(seed) for seed in seeds]):
            yield

    def weight_training(self, run: TrainingRun) -> WeightTraining:
        """Return a training under noise, with the gradient of KL / N added to that of a pass."""

        @contextmanager
        def noise(batch: Batch) -> Iterator[None]:
            # The pass, forward and backward; then the KL's gradient, for the same step.
            with self.noise(), self.watching() as seen:
                yield
            kl = self.kl(seen, batch["attention_mask"])
            torch.autograd.backward((1 / run.num_train) * kl)

        return WeightTraining(noise=noise, parameters=tuple(self.parameters()))

    @contextmanager
    def _under(self, noises: Sequence[StateNoise]) -> Iterator[None]:
        try:
            for gate, noise in zip(self._gates, noises, strict=True):
                gate.noise = noise
            yield
        finally:
            for gate in self._gates:
                gate.noise = None
