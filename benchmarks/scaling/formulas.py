"""Memory and multiplications of a fit, from the sizes of its decoder and its data."""

from __future__ import annotations

from dataclasses import dataclass

SAVED_WIDTHS, SAVED_HIDDEN = 9, 3
"""Values that autograd saves per token in an adapted layer: multiples of d (two norms in float32 as
two each, queries, keys, values, the attention's output and the input of the adapters) and of the
width of the feed-forward part (gate, its activation, up)."""
ADAM = 16
"""Bytes per trained parameter: value, gradient and two moments, in float32."""


@dataclass(frozen=True)
class Decoder:
    """Sizes of a Llama-like decoder.

    Attributes:
        name: Name in tables.
        width: Hidden size d.
        hidden: Width of the feed-forward part.
        kv_width: Width of the keys over all heads.
        layers: Number of layers L.
        vocabulary: Vocabulary size V.
    """

    name: str
    width: int
    hidden: int
    kv_width: int
    layers: int
    vocabulary: int

    @property
    def layer(self) -> int:
        """Weights per layer: four projections of the attention, three of the feed-forward part."""
        d = self.width
        return 2 * d * d + 2 * d * self.kv_width + 3 * d * self.hidden

    @property
    def weights(self) -> int:
        """Loaded weights; a classifier needs no language-model head."""
        return self.layers * self.layer + self.vocabulary * self.width


@dataclass(frozen=True)
class Fit:
    """Sizes of a fit.

    Attributes:
        rows: Training rows N.
        tokens: Tokens per row T.
        epochs: Number of epochs E.
        batch: Rows per step.
        held_out: Validation rows.
        adapted: Number of last layers with adapters, on queries and values.
        depth: Share of the layers that is used.
        rank: Rank r of the adapters.
        classes: Number of classes C.
        bytes_a_weight: 2 in bfloat16, 4 in float32.
        caches: Whether the states below the adapters are cached.
    """

    rows: int
    tokens: int
    epochs: int
    batch: int = 16
    held_out: int = 0
    adapted: int = 6
    depth: float = 0.8
    rank: int = 8
    classes: int = 2
    bytes_a_weight: int = 2
    caches: bool = True


def below(decoder: Decoder, fit: Fit) -> int:
    """Return the number of layers below the first adapted layer."""
    return max(0, round(fit.depth * decoder.layers) - fit.adapted)


def multiplications(decoder: Decoder, fit: Fit) -> dict[str, float]:
    """Return the multiplications of matrix products by part, without attention scores.

    A forward pass takes one per weight and token of a layer; the backward pass takes one more,
    since frozen weights need no gradient, and none through the first adapted layer's frozen
    weights.
    """
    tokens, held_out = fit.rows * fit.tokens, fit.held_out * fit.tokens
    upper = fit.adapted * decoder.layer
    # Features of the final fit and of each validated epoch; the feature scale uses few rows, and
    # the finished model predicts the validation rows once more.
    passes = 1 + (fit.epochs if fit.held_out else 0)
    scale = min(64, fit.rows) * fit.tokens
    return {
        "frozen layers, once": below(decoder, fit) * decoder.layer * (tokens + held_out),
        "training": fit.epochs * tokens * 2 * upper,
        "features": (passes * (tokens + held_out) + scale + held_out) * upper,
    }


def memory(decoder: Decoder, fit: Fit) -> dict[str, float]:
    """Return bytes by part."""
    d = decoder.width
    trained = fit.adapted * fit.rank * ((d + d) + (d + decoder.kv_width))
    caches = fit.caches and below(decoder, fit) > 0
    saved = (SAVED_WIDTHS * d + SAVED_HIDDEN * decoder.hidden) * fit.bytes_a_weight
    return {
        "weights": decoder.weights * fit.bytes_a_weight,
        "cached states": (fit.rows + fit.held_out) * fit.tokens * d * 2 if caches else 0,
        "activations": fit.batch * fit.tokens * fit.adapted * saved,
        "adapter and optimiser": ADAM * trained,
        # The dense covariance of the last layer and its factor, in float64.
        "last layer": 2 * 8 * fit.classes * d * d,
    }


LLAMAS = (
    Decoder("Llama-3.2-1B", 2048, 8192, 512, 16, 128256),
    Decoder("Llama-3.1-8B", 4096, 14336, 1024, 32, 128256),
    Decoder("Llama-3.1-70B", 8192, 28672, 1024, 80, 128256),
)
PAPER = Fit(rows=4957, tokens=100, epochs=8, batch=8, classes=4)
"""OpenBookQA's training questions for 5,000 steps."""
