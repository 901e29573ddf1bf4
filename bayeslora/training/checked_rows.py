"""Rows to predict, checked in one pass before any model is loaded, then read again in pieces."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bayeslora.checkpoint import ModelRecord
from bayeslora.errors import InputError
from bayeslora.tasks.examples import Examples, joined
from bayeslora.tasks.stream import ExampleStream
from bayeslora.training.data import Unknown, encode_for

if TYPE_CHECKING:
    from torch import Tensor

    from bayeslora.training.choices import LabelledExamples

PIECE = 2048
"""Rows that are predicted at a time."""


@dataclass(frozen=True)
class CheckedRows:
    """Rows to predict, read and checked once.

    Attributes:
        record: Of the model.
        stream: The rows.
        unknown: What to do with a label that is not a class.
        digests: SHA-256 of ids, texts, labels and further columns, for each piece.
        num_labelled: How many rows have a label that is a class.
    """

    record: ModelRecord
    stream: ExampleStream
    unknown: Unknown
    digests: tuple[bytes, ...]
    num_labelled: int

    @classmethod
    def of(cls, record: ModelRecord, stream: ExampleStream, unknown: Unknown) -> CheckedRows:
        """Read the rows once.

        Args:
            record: Of the model.
            stream: The rows.
            unknown: What to do with a label that is not a class.

        Raises:
            InputError: A label is not a class and `unknown` is not `ood`.
        """
        digests = []
        labelled = 0
        for rows in _whole_pieces(stream):
            codes = encode_for(record, rows, unknown, numbered=stream.numbered)
            digests.append(_digest(rows))
            labelled += int((codes >= 0).sum())
        return cls(record, stream, unknown, tuple(digests), labelled)

    @property
    def digest(self) -> str:
        """SHA-256 of all rows."""
        return hashlib.sha256(b"".join(self.digests)).hexdigest()

    @property
    def num_pieces(self) -> int:
        """How many pieces of `PIECE` rows there are."""
        return -(-self.stream.num_rows // PIECE)

    def piece_size(self, number: int) -> int:
        """Return the rows of a piece, counted from 0."""
        return min(PIECE, self.stream.num_rows - number * PIECE)

    def pieces(self) -> Iterator[LabelledExamples]:
        """Yield the rows, `PIECE` at a time, with the index of each label; -1 where there is none.

        Raises:
            InputError: The rows are no longer what they were.
        """
        import torch

        changed = InputError(f"{self.stream.source} was changed while it was read; run it again")
        count = 0
        for count, rows in enumerate(_whole_pieces(self.stream), 1):
            # Before anything is made of a piece: what is made is kept for the next run.
            if count > len(self.digests) or _digest(rows) != self.digests[count - 1]:
                raise changed
            codes = encode_for(self.record, rows, self.unknown, numbered=self.stream.numbered)
            yield rows, torch.from_numpy(codes)
        if count != len(self.digests):
            raise changed


def split(rows: Examples, labels: Tensor) -> Iterator[LabelledExamples]:
    """Yield runs of `PIECE` rows with their labels [N] int64; the last may be shorter."""
    if len(rows) <= PIECE:
        yield rows, labels
        return
    for start in range(0, len(rows), PIECE):
        some = range(start, min(start + PIECE, len(rows)))
        yield rows.take(some), labels[some.start : some.stop]


def _digest(rows: Examples) -> bytes:
    fields = [rows.ids, rows.texts, rows.pairs, rows.labels, *rows.further.items()]
    return hashlib.sha256(json.dumps(fields).encode()).digest()


def _whole_pieces(stream: ExampleStream) -> Iterator[Examples]:
    """Yield runs of exactly `PIECE` rows, but for the last, whatever the reader leaves out."""
    waiting: Examples | None = None
    for rows in stream.pieces(PIECE):
        found = rows if waiting is None else joined([waiting, rows])
        waiting = found
        if len(found) == PIECE:
            yield found
            waiting = None
        elif len(found) > PIECE:
            yield found.take(range(PIECE))
            waiting = found.take(range(PIECE, len(found)))
    if waiting is not None:
        yield waiting
