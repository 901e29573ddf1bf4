"""Read and check the data that a user passes, before any model is loaded."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bayeslora.checkpoint import ADAPTED, ModelRecord
from bayeslora.data.columns import DataColumns, MissingColumnError
from bayeslora.data.examples import LETTERS, DataHash, Examples, encode_labels, is_numbered, joined
from bayeslora.data.read import ExampleStream, as_texts, kept, load_rows, open_examples, stream_of
from bayeslora.data.union import TASK, among_own, check_tasks, is_union, no_task, union, with_tasks
from bayeslora.errors import InputError
from bayeslora.held_out import MOST_DISTINCT, MOST_EQUAL
from bayeslora.option_checks import BelowOne, Format, checked
from bayeslora.plain_text import counted
from bayeslora.posteriors import feature_scores as feature_options
from bayeslora.predictions.record import check_further

if TYPE_CHECKING:
    from torch import Tensor

    from bayeslora.posteriors.base import Posterior


logger = logging.getLogger(__name__)

# Default class names of transformers.
_GENERIC = re.compile(r"LABEL_\d+")
_KEEP_UNKNOWN = (
    "Keep such rows as out of distribution with unknown_labels='ood' (--unknown-labels ood)"
)


LabelledExamples: TypeAlias = "tuple[Examples, Tensor]"
"""Rows and their labels [N] int64."""

Unknown = Literal["error", "ood"]
"""How to treat a label that is not a class: raise, or keep the row as out of distribution."""


def open_rows(data: Any, columns: DataColumns, keep: str | Sequence[str] = ()) -> ExampleStream:
    """Return the examples in `data` as a stream, labelled or not, with further columns to keep.

    Raises:
        InputError: As `open_examples`, or a column name is reserved for predictions.
    """
    if isinstance(data, Examples):
        return stream_of(kept(data, _checked_names(keep)))
    return open_examples(as_texts(data), columns, keep=_checked_names(keep))


def read_rows(data: Any, columns: DataColumns, keep: str | Sequence[str] = ()) -> Examples:
    """Return the examples in `data`, labelled or not, with further columns to keep.

    A string is a text or the path of a file; see `as_texts`.

    Raises:
        InputError: As `load_examples`, or a column name is reserved for predictions.
    """
    if isinstance(data, Examples):
        return kept(data, _checked_names(keep))
    return load_rows(as_texts(data), columns, keep=_checked_names(keep))


def _checked_names(keep: str | Sequence[str]) -> Sequence[str]:
    names = (keep,) if isinstance(keep, str) else keep
    check_further(names)
    return names


def read_for(
    record: ModelRecord, data: Any, columns: DataColumns, keep: str | Sequence[str] = ()
) -> Examples:
    """Return rows for a model, as `read_rows`; with their tasks for a model of several tasks.

    Args:
        record: Record of the model.
        data: As for `read_rows`; for several tasks a mapping from their names to data, or rows with
            a column `task`, which is optional if rows are classified among all classes.
        columns: Columns to read.
        keep: Further columns to keep.

    Raises:
        InputError: As `read_rows`; or a row has no task, or an unknown one.
    """
    if is_union(data):
        if not record.tasks:
            raise InputError(
                "the classifier was fitted to one task; pass its rows without a task name"
            )
        check_tasks(data, [*record.tasks], "the classifier")
        parts = {task: read_rows(rows, columns, keep) for task, rows in data.items()}
        if not parts:
            raise InputError("data by task is empty; name at least one task")
        return union(parts, None if record.across_tasks else record.tasks)
    if not record.tasks:
        return read_rows(data, columns, keep)

    rows = [*data] if isinstance(data, Iterator) else data  # may be read twice

    def read(keep: Sequence[str]) -> Examples:
        return read_rows(rows, columns, keep)

    return told_apart(record, read, (keep,) if isinstance(keep, str) else keep)


def told_apart(
    record: ModelRecord, read: Callable[[Sequence[str]], Examples], keep: Sequence[str]
) -> Examples:
    """Return rows for a model of several tasks, named by a column `task`.

    Args:
        record: Record of the model.
        read: Reads the rows with the further columns passed to it.
        keep: Further columns to keep.

    Raises:
        InputError: As `read_for`.
    """
    try:
        rows = read([*dict.fromkeys([*keep, TASK])])
    except MissingColumnError as error:
        if error.column != TASK:
            raise
        if record.across_tasks and TASK not in keep:
            return read(keep)
        raise no_task(error.source, record.tasks) from None
    if not record.across_tasks:
        rows = among_own(rows, record.tasks)
    return with_tasks(rows, record.classes)


def labelled_for(record: ModelRecord, data: Any, columns: DataColumns) -> Any:
    """Return labelled data for a model: rows with their tasks for several tasks, else unchanged.

    Raises:
        InputError: As `read_for`.
    """
    return read_for(record, data, columns) if record.tasks or is_union(data) else data


def open_for(
    record: ModelRecord, data: Any, columns: DataColumns, keep: str | Sequence[str] = ()
) -> ExampleStream:
    """Return rows for a model as a stream, as `open_rows`; in memory for several tasks.

    Raises:
        InputError: As `read_for`.
    """
    if not record.tasks:
        return open_rows(data, columns, keep)
    return stream_of(read_for(record, data, columns, keep))


def read_labelled(data: Any, columns: DataColumns) -> Examples:
    """Return the examples in `data`, which must have labels; warn about repeated rows.

    Raises:
        InputError: As `load_examples`, or a label is missing.
    """
    rows: Examples = (
        data if isinstance(data, Examples) else load_rows(data, columns, labels="required")
    )
    missing = next((index for index, label in enumerate(rows.labels) if label is None), None)
    if missing is not None:
        raise InputError(
            f"{rows.source}, row {rows.rows[missing]}, column {rows.label_column!r}: "
            "the label is missing"
        )
    if rows.duplicates:
        logger.warning(
            "%s: %d of %s %s an earlier row (same text and label)",
            rows.source,
            rows.duplicates,
            counted(len(rows), "row"),
            "repeats" if rows.duplicates == 1 else "repeat",
        )
    return rows


def format_of(record: ModelRecord) -> Format | None:
    """Return a model's format of questions; None if it classifies texts."""
    format: Format | None = record.backbone.get("format")
    return format


