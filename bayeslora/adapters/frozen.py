"""No adapter: a last layer on frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from bayeslora.adapters.base import Adapter
from bayeslora.option_checks import Pooling


@dataclass(frozen=True)
class Frozen(Adapter):
    """No adapter: only the last layer is fitted.

        z = W φ(x)        φ is frozen, W is fitted

    This takes one pass over the data, and seconds.
    """

    name: ClassVar[str] = "none"
    has_sites: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    summary: ClassVar[str] = "no adapter: a last layer on frozen features, fitted in seconds"
    use: ClassVar[str] = (
        "A first result in seconds, or very few labelled examples on a strong backbone."
    )
    source: ClassVar[str] = "Alain and Bengio 2017, arXiv 1610.01644"

    pooling: Literal["auto", "last", "mean"] = "auto"
    """Feature of a text: the state of its `last` token, or the `mean` over its tokens. `auto` means
    the last token of a decoder with a template (where it would name the class), the class token of
    a vision model, and the mean otherwise."""

    def first_layer(
        self, model: nn.Module, names: Sequence[str], *, is_cut: bool
    ) -> tuple[str, int]:
        """Return the last layer of a cut backbone, from which a greater depth continues.

        A whole backbone needs no cached states.
        """
        from bayeslora.foreign import find_layers

        if not is_cut:
            return "", 0
        path, layers = find_layers(model)
        return path, len(layers) - 1

    def pooling_of(self, usual: Pooling, *, reads_end: bool) -> Pooling:
        """Return the chosen feature."""
        auto: Pooling = "last" if reads_end else "mean"
        auto = "first" if usual == "first" else auto
        poolings: dict[str, Pooling] = {"auto": auto, "last": "last", "mean": "mean"}
        return poolings[self.pooling]
