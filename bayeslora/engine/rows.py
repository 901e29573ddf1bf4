"""Labelled texts, ready for a network, and their features as its last layer sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from bayeslora.backbones.encoder import Encoder, PreparedTexts
from bayeslora.backbones.final_encoder import FinalLayerEncoder
from bayeslora.engine.data import say_truncation
from bayeslora.engine.network import Network
from bayeslora.engine.progress import progress_bar
from bayeslora.engine.settings import LabelledExamples
from bayeslora.posteriors.features import Features
from bayeslora.tasks.examples import Examples


@dataclass(frozen=True)
class LabelledTexts:
    """Prepared texts with their labels [N] int64."""

    texts: PreparedTexts
    labels: Tensor

    @property
    def num_options(self) -> int:
        """The options that a question is made room for; 0 for texts."""
        return self.texts.tokens.num_options

    def take(self, rows: list[int]) -> LabelledTexts:
        """Return some of the rows."""
        return LabelledTexts(self.texts.take(rows), self.labels[rows])


def prepare(
    encoder: Encoder | FinalLayerEncoder,
    rows: LabelledExamples,
    *,
    progress: bool,
    say: bool = True,
    num_options: int | None = None,
) -> LabelledTexts:
    """Tokenise rows and run the frozen prefix, with a bar, saying how many texts were cut.

    Args:
        encoder: From texts to features.
        rows: With their labels [N] int64.
        progress: Whether to show a bar.
        say: Whether to log how many texts were cut.
        num_options: The options that a question is made room for; None for the most of a row.
    """
    examples, labels = rows
    with progress_bar("frozen layers", len(examples), shown=progress, unit="text") as advance:
        texts = encoder.prepare(**inputs(examples, num_options), advance=advance, keep=True)
        texts = encoder.with_contexts(texts, examples)
    if say:
        say_truncation(examples.source, texts.tokens.num_truncated, len(texts), encoder.max_length)
    return LabelledTexts(texts, labels)


def inputs(examples: Examples, num_options: int | None = None) -> dict[str, Any]:
    """Return what an encoder reads of rows, as arguments of `prepare`.

    Args:
        examples: N rows.
        num_options: The most options of a question; None for the most among these rows.
    """
    return {
        "texts": examples.texts,
        "pairs": examples.pairs,
        "choices": examples.choices,
        "available": examples.available(num_options),
    }


SCALE_ROWS = 64
"""Texts that tell the scale of features: the root mean square of so many, and with it what a prior
scale means, is within 0.3 % (SmolLM2-135M) and 4 % (MiniLM) of that of all;
`benchmarks/scale_rows`
found no cost in NLL."""


def set_feature_scale(network: Network, texts: PreparedTexts) -> int:
    """Divide features by their root mean square norm, so that prior scales mean logits.

    It is taken of at most `SCALE_ROWS` texts, spread evenly over the rows.

    Returns:
        How many texts that were.
    """
    network.eval()
    rows = np.unique(np.linspace(0, len(texts) - 1, SCALE_ROWS).round().astype(int))
    features = network.encoder.features(texts, rows=rows.tolist())
    network.feature_scale.fill_(network.encoder.root_mean_square(features))
    return len(rows)


@dataclass(frozen=True)
class FeatureRows:
    """Rows as the last layer sees them.

    Attributes:
        source: The texts and labels.
        features: Labelled, float32, where the head is.
    """

    source: LabelledTexts
    features: Features


@dataclass(frozen=True)
class KnownRows:
    """Rows as they were read, and as the last layer of a finished network sees them."""

    examples: Examples
    rows: FeatureRows


def feature_rows(network: Network, rows: LabelledTexts) -> FeatureRows:
    """Return rows with the features that the network gives them in evaluation mode."""
    network.eval()
    return FeatureRows(rows, network.scaled(network.encoder.features(rows.texts), rows.labels))
