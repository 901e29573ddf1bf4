"""Hooks of posteriors over adapter weights in training, and descriptions of a fit for them."""

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
"""Opens the context of a training pass of a batch, such as a draw of the weights."""
Advance = Callable[[int], object]
"""Advances a progress bar by a number of texts."""
OpenBar = Callable[[str, int], AbstractContextManager[Advance]]
"""Opens a progress bar with a title and the total number of texts."""
Rows = tuple[PreparedTexts, Tensor]
"""Texts and their labels [N] int64."""


@dataclass(frozen=True)
class WeightTraining:
    """How a posterior over adapter weights takes part in training; by default it does not.

    Attributes:
        noise: Context of each training pass.
        callbacks: Callbacks of the steps.
        parameters: Parameters trained with the adapter, at the learning rate of the adapter.
        optimizer: Optimiser of the adapter's parameters that are on no manifold; None is AdamW.
        schedule: Learning-rate schedule after the warm-up: `cosine` or `constant`.
    """

    noise: PassNoise = nullcontext
    callbacks: tuple[TrainerCallback, ...] = ()
    parameters: tuple[nn.Parameter, ...] = ()
    optimizer: Euclidean | None = None
    schedule: str = "cosine"


@dataclass(frozen=True)
class TrainingRun:
    """A training run before its start.

    Attributes:
        network: Fresh, with the posterior in `weights`.
        adapter: Adapter, whose learning rate applies.
        num_train: Training rows N.
        num_steps: Optimiser steps without early stopping.
        batch_size: Rows per step.
    """

    network: Network
    adapter: Adapter
    num_train: int
    num_steps: int
    batch_size: int


@dataclass(frozen=True)
class FinalFit:
    """A final fit to rows, for a network with trained adapters.

    Attributes:
        network: Trained, with the posterior in `weights`.
        train: Rows to fit to.
        held_out: Held-out rows, or None.
        seed: Seed of the draws of the fit.
        open_bar: Opens a progress bar, which may be invisible.
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
    """Return the sites of a network with an `over_factors` posterior, which are all low-rank."""
    return cast("Sequence[LowRank]", network.sites)
