"""How a posterior over adapter weights takes part in training, and what it is told of a fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from torch import Tensor, nn

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.low_rank import LowRank
from bayeslora.adapters.optimizers import Euclidean
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.tokens import Batch
from bayeslora.posteriors.types import Network

if TYPE_CHECKING:
    from transformers import TrainerCallback

T = TypeVar("T", bound=nn.Module)

PassNoise = Callable[[Batch], AbstractContextManager[object]]
"""Opens what a training pass of a batch happens under, such as a draw of the weights."""
Advance = Callable[[int], object]
"""Advances a progress bar by a number of texts."""
OpenBar = Callable[[str, int], AbstractContextManager[Advance]]
"""Opens a progress bar from its title and the number of texts in all."""
Rows = tuple[PreparedTexts, Tensor]
"""Texts and their labels [N] int64."""


@dataclass(frozen=True)
class WeightTraining:
    """Where a posterior over adapter weights takes part in training; by default nowhere.

    Attributes:
        noise: What each training pass happens under.
        callbacks: What watches the steps.
        parameters: What is trained with the adapter, in the learning rate of the adapter.
        optimizer: Moves the adapter's parameters that live on no manifold; None is AdamW.
        schedule: Learning rates after the warm-up: `cosine` or `constant`.
    """

    noise: PassNoise = nullcontext
    callbacks: tuple[TrainerCallback, ...] = ()
    parameters: tuple[nn.Parameter, ...] = ()
    optimizer: Euclidean | None = None
    schedule: str = "cosine"


@dataclass(frozen=True)
class TrainingRun:
    """A training that is about to begin.

    Attributes:
        network: Fresh, with the posterior in `weights`.
        adapter: Whose learning rate counts.
        num_train: Training rows N.
        num_steps: Optimiser steps, if nothing stops them early.
        batch_size: Rows in a step.
    """

    network: Network
    adapter: Adapter
    num_train: int
    num_steps: int
    batch_size: int


@dataclass(frozen=True)
class FinalFit:
    """A fit to the rows of a network whose adapters are trained.

    Attributes:
        network: Trained, with the posterior in `weights`.
        train: Rows to fit to.
        held_out: Held-out rows, or None.
        seed: Of what the fit draws.
        open_bar: Opens a progress bar, which may show nothing.
    """

    network: Network
    train: Rows
    held_out: Rows | None
    seed: int
    open_bar: OpenBar


def own_weights(network: Network, kind: type[T]) -> T:
    """Return the posterior over the weights of a network.

    Raises:
        TypeError: The network has none, or one of another kind.
    """
    if not isinstance(network.weights, kind):
        raise TypeError(f"expected {kind.__name__}, got {type(network.weights).__name__}")
    return network.weights


def low_rank_sites(network: Network) -> Sequence[LowRank]:
    """Return the sites of a network whose posterior says `over_factors`, which all are low-rank."""
    return cast("Sequence[LowRank]", network.sites)