def classes_for(record: ModelRecord, most_options: int) -> tuple[str, ...]:
    """Return a model's classes for questions with up to `most_options` options."""
    return classes_with(format_of(record), record.classes, most_options)


def classes_with(
    format: Format | None, classes: Sequence[str], most_options: int
) -> tuple[str, ...]:
    """Return the classes for questions with up to `most_options` options.

    A model that reads options one by one accepts more options than it was fitted to.

    Args:
        format: Format of questions; None for texts.
        classes: Classes that the model was fitted to.
        most_options: Largest number of options of a question; 0 for texts.
    """
    if format != "options":
        return tuple(classes)
    return tuple(LETTERS[: max(len(classes), most_options)])


def most_options(rows: Examples) -> int:
    """Return the largest number of options of a question; 0 for texts."""
    return max(map(len, rows.choices or ()), default=0)


def check_questions(format: Format | None, classes: Sequence[str], rows: Examples) -> None:
    """Raise InputError if a model cannot read rows of this kind or with so many options.

    Args:
        format: Format of questions; None if the model classifies texts.
        classes: Classes of the model.
        rows: Rows to predict.

    Raises:
        InputError: Texts for a model of questions or the reverse, or a question with more options
            than the letters of a model of the format `letters`.
    """
    if format is None and rows.choices is not None:
        raise InputError(
            f"{rows.source} contains questions with options, but the model classifies texts. If "
            "all rows have the same options, choose columns: --text-column question "
            f"--label-column {rows.label_column}"
        )
    if format is not None and rows.choices is None:
        raise InputError(
            f"{rows.source} contains texts without options, but the model answers questions; add "
            "columns 'question' and 'choices'"
        )
    if format == "letters" and rows.choices is not None:
        most = len(classes)
        index = next((n for n, row in enumerate(rows.choices) if len(row) > most), None)
        if index is not None:
            raise InputError(
                f"{rows.source}, row {rows.rows[index]}: {len(rows.choices[index])} options, but "
                f"the model only has the letters {classes[0]} to {classes[-1]} of the rows that "
                "it was fitted to; the format 'options' supports any number"
            )


def check_hold_out(hold_out: float, *, validated: bool) -> None:
    """Raise InputError if a share of the training rows cannot serve as validation rows.

    Args:
        hold_out: The share; 0 for none.
        validated: Whether validation rows were passed too.
    """
    if checked("hold_out", hold_out, BelowOne) and validated:
        raise InputError(
            "hold_out (--hold-out) takes validation rows from the training rows; leave validation "
            "(--validation) out",
            code="clash",
        )


