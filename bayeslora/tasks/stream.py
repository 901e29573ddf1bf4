"""Examples in pieces, after a first pass that checks all of them.

The pass stores eight bytes per row, a hash of its id. It determines the properties of the whole
file: whether rows have ids, whether they share lines, and whether labels read from text are
integers.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bayeslora.errors import InputError
from bayeslora.plain_text import shown
from bayeslora.tables.table import PIECE
from bayeslora.tasks.columns import RowChecks, as_integer, is_integer
from bayeslora.tasks.examples import Examples, is_numbered, joined

logger = logging.getLogger(__name__)


@dataclass
class Survey:
    """Properties of a table's examples, collected in a pass over them.

    Attributes:
        num_rows: Number of examples.
        num_skipped: Number of skipped rows.
        has_ids: Whether rows have ids.
        shares_lines: Whether several rows are on one line, so that lines do not identify rows.
        integer_labels: Whether all labels read from text are integers.
        decimal_labels: Whether all labels consist of digits.
        negative_labels: Whether a label begins with a minus sign.
        has_pairs: Whether any row has a non-empty second text.
    """

    num_rows: int = 0
    num_skipped: int = 0
    has_ids: bool = False
    shares_lines: bool = False
    integer_labels: bool = False
    decimal_labels: bool = True
    negative_labels: bool = False
    has_pairs: bool = False

    @property
    def numbered(self) -> bool:
        """Whether all labels are non-negative integers, like class indices."""
        # `1.0` in a file is the integer 1.
        return not self.negative_labels if self.integer_labels else self.decimal_labels


@dataclass(frozen=True)
class ExampleStream:
    """Examples that can be read repeatedly in pieces.

    Attributes:
        source: Path of the file, or a placeholder such as `<list>` for data in memory.
        num_rows: Number of examples.
        numbered: Whether all labels are non-negative integers, like class indices.
        read: Function of the number of rows per piece; see `pieces`.
        notes: Metadata for predictions of these rows.
    """

    source: str
    num_rows: int
    numbered: bool
    read: Callable[[int], Iterator[Examples]]
    notes: Mapping[str, str] = field(default_factory=dict)

    def pieces(self, rows: int = PIECE) -> Iterator[Examples]:
        """Yield all examples in order, at most `rows` at a time, from the start at each call.

        Raises:
            InputError: The file has changed.
        """
        return self.read(rows)


def stream_of(examples: Examples) -> ExampleStream:
    """Return examples in memory as a stream."""

    def read(rows: int) -> Iterator[Examples]:
        for start in range(0, len(examples), rows):
            yield examples.take(range(start, min(start + rows, len(examples))))

    return ExampleStream(examples.source, len(examples), is_numbered(examples.labels), read)


def open_stream(checks: RowChecks) -> ExampleStream:
    """Check all examples of a table and return a stream that rereads them.

    Raises:
        InputError: A value is not allowed, an id is repeated, or no row is left.
    """
    survey = Survey(integer_labels=checks.table.is_text)
    for _ in _surveyed(checks, survey):
        pass

    def read(rows: int) -> Iterator[Examples]:
        for piece in checks.table.pieces(checks.column_names, rows):
            examples = checks.examples(piece, has_ids=survey.has_ids)
            if len(examples):
                yield _finished(examples, survey)

    return ExampleStream(checks.table.source, survey.num_rows, survey.numbered, read)


def load_all(checks: RowChecks) -> Examples:
    """Return all examples of a table in one pass.

    Raises:
        InputError: As for `open_stream`.
    """
    survey = Survey(integer_labels=checks.table.is_text)
    return _finished(joined(list(_surveyed(checks, survey))), survey)


def _surveyed(checks: RowChecks, survey: Survey) -> Iterator[Examples]:
    """Yield a table's examples before `_finished`, and fill in the survey."""
    hashes = array("q")
    total, last_row = 0, 0
    for piece in checks.table.pieces(checks.column_names, PIECE):
        if not total:
            survey.has_ids = checks.has_ids(piece)
        examples = checks.examples(piece, has_ids=survey.has_ids)
        total += len(piece.rows)
        survey.num_rows += len(examples)
        rows = np.asarray([last_row, *piece.rows])
        survey.shares_lines |= bool((np.diff(rows) <= 0).any())
        last_row = int(rows[-1])
        if survey.has_ids:
            hashes.extend(map(hash, examples.ids))
        survey.has_pairs |= any(examples.pairs or ())
        _note_labels(survey, examples)
        yield examples
    if not survey.num_rows:
        raise InputError(
            f"{checks.table.source}: every row is blank ({total}), so no rows are left"
        )
    survey.num_skipped = total - survey.num_rows
    if survey.num_skipped:
        logger.warning(
            "%s: skipped %d of %d rows, which have no text or repeated options",
            checks.table.source,
            survey.num_skipped,
            total,
        )
    _check_distinct(checks, hashes)


def _note_labels(survey: Survey, examples: Examples) -> None:
    labels = set(examples.labels)
    survey.integer_labels = survey.integer_labels and all(map(is_integer, labels))
    survey.decimal_labels = survey.decimal_labels and is_numbered(labels)
    survey.negative_labels |= any(str(label).startswith("-") for label in labels)


def _check_distinct(checks: RowChecks, hashes: array[int]) -> None:
    """Raise InputError for repeated ids; only ids with equal hashes are compared."""
    ordered = np.sort(np.frombuffer(hashes, np.int64))
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not suspects:
        return
    first: dict[str, int] = {}
    for piece in checks.table.pieces(checks.column_names, PIECE):
        examples = checks.examples(piece, has_ids=True)
        for name, row in zip(examples.ids, examples.rows, strict=True):
            if hash(name) not in suspects:
                continue
            if name in first:
                raise InputError(
                    f"{checks.table.source}, row {row}, column 'id': {shown(name)} duplicates "
                    f"the id of row {first[name]}; ids must be unique"
                )
            first[name] = row


def _finished(examples: Examples, survey: Survey) -> Examples:
    """Adapt ids, labels and pairs to the survey of the whole table."""
    ids: Sequence[str] = examples.ids
    if not survey.has_ids and not survey.shares_lines:
        ids = tuple(map(str, examples.rows))
    labels = examples.labels
    if survey.integer_labels:
        labels = tuple(map(as_integer, labels))
    pairs = examples.pairs if survey.has_pairs else None
    return replace(examples, ids=tuple(ids), labels=labels, pairs=pairs)
