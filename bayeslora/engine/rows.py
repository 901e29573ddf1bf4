"""Labelled texts prepared for a network: their batches, and their features for its last layer."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from bayeslora.backbones.encoder import Encoder, PreparedTexts
from bayeslora.backbones.final_layer import FinalLayerEncoder
from bayeslora.backbones.tokens import Batch
from bayeslora.checkpoint import ModelRecord
from bayeslora.data.examples import Examples
from bayeslora.engine.data import LabelledExamples
from bayeslora.engine.network import Network
from bayeslora.engine.progress import progress_bar
from bayeslora.posteriors.features import Features
from bayeslora.processes import current

logger = logging.getLogger(__name__)

_POOL_BATCHES = 8


def prepare(
    encoder: Encoder | FinalLayerEncoder,
    rows: LabelledExamples,
    *,
    progress: bool,
    say: bool = True,
    num_options: int | None = None,
) -> PreparedTexts:
    """Tokenise rows and run the frozen layers below the first adapted one.

    Args:
        encoder: Maps texts to features.
        rows: Rows with their labels [N] int64.
        progress: Whether to show a progress bar.
        say: Whether to warn about truncated texts.
        num_options: Number of options that questions are padded to; None for the largest of a row.
    """
    examples, labels = rows
    with progress_bar("frozen layers", len(examples), shown=progress, unit="text") as advance:
        texts = encoder.prepare(**inputs(examples, num_options), advance=advance, keep=True)
    if say:
        say_truncation(examples.source, texts.tokens.num_truncated, len(texts), encoder.max_length)
    return replace(texts, labels=labels)


def inputs(examples: Examples, num_options: int | None = None) -> dict[str, Any]:
    """Return the arguments of an encoder's `prepare` for rows.

    Args:
        examples: N rows.
        num_options: Number of options that questions are padded to; None for the largest of a row.
    """
    return {
        "texts": examples.texts,
        "pairs": examples.pairs,
        "choices": examples.choices,
        "available": examples.available(num_options),
        "rows": examples,
    }


def say_truncation(source: str, num_truncated: int, total: int, max_length: int) -> None:
    """Warn about truncated texts, if there are any."""
    if num_truncated:
        logger.warning(
            "%s: %d of %d texts (%.0f %%) are longer than %d tokens and were truncated",
            source,
            num_truncated,
            total,
            100 * num_truncated / total,
            max_length,
        )


def say_fitted_to(record: ModelRecord, data: str, source: str) -> None:
    """Warn if the rows to predict are those that a model was fitted to.

    Args:
        record: Record of the model.
        data: `data_hash` of the rows.
        source: Name of the rows.
    """
    rows = record.results.get("calibration", {}).get("fitted_to", "train")
    if rows != "nothing" and data in {record.data.get(rows), record.data.get("whole")}:
        logger.warning(
            "%s contains rows that the model was fitted to, so scores on them are optimistic; "
            "use rows that it has not seen",
            source,
        )


SCALE_ROWS = 64
"""Texts for the scale of features: their root mean square, and so the meaning of a prior scale, is
within 0.3 % (SmolLM2-135M) and 4 % (MiniLM) of that of all texts, without a cost in NLL
(`reports/archive/scale-rows`)."""


def set_feature_scale(network: Network, texts: PreparedTexts) -> None:
    """Set the feature scale to their root mean square norm, so that prior scales are in logits.

    It is computed from at most `SCALE_ROWS` evenly spaced texts.
    """
    network.eval()
    rows = np.unique(np.linspace(0, len(texts) - 1, SCALE_ROWS).round().astype(int))
    features = network.encoder.features(texts, rows=rows.tolist())
    network.feature_scale.fill_(network.encoder.root_mean_square(features))


def feature_rows(network: Network, texts: PreparedTexts) -> Features:
    """Return the labelled features of texts from the network in evaluation mode."""
    network.eval()
    return network.features_of(texts, texts.labels)


class LengthBatchSampler(Sampler[list[int]]):
    """Random batches of similar length, determined by seed and epoch.

    Rows are shuffled, sorted by length within pools of a few batches, and cut into batches, which
    are shuffled. Padding stays low and every epoch sees every row once.
    """

    def __init__(self, lengths: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self.lengths = lengths
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, which determines the order."""
        self._epoch = int(epoch)

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(len(self.lengths))
        pool = self.batch_size * _POOL_BATCHES
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            rows = order[start : start + pool]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += [
                rows[first : first + self.batch_size].tolist()
                for first in range(0, len(rows), self.batch_size)
            ]
        for index in rng.permutation(len(batches)):
            yield batches[index]


class Collator:
    """Turns row numbers into a padded batch with labels."""

    def __init__(self, rows: PreparedTexts) -> None:
        """Store the rows."""
        self._rows = rows

    def __call__(self, rows: list[int]) -> Batch:
        """Return the batch of `rows`, with `labels` [B] int64.

        Each of several processes gets its share of the texts, at least one, and all labels.
        """
        part = rows[current().share(len(rows))] or rows[:1]
        labels = self._rows.labels[torch.tensor(rows)]
        return {**self._rows.collate(part), "labels": labels}


def unknown_labels(rows: Examples, codes: NDArray[np.int64]) -> dict[str, tuple[str | None, ...]]:
    """Return the labels that are not classes as the further column `unknown_label`.

    Args:
        rows: Rows, labelled or not.
        codes: [N] int64, the index of each row's label among the classes, -1 if there is none.
    """
    labels = (
        None if label is None or code >= 0 else str(label)
        for label, code in zip(rows.labels, codes.tolist(), strict=True)
    )
    return {"unknown_label": tuple(labels)}
