"""Conditioning of a network's passes on the example, such as the gates of an adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn


class Conditioning(nn.Module):
    """Passes the contexts of examples to the network; trained, saved and moved with an adapter.

    A context is a fixed vector per example, computed once and independent of the other examples
    of a batch. `Encoder` calls `applied` around each pass.
    """

    def learn(self, rows: Any) -> None:
        """Fit the computation of contexts to the inputs of training rows, never to their labels.

        Args:
            rows: The `Examples` of the training file.
        """

    def contexts(self, rows: Any, count: int, features: Callable[[], Tensor]) -> Tensor:
        """Return the contexts [N, k] float32 of examples, on the CPU.

        Args:
            rows: `Examples`, or None for texts without any.
            count: Number of examples N.
            features: Returns their features [N, d] from the frozen backbone.
        """
        raise NotImplementedError

    def begin(self, contexts: Tensor) -> None:
        """Set location and scale from the contexts [N, k] of the initial training rows."""

    def applied(self, contexts: Tensor | None) -> AbstractContextManager[object]:
        """Return a context manager for a pass of examples with contexts [B, k].

        Raises:
            InputError: There are no contexts, and it is not `closed`.
        """
        raise NotImplementedError

    def closed(self) -> AbstractContextManager[object]:
        """Return a context manager under which passes are those of the frozen backbone."""
        raise NotImplementedError

    def figures(self, contexts: Tensor) -> dict[str, float]:
        """Return diagnostics of whether the contexts [N, k] of the training rows matter."""
        return {}

    def advice(self, figures: Mapping[str, float]) -> str:
        """Return a warning about the figures of a finished fit; empty if there is none."""
        return ""

    def resize(self, tensors: Mapping[str, Tensor]) -> None:
        """Resize tensors to the shapes of those in a file, if these determine them."""