def check_calibration(
    posterior: Posterior | None,
    feature_scores: str | Sequence[str] | None,
    hold_out: float,
    *,
    validated: bool,
) -> Sequence[str] | None:
    """Check the options of a calibration, for which no model is needed.

    Args:
        posterior: Options of the posterior; None to choose the best.
        feature_scores: Names of scores to fit as well; None for the default ones.
        hold_out: Share of the rows to use as validation rows.
        validated: Whether there are validation rows.

    Returns:
        The names of the scores, or None.

    Raises:
        InputError: An option is not allowed.
    """
    check_hold_out(hold_out, validated=validated)
    names = feature_options.feature_scores(feature_scores)
    if posterior is not None:
        feature_options.check_feature_scores(names, posterior)
    return names


def read_validation(data: Any, columns: DataColumns, train: Examples) -> Examples:
    """Return held-out examples, which must have labels and differ from the training texts.

    Args:
        data: As for `read_labelled`.
        columns: Columns to read.
        train: Training rows; among held-out rows they would make the network look always right.

    Raises:
        InputError: As `read_labelled`, or most of their texts are among `train`.
    """
    rows = read_labelled(data, columns)
    shared = rows.num_shared(train)
    if not shared:
        return rows
    overlap = f"{shared} of {len(rows)} texts are also in {train.source}"
    # If texts repeat by nature, such as single words, equal ones are not copies.
    repeats = train.num_texts < MOST_DISTINCT * len(train)
    if shared > MOST_EQUAL * len(rows) and not repeats:
        raise InputError(
            f"{rows.source}: {overlap}; validation rows must not be used for training, since a "
            "prior or temperature chosen on training rows is overconfident. Leave them out, or "
            "split the data"
        )
    logger.warning(
        "%s: %s, so choices by validation rows are slightly overconfident",
        rows.source,
        overlap,
    )
    return rows


def check_labels(record: ModelRecord, rows: Examples, *, moves: bool) -> None:
    """Raise InputError if all rows are of one class, and warn about classes without rows.

    Args:
        record: Record of the classifier.
        rows: Rows to fit a posterior to.
        moves: Whether that posterior fits its own mean, from these rows alone.

    Raises:
        InputError: All rows are of one class, or a label is unknown.
    """
    if rows.choices is not None:  # letters are not classes
        encode_for(record, rows)
        return
    classes = record.classes
    counts = np.bincount(encode_for(record, rows), minlength=len(classes))
    missing = [name for name, count in zip(classes, counts, strict=True) if not count]
    if len(missing) == len(classes) - 1:
        only = classes[int(counts.argmax())]
        raise InputError(
            f"{rows.source}: all {len(rows)} rows have the label {only!r}; a posterior needs rows "
            "of every class"
        )
    if missing and moves:
        logger.warning(
            "%s: no row of %s; a posterior fitted to the other classes lowers its probability",
            rows.source,
            ", ".join(map(repr, missing)),
        )


def columns_of(record: ModelRecord) -> DataColumns:
    """Return the data columns that a model was fitted on."""
    return DataColumns.of(record.columns)


def check_pairs(record: ModelRecord, pair: str | None) -> None:
    """Raise InputError if second texts are passed to a model that was fitted on single texts.

    Raises:
        InputError: There is a column of second texts.
    """
    if pair is not None and record.columns["pair"] is None and record.backbone["kind"] == ADAPTED:
        raise InputError(
            "the model was fitted to single texts and takes no text pairs; leave pair_column "
            f"(--text-pair-column) out, got {pair!r}"
        )


def encode_for(
    record: ModelRecord,
    rows: Examples,
    unknown: Unknown | None = None,
    *,
    numbered: bool | None = None,
) -> NDArray[np.int64]:
    """Return the index [N] of each row's label among a model's classes, -1 if there is none.

    Data for a classifier trained elsewhere may name classes by their index, unless its classes are
    numbers.

    Args:
        record: Record of the model.
        rows: Rows, labelled or not.
        unknown: How to treat a label that is not a class; None raises without advice on `ood`.
        numbered: `is_numbered` of the labels of the whole data, if these rows are a part of it.

    Raises:
        InputError: A label is not a class and `unknown` is not `ood`.
    """
    check_images(rows, images=columns_of(record).images)
    check_questions(format_of(record), record.classes, rows)
    classes = classes_for(record, most_options(rows))
    foreign = record.backbone["kind"] != ADAPTED
    numbered = is_numbered(rows.labels) if numbered is None else numbered
    if foreign and numbered and not any(name.lstrip("-").isdecimal() for name in classes):
        classes = tuple(str(index) for index in range(len(classes)))
    advice = [_KEEP_UNKNOWN] if unknown else []
    if foreign and all(_GENERIC.fullmatch(name) for name in classes):
        advice.append(
            "The classifier has no class names: name them in index order, classes=[...] "
            f"(--classes A,B,...), or give labels as 0 to {len(classes) - 1}"
        )
    return encode_labels(rows, classes, unknown=unknown or "error", advice=". ".join(advice))


