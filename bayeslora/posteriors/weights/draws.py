"""Draws of a network's weights: the one loop over them, and putting one in place.

Outside of a draw the adapters hold the mean weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.errors import InputError
from bayeslora.logits import SampledLogits
from bayeslora.option_checks import check_count
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

    A draw lasts for all batches, so every row sees the same networks.

    Args:
        posterior: What to draw from.
        forward: From a batch to its logits, [B, C].
        batches: Iterated once a draw, in the same order.
        num_samples: Draws S; 0 is one pass without any draw.
        seed: Of the draws.

    Returns:
        [S, N, C] float64 logits (S = 1 for `num_samples=0`).

    Raises:
        InputError: `num_samples` is negative, or there is no batch.
    """
    check_count("num_samples", num_samples, least=0)
    generator = torch.Generator().manual_seed(seed)
    kept = list(batches)
    if not kept:
        raise InputError("there are no rows to predict")

    def logits() -> Tensor:
        return torch.cat([forward(batch).double() for batch in kept])

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
        network: In evaluation mode.
        draws: What to draw from.
        texts: N texts, whose frozen prefix all draws share.
        passes: Draws S; 0 is one pass of the mean weights.
        seed: Of the draws.
        rows: Numbers of the texts to take; None takes all N.
        advance: Called with the number of texts after each batch of a pass.
    """
    chosen = range(len(texts)) if rows is None else rows
    lengths = texts.tokens.lengths if rows is None else texts.tokens.lengths[list(rows)]
    world = current()
    rounds = [*enumerate(world.rounds(network.encoder.batches(lengths, _BATCH)))]

    def logits(numbered: tuple[int, list[list[int]]]) -> Tensor:
        """Return the logits of a round of batches, zero where another process has them."""
        number, batches = numbered
        places, is_own = world.turn(batches)
        batch = texts.collate([chosen[place] for place in places])
        with world.own_noise(number):
            mean: Tensor = network.head.predict(network(batch)).mean
        advance(sum(map(len, batches)))
        if world.size == 1:
            return mean
        whole = mean.new_zeros(sum(map(len, batches)), mean.shape[1])
        if is_own:
            start = sum(map(len, batches[: world.rank]))
            whole[start : start + len(places)] = mean
        return whole

    found = sample_logits(draws, logits, rounds, passes, seed)
    world.merge_(found.samples)
    order = torch.tensor([place for _, batches in rounds for places in batches for place in places])
    return SampledLogits(found.samples[:, torch.argsort(order)])


@contextmanager
def replaced(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """Hold other values in parameters while the context lasts.

    The very bits of before come back, also after an exception.

    Args:
        parameters: What is changed in place.
        values: What they hold meanwhile, of the same shapes.
    """
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        _copy(parameters, values)
        yield
    finally:
        _copy(parameters, kept)


def standard_normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal numbers of the shape, precision and device of `like`.

    They are drawn where the generator is, so that a seed means the same on every device.
    """
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device)
    return noise.to(like.device)


@torch.no_grad()
def _copy(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
