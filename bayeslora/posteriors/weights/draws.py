"""Random weights of an adapter: its layers, draws of them in predictions, and Gaussians to train.

Outside a draw the adapters hold the mean weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bayeslora.adapters.base import StepHook
from bayeslora.adapters.site import Site
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.logits import SampledLogits
from bayeslora.posteriors.types import Network, TrainingRun, WeightPosterior, WeightTraining
from bayeslora.processes import current

Item = TypeVar("Item")

_BATCH = 64


@torch.no_grad()
def sample_logits(
    posterior: WeightPosterior,
    forward: Callable[[Item], Tensor],
    batches: Iterable[Item],
    num_samples: int,
    seed: int = 0,
) -> SampledLogits:
    """Return the logits of all batches under draws of the weights.

    Each draw applies to all batches, so every row sees the same networks.

    Args:
        posterior: Posterior to draw from.
        forward: Maps a batch to its logits, [B, C].
        batches: Batches, iterated once per draw in the same order.
        num_samples: Draws S; 0 is one pass without a draw.
        seed: Seed of the draws.

    Returns:
        [S, N, C] float64 logits (S = 1 for `num_samples=0`).
    """
    generator = torch.Generator().manual_seed(seed)
    batch_list = list(batches)

    def logits() -> Tensor:
        return torch.cat([forward(batch).double() for batch in batch_list])

    if num_samples == 0:
        return SampledLogits(logits()[None])
    draws = []
    for _ in range(num_samples):
        with posterior.draw(generator):
            draws.append(logits())
    return SampledLogits(torch.stack(draws))


def sampled_logits(
    network: Network,
    draws: WeightPosterior,
    texts: PreparedTexts,
    passes: int,
    *,
    seed: int,
    rows: Sequence[int] | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> SampledLogits:
    """Return the logits [S, N, C] of each text under draws of the network's weights.

    Args:
        network: Network in evaluation mode.
        draws: Posterior to draw from.
        texts: N texts, whose frozen prefix all draws share.
        passes: Draws S; 0 is one pass with the mean weights.
        seed: Seed of the draws.
        rows: Indices of the texts to predict; None means all N.
        advance: Called with the number of texts after each batch of a pass.
    """
    indices = range(len(texts)) if rows is None else rows
    lengths = texts.tokens.lengths if rows is None else texts.tokens.lengths[list(rows)]
    world = current()
    rounds = [*enumerate(world.rounds(network.encoder.batches(lengths, _BATCH)))]

    def logits(numbered_round: tuple[int, list[list[int]]]) -> Tensor:
        """Return the logits of a round of batches, zero for those of other processes."""
        index, batches = numbered_round
        positions, is_own = world.turn(batches)
        batch = texts.collate([indices[position] for position in positions])
        with world.own_noise(index):
            mean: Tensor = network.head.predict(network(batch)).mean
        advance(sum(map(len, batches)))
        if world.size == 1:
            return mean
        gathered = mean.new_zeros(sum(map(len, batches)), mean.shape[1])
        if is_own:
            start = sum(map(len, batches[: world.rank]))
            gathered[start : start + len(positions)] = mean
        return gathered

    result = sample_logits(draws, logits, rounds, passes, seed)
    world.merge_(result.samples)
    order = torch.tensor(
        [position for _, batches in rounds for positions in batches for position in positions]
    )
    return SampledLogits(result.samples[:, torch.argsort(order)])


@contextmanager
def replaced(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """Replace the values of parameters within the context.

    The original values are restored bit by bit, also after an exception.

    Args:
        parameters: Parameters, changed in place.
        values: Temporary values of the same shapes.
    """
    originals = [parameter.detach().clone() for parameter in parameters]
    try:
        copy_(parameters, values)
        yield
    finally:
        copy_(parameters, originals)


def standard_normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal numbers with the shape, dtype and device of `like`.

    They are drawn on the generator's device, so that a seed yields the same numbers everywhere.
    """
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device)
    return noise.to(like.device)