def check_images(rows: Examples, *, images: bool) -> None:
    """Raise InputError if a classifier of images gets texts or the reverse.

    Args:
        rows: Texts or images.
        images: Whether the classifier reads images.
    """
    if rows.images and not images:
        raise InputError(
            f"{rows.source} has images, but the backbone reads texts; choose a vision transformer "
            "such as 'dinov2-s' (--backbone)"
        )
    if images and not rows.images:
        raise InputError(
            f"{rows.source} has texts, but the backbone reads images; set image_column "
            "(--image-column) to the column of their paths, or choose a text model (--backbone)"
        )


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


PIECE = 2048
"""Rows per piece of a prediction."""


@dataclass(frozen=True)
class CheckedRows:
    """Rows to predict, read and checked once.

    Attributes:
        record: Record of the model.
        stream: The rows.
        unknown: How to treat a label that is not a class.
        digests: SHA-256 of ids, texts, labels and further columns, for each piece.
        num_labelled: Number of rows with a label that is a class.
        data_hash: Hash of texts and labels, as in a model's record.
        most_options: Largest number of options of a question; 0 for texts.
    """

    record: ModelRecord
    stream: ExampleStream
    unknown: Unknown
    digests: tuple[bytes, ...]
    num_labelled: int
    data_hash: str
    most_options: int = 0

    @classmethod
    def of(cls, record: ModelRecord, stream: ExampleStream, unknown: Unknown) -> CheckedRows:
        """Read the rows once.

        Args:
            record: Record of the model.
            stream: The rows.
            unknown: How to treat a label that is not a class.

        Raises:
            InputError: A label is not a class and `unknown` is not `ood`.
        """
        digests, data = [], DataHash()
        labelled = most = 0
        for rows in _whole_pieces(stream):
            codes = encode_for(record, rows, unknown, numbered=stream.numbered)
            digests.append(_digest(rows))
            data.add(rows)
            labelled += int((codes >= 0).sum())
            most = max(most, most_options(rows))
        return cls(record, stream, unknown, tuple(digests), labelled, data.value, most)

    @property
    def digest(self) -> str:
        """SHA-256 of all rows."""
        return hashlib.sha256(b"".join(self.digests)).hexdigest()

    @property
    def num_pieces(self) -> int:
        """Number of pieces of `PIECE` rows."""
        return -(-self.stream.num_rows // PIECE)

    def piece_size(self, number: int) -> int:
        """Return the number of rows of a piece, counted from 0."""
        return min(PIECE, self.stream.num_rows - number * PIECE)

    def pieces(self) -> Iterator[LabelledExamples]:
        """Yield the rows, `PIECE` at a time, with the index of each label; -1 if there is none.

        Raises:
            InputError: The rows have changed.
        """
        import torch

        changed = InputError(
            f"{self.stream.source} changed while it was read; run the command again"
        )
        count = 0
        for count, rows in enumerate(_whole_pieces(self.stream), 1):
            # Check before a piece is predicted, since its predictions are kept for the next run.
            if count > len(self.digests) or _digest(rows) != self.digests[count - 1]:
                raise changed
            codes = encode_for(self.record, rows, self.unknown, numbered=self.stream.numbered)
            yield rows, torch.from_numpy(codes)
        if count != len(self.digests):
            raise changed


def split(rows: Examples, labels: Tensor) -> Iterator[LabelledExamples]:
    """Yield runs of `PIECE` rows with their labels [N] int64; the last may be shorter."""
    for start in range(0, len(rows), PIECE):
        indices = range(start, min(start + PIECE, len(rows)))
        yield rows.take(indices), labels[indices.start : indices.stop]


def _digest(rows: Examples) -> bytes:
    fields: list[Any] = [rows.ids, rows.texts, rows.pairs, rows.labels, *rows.further.items()]
    fields += [column for column in (rows.choices, rows.history) if column is not None]
    return hashlib.sha256(json.dumps(fields).encode()).digest()


def _whole_pieces(stream: ExampleStream) -> Iterator[Examples]:
    """Yield runs of exactly `PIECE` rows, except the last, whatever the reader drops."""
    waiting: Examples | None = None
    for rows in stream.pieces(PIECE):
        waiting = rows if waiting is None else joined([waiting, rows])
        if len(waiting) >= PIECE:
            yield waiting.take(range(PIECE))
            waiting = waiting.take(range(PIECE, len(waiting))) if len(waiting) > PIECE else None
    if waiting is not None:
        yield waiting
