"""C-LoRA's gate: what turns one site's low-rank state z into E z, with a Gaussian E of each token.

    E = I + M(z) + σ(z) ∘ ε,   ε ~ N(0, 1)^{r×r},   (M, G) = MLP(z),   σ = G²

The network has one hidden layer of rectified units. Its last layer begins at M = 0 and G constant,
so E begins at the identity with a small spread: the plain adapter. (The published code starts it at
random, and E with it.)

Source: Rahmati, Jantre, Zhang, Wang, Yoon, Urban and Qian 2025, arXiv 2505.17773.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bayeslora.posteriors.weights.gaussian import initial_root

StateNoise = Callable[[Tensor], Tensor]
"""From states [..., r] to standard normal numbers that [..., r, r] can be multiplied with."""

_BLOCK = 64


class TokenGate(nn.Module):
    """The Gaussian E of one site.

    Attributes:
        noise: What ε is in the passes to come; None is E at its mean.
        seen: Collects the states that pass, without their graph, where it is a list.
    """

    def __init__(
        self, r: int, num_hidden: int, initial_std: float, generator: torch.Generator
    ) -> None:
        """Begin at the identity, with standard deviations from half of `initial_std` to all of it.

        Args:
            r: Rank of the site.
            num_hidden: Hidden units.
            initial_std: Largest standard deviation.
            generator: Of the start, on the CPU.
        """
        super().__init__()
        self.noise: StateNoise | None = None
        self.seen: list[Tensor] | None = None
        # Without the layers' own start, which would move the global generator.
        self.hidden = nn.Linear(r, num_hidden, device="meta").to_empty(device="cpu")
        self.output = nn.Linear(num_hidden, 2 * r**2, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            for item in self.hidden.parameters():
                item.copy_((2 * torch.rand(item.shape, generator=generator) - 1) / r**0.5)
            self.output.weight.zero_()
            roots = initial_root(torch.Size([r**2]), initial_std, generator)
            self.output.bias.copy_(torch.cat([torch.zeros(r**2), roots]))

    def moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return M and σ for states [..., r], each [..., r, r]; the mean of E is I + M."""
        r = z.shape[-1]
        both = self.output(self.hidden(z).relu()).unflatten(-1, (2, r, r))
        mean, root = both.unbind(-3)
        return mean, root.square()

    def forward(self, z: Tensor) -> Tensor:
        """Return E z for states [..., r]."""
        if self.seen is not None:
            self.seen.append(z.detach())
        change, std = self.moments(z)
        if self.noise is not None:
            change = change + std * self.noise(z)
        return z + (change @ z[..., None])[..., 0]


def fresh_noise(z: Tensor) -> Tensor:
    """Return other numbers for every state, [..., r, r], from the global generator."""
    return torch.randn(*z.shape, z.shape[-1], dtype=z.dtype, device=z.device)


class PositionNoise:
    """Standard normal numbers for each position in a text, the same for all texts.

    What a text sees then depends neither on the other texts of its batch nor on their number and
    order. Each text alone has independent numbers at its tokens, as in training.
    """

    def __init__(self, seed: int) -> None:
        """Begin with no number drawn.

        Args:
            seed: Decides all of them.
        """
        self._generator = torch.Generator().manual_seed(seed)
        self._drawn: Tensor | None = None

    def __call__(self, z: Tensor) -> Tensor:
        """Return [T, r, r] for states [..., T, r]; [r, r] where there is one state a text, [N, r].

        They are drawn in blocks of positions, one after the other, so that the first ones are the
        same whatever the longest text so far.
        """
        r, count = z.shape[-1], z.shape[-2] if z.ndim > 2 else 1
        while self._drawn is None or len(self._drawn) < count:
            block = torch.randn(_BLOCK, r, r, generator=self._generator, dtype=z.dtype)
            self._drawn = block if self._drawn is None else torch.cat([self._drawn, block])
        noise = self._drawn[:count].to(z.device)
        return noise if z.ndim > 2 else noise[0]
