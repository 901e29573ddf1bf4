"""What makes a network's passes depend on the example, such as the gates of an adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn


class Conditioning(nn.Module):
    """Gives every pass the contexts of its examples; trained, saved and moved with an adapter.

    A context is a fixed vector for each example, computed once, that does not depend on the other
    examples of a batch. `Encoder` calls `applied` around each pass.
    """

    def learn(self, rows: Any) -> None:
        """Fit what contexts are read with to the inputs of training rows, never to their labels.

        Args:
            rows: The `Examples` of the training file.
        """

    def contexts(self, rows: Any, count: int, features: Callable[[], Tensor]) -> Tensor:
        """Return the contexts [N, k] float32 of examples, on the CPU.

        Args:
            rows: `Examples`, or None for texts that are not those of any.
            count: N.
            features: Returns the features [N, d] that the frozen backbone gives them.
        """
        raise NotImplementedError

    def begin(self, contexts: Tensor) -> None:
        """Take scale and place from the contexts [N, k] of the rows that training begins with."""

    def applied(self, contexts: Tensor | None) -> AbstractContextManager[object]:
        """Open what a pass of examples with contexts [B, k] happens under.

        Raises:
            InputError: There are none, and it is not `closed`.
        """
        raise NotImplementedError

    def closed(self) -> AbstractContextManager[object]:
        """Return a context in which passes are those of the frozen backbone."""
        raise NotImplementedError

    def figures(self, contexts: Tensor) -> dict[str, float]:
        """Return what tells whether the contexts [N, k] of the training rows make a difference."""
        return {}

    def advice(self, figures: Mapping[str, float]) -> str:
        """Return a warning about the figures of a finished fit; empty where there is none."""
        return ""

    def resize(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the shapes of the tensors of a file, where these decide them."""