@torch.no_grad()
def copy_(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    """Set the values of parameters, in place."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def split_like(flat: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return the parts of concatenated values [P] in the shapes of parameters."""
    parts = torch.split(flat, [parameter.numel() for parameter in parameters])
    return [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]


@dataclass(frozen=True)
class RandomLayer:
    """A linear layer with a random weight inside a site.

    Attributes:
        site: The site.
        key: The site's name of the layer: `A`, `B`, `core` or `sel`.
    """

    site: Site
    key: str

    @property
    def name(self) -> str:
        """The dotted name of the site and the key of the layer."""
        return f"{self.site.name}.{self.key}"

    @property
    def layer(self) -> nn.Linear:
        """The layer."""
        return self.site.linears()[self.key]

    @property
    def origin(self) -> Tensor:
        """[out, in], mean of the prior; not cached, as a site may be loaded later."""
        return self.site.origin()[self.key]


def random_layers(site: Site) -> list[RandomLayer]:
    """Return the layers of a site with free weights, not on a manifold."""
    fixed = site.manifold()
    return [RandomLayer(site, key) for key in site.linears() if key not in fixed]


def gaussian_kl(mean: Tensor, std: Tensor, prior_std: float) -> Tensor:
    """Return KL(N(mean, std²) ‖ N(0, prior_std²)) in nats, summed over all entries."""
    ratio = (std.square() + mean.square()) / (2 * prior_std**2)
    return (ratio - (std / prior_std).log() - 0.5).sum()


def initial_root(shape: torch.Size, largest: float, generator: torch.Generator) -> Tensor:
    """Return G uniform on [√(largest / 2), √largest]; G² are standard deviations.

    Source: Wang et al. 2024, arXiv 2406.11675.
    """
    low, high = (largest / 2) ** 0.5, largest**0.5
    root: Tensor = low + (high - low) * torch.rand(shape, generator=generator)
    return root


@torch.no_grad()
def step_root(root: Tensor, rate: float, prior_std: float) -> None:
    """Take a gradient step on the KL of N(·, G⁴) to N(0, prior_std²) in G, in place.

    The second term of the derivative 2G³/σp² − 2/G is evaluated at the end of the step: to first
    order this is the same, but an explicit step would be unbounded for G close to 0.

    Args:
        root: G, the root of the standard deviation.
        rate: Length of the step.
        prior_std: σp.
    """
    moved = root - rate * 2 * root**3 / prior_std**2
    sign = torch.where(moved < 0, -1.0, 1.0).to(root.dtype)
    root.copy_((moved + sign * (moved.square() + 8 * rate).sqrt()) / 2)


class KLSteps(StepHook):
    """Takes a step on the KL after each step of the adapter, with its schedule.

    The mean loss of a row plus KL / N is the negative ELBO / N.
    """

    def __init__(self, weights: MovesToPrior, lr: float, num_train: int) -> None:
        self._weights = weights
        self._lr = lr
        self._weight = 1 / num_train

    def after_step(self, step: int, optimizer: Optimizer) -> None:
        """Move the posterior towards its prior."""
        group = optimizer.param_groups[0]
        share = group["lr"] / group["initial_lr"]
        self._weights.kl_step(self._lr * share * self._weight)


class MovesToPrior(WeightPosterior):
    """Base of posteriors that train under noise, with a step on the KL after each adapter step.

    Attributes:
        config: Options, with the learning rate of the KL steps.
        prior_std: σp.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.prior_std = config.prior_std

    def kl_step(self, rate: float) -> None:
        """Take a gradient step of length `rate` on the KL."""
        raise NotImplementedError

    def noise(self) -> AbstractContextManager[None]:
        """Draw weights for each text of a pass."""
        raise NotImplementedError

    def weight_training(self, run: TrainingRun) -> WeightTraining:
        """Return a training under noise, with a step on the KL after each adapter step."""
        return WeightTraining(
            noise=lambda _: self.noise(),
            callbacks=(KLSteps(self, self.config.kl_lr, run.num_train),),
            parameters=tuple(self.parameters()),
        )
