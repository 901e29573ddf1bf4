"""The order in which training rows are seen."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from bayeslora.backbones.encoder import Batch, PreparedTexts

_POOL_BATCHES = 8


class RowNumbers(Dataset[int]):
    """The row numbers 0 to N - 1; the collator turns them into a batch."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, row: int) -> int:
        return row


class LengthBatchSampler(Sampler[list[int]]):
    """Random batches of similar length, the same for the same seed and epoch.

    Rows are shuffled, sorted by length within pools of a few batches, cut into batches, and the
    batches are shuffled. Padding stays low and every epoch sees every row once.
    """

    def __init__(self, lengths: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self.drop_last = False
        self.lengths = lengths
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of epoch `epoch`, counted from 0."""
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
        for place in rng.permutation(len(batches)):
            yield batches[place]


class Collator:
    """Turns row numbers into a padded batch with its labels."""

    def __init__(self, prepared: PreparedTexts, labels: Tensor) -> None:
        """Keep the texts and their labels [N] int64."""
        self._prepared = prepared
        self._labels = labels

    def __call__(self, rows: list[int]) -> Batch:
        """Return the batch of `rows`, with `labels` [B] int64."""
        return {**self._prepared.collate(rows), "labels": self._labels[torch.tensor(rows)]}
