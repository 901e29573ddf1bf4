"""Predictions under draws of a network's weights, and temporary replacement of parameters.

Outside a draw the adapters hold the mean weights.

Linear layers of an adapter with random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from bayeslora.adapters.site import Site
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.errors import InputError
from bayeslora.logits import SampledLogits
from bayeslora.posteriors.types import Network, WeightPosterior
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
        _copy(parameters, values)
        yield
    finally:
        _copy(parameters, originals)


def standard_normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal numbers with the shape, dtype and device of `like`.

    They are drawn on the generator's device, so that a seed yields the same numbers everywhere.
    """
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device)
    return noise.to(like.device)


@torch.no_grad()
def _copy(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


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


def check_texts_apart(name: str, states: Tensor, num_texts: int | None) -> None:
    """Raise InputError if the inputs of a site are not separated by text.

    Args:
        name: Name of the site.
        states: [B, …, d] if separated; some networks pass the tokens of all texts in one list.
        num_texts: B; None if unknown.

    Raises:
        InputError: The inputs are not separated by text.
    """
    if num_texts is not None and len(states) != num_texts:
        raise InputError(
            f"the posterior draws weights per text, but the adapter at {name} has inputs of shape "
            f"{list(states.shape)}, which does not start with the {num_texts} texts of the batch; "
            "choose other target_modules"
        )
