"""The record between methods and metrics: class probabilities of N rows with labels and scores.

Every method returns a `Predictions`; every metric and report starts from it, whichever method or
other tool made it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslora.data.formats import Reading
from bayeslora.errors import InputError, RowError, unknown_choice
from bayeslora.plain_text import as_label, clean, counted, table_html
from bayeslora.predictions import checks
from bayeslora.predictions.checks import COMPUTED
from bayeslora.predictions.columns import AS_WRITTEN, PredictionsReading, Where, row_number
from bayeslora.predictions.files import read_fields
from bayeslora.predictions.harness import read_sample_log
from bayeslora.predictions.in_memory import array_fields, frame_fields, output_fields
from bayeslora.predictions.sources import UNCERTAINTIES
from bayeslora.predictions.writing import file_columns, write_fields

_SHOWN_ROWS, _SHOWN_CLASSES = 10, 5  # more classes would not fit a line


@dataclass(frozen=True)
class PredictedRow:
    """The prediction for one row.

    Attributes:
        id: Name of the row; None if rows have no names.
        label: Its class; None if unlabelled.
        prediction: The most probable class.
        confidence: The probability of that class.
        probs: The probability of every class that the row has, by name.
        total: Nats, or None.
        aleatoric: Nats, or None.
        epistemic: Nats, or None.
        scores: Further uncertainties by name, higher = more uncertain.
        set: The classes in the row's prediction set, or None.
        columns: Further values by the name of their column; None where unknown.
    """

    id: str | None
    label: str | None
    prediction: str
    confidence: float
    probs: Mapping[str, float]
    total: float | None = None
    aleatoric: float | None = None
    epistemic: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    set: tuple[str, ...] | None = None
    columns: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """Class probabilities of N rows, with labels, ids and uncertainties if known.

    Arrays are copied, converted to the stated type, checked and made read-only; arrays that are
    already read-only are shared. Errors count rows from 1.

    Attributes:
        probs: [N, C] float64; each row sums to 1 (within 1e-5, then renormalised).
        classes: C distinct names.
        labels: [N] int64 index into `classes`, -1 where unlabelled; None where no row is labelled.
        ids: N distinct names of the rows, or None.
        total: [N] float64, nats: entropy of the predicted distribution, or None.
        aleatoric: [N] float64, nats: the part that more data would not remove, or None.
        epistemic: [N] float64, nats: the part due to uncertain weights, or None.
        scores: Further uncertainties by name, [N] float64 each, higher = more uncertain.
        name: What made the predictions, for tables and legends.
        metadata: Strings stored in Parquet files: `link`, `num_samples`, `seed`,
            `model_fingerprint` and others.
        sets: [N, C] bool: which classes are in a row's prediction set, or None; see
            `bayeslora.conformal`.
        columns: Further columns by name: [N] strings, None where unknown. For scores by group and
            for showing examples; no score depends on them.
        available: [N, C] bool: which classes each row has, for questions with 2 to C options; the
            others have probability 0. None if every row has every class.

    Raises:
        InputError: A field violates the above; the message names the row.
    """

    probs: NDArray[np.float64]
    classes: tuple[str, ...]
    labels: NDArray[np.int64] | None = None
    ids: tuple[str, ...] | None = None
    total: NDArray[np.float64] | None = None
    aleatoric: NDArray[np.float64] | None = None
    epistemic: NDArray[np.float64] | None = None
    scores: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    name: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    sets: NDArray[np.bool_] | None = None
    columns: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    available: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        classes = checks.class_names(self.classes)
        probs = checks.probabilities(self.probs, classes)
        rows = len(probs)
        labels = checks.label_indices(self.labels, rows, len(classes))
        sets = checks.prediction_sets(self.sets, rows, len(classes))
        checked: dict[str, Any] = {
            "classes": classes,
            "probs": probs,
            "labels": labels,
            "ids": checks.row_ids(self.ids, rows),
            "scores": {name: checks.named_score(name, v, rows) for name, v in self.scores.items()},
            "metadata": checks.notes(self.metadata),
            "sets": sets,
            "available": checks.available_options(self.available, probs, labels, sets, classes),
            "columns": checks.row_columns(self.columns, rows),
        }
        for name in UNCERTAINTIES:
            values = getattr(self, name)
            checked[name] = None if values is None else checks.finite(name, values, rows)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return int(self.probs.shape[0])

    def __iter__(self) -> Iterator[PredictedRow]:
        """Yield every row, with class names in place of indices."""
        return (self._row(index) for index in range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> PredictedRow: ...

    @overload
    def __getitem__(self, index: slice | ArrayLike) -> Predictions: ...

    def __getitem__(self, index: Any) -> PredictedRow | Predictions:
        """Return a row by its index from 0, or predictions for several rows, like `take`.

        Raises:
            IndexError: There is no such row.
            InputError: No row is taken.
        """
        if isinstance(index, int | np.integer):
            return self._row(range(len(self))[int(index)])
        return self.take(np.arange(len(self))[index])

    def _row(self, row: int) -> PredictedRow:
        label = -1 if self.labels is None else int(self.labels[row])
        probs = self.probs[row].tolist()
        best = probs.index(max(probs))
        parts = {name: getattr(self, name) for name in UNCERTAINTIES}
        members = None if self.sets is None else np.flatnonzero(self.sets[row]).tolist()
        return PredictedRow(
            id=None if self.ids is None else self.ids[row],
            label=None if label < 0 else self.classes[label],
            prediction=self.classes[best],
            confidence=probs[best],
            probs={
                name: probs[c] for c, name in enumerate(self.classes) if self._has_option(row, c)
            },
            scores={name: float(values[row]) for name, values in self.scores.items()},
            set=None if members is None else tuple(self.classes[c] for c in members),
            columns={name: values[row] for name, values in self.columns.items()},
            **{name: None if v is None else float(v[row]) for name, v in parts.items()},
        )

    def _has_option(self, row: int, column: int) -> bool:
        return self.available is None or bool(self.available[row, column])

    def __repr__(self) -> str:
        """Return one line with the name, the size and the uncertainties."""
        uncertainties = ", ".join(self.uncertainty_names)
        return f"<Predictions {self.name!r}: {self._size()}, uncertainties {uncertainties}>"

    def _repr_html_(self) -> str:
        """Return an HTML table of the first rows for notebooks."""
        first = [self._row(row) for row in range(min(len(self), _SHOWN_ROWS))]
        rest = f"; the first {len(first)} rows" if len(first) < len(self) else ""
        return _rows_html(f"{self.name or 'unnamed'}: {self._size()}{rest}", first)

    def _size(self) -> str:
        shown = ", ".join(map(as_label, self.classes[:_SHOWN_CLASSES]))
        more = ", …" if self.num_classes > _SHOWN_CLASSES else ""
        rows = f"{counted(len(self), 'row')} ({int(self.labelled.sum())} labelled)"
        return f"{rows}, {counted(self.num_classes, 'class')} ({shown}{more})"

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return int(self.probs.shape[1])

    @property
    def prediction(self) -> NDArray[np.int64]:
        """[N]: index of the most probable class; the lowest index where several tie."""
        return np.asarray(np.argmax(self.probs, axis=1))

    @property
    def confidence(self) -> NDArray[np.float64]:
        """[N]: probability of the most probable class."""
        return np.asarray(self.probs.max(axis=1))

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """[N]: which rows have a label."""
        if self.labels is None:
            return np.zeros(len(self), dtype=np.bool_)
        return np.asarray(self.labels >= 0)

    @property
    def num_options(self) -> NDArray[np.int64]:
        """[N]: number of classes of each row; C unless some are not available."""
        if self.available is None:
            return np.full(len(self), self.num_classes)
        return np.asarray(self.available.sum(1))

    @property
    def uncertainty_names(self) -> tuple[str, ...]:
        """Names that `uncertainty` accepts."""
        present = (name for name in UNCERTAINTIES if getattr(self, name) is not None)
        return (*COMPUTED, *present, *self.scores)

    def uncertainty(self, score: str) -> NDArray[np.float64]:
        """Return an uncertainty of every row, higher = more uncertain.

        Args:
            score: `max_probability` (1 − highest probability), `entropy` (of `probs`, nats),
                `total`, `aleatoric`, `epistemic`, or a name in `scores`.

        Returns:
            [N] float64.

        Raises:
            InputError: These predictions have no such score.
        """
        if score not in self.uncertainty_names:
            raise unknown_choice("uncertainty score", score, self.uncertainty_names)
        if score == "max_probability":
            return 1 - self.confidence
        if score == "entropy":
            logs = np.log(np.where(self.probs > 0, self.probs, 1.0))
            return np.asarray(np.maximum(-(self.probs * logs).sum(1), 0.0))
        values = getattr(self, score) if score in UNCERTAINTIES else self.scores[score]
        return np.asarray(values)

    def take(self, rows: ArrayLike) -> Predictions:
        """Select rows by indices [M] or a mask [N].

        Raises:
            InputError: No row is selected.
        """
        selection = np.asarray(rows)
        if selection.size == 0:
            raise InputError(
                "no rows are selected; pass indices or a mask that selects at least one row"
            )
        chosen = np.arange(len(self))[selection]

        def pick(values: NDArray[Any] | None) -> Any:
            return None if values is None else values[chosen]

        return self.replace(
            probs=self.probs[chosen],
            labels=pick(self.labels),
            ids=None if self.ids is None else tuple(self.ids[row] for row in chosen.tolist()),
            scores={name: values[chosen] for name, values in self.scores.items()},
            sets=pick(self.sets),
            available=pick(self.available),
            columns={name: np.asarray(v)[chosen] for name, v in self.columns.items()},
            **{name: pick(getattr(self, name)) for name in UNCERTAINTIES},
        )

    def with_probs(self, probs: ArrayLike, name: str | None = None) -> Predictions:
        """Return the same rows with other probabilities, such as recalibrated ones.

        `total`, `aleatoric`, `epistemic` and `sets` are dropped, since they derive from the old
        probabilities. `scores` are kept.

        Args:
            probs: [N, C].
            name: The new name; the old one if None.
        """
        dropped: dict[str, Any] = dict.fromkeys((*UNCERTAINTIES, "sets"))
        return self.replace(probs=probs, name=self.name if name is None else name, **dropped)

    def replace(self, **changes: Any) -> Predictions:
        """Return a copy with some attributes replaced, checked again."""
        return dataclasses.replace(self, **changes)

    def save(self, path: str | Path) -> None:
        """Write a `.parquet`, `.csv` or `.jsonl` file atomically, replacing an existing one.

        Columns are stored exactly; `name` and `metadata` only in Parquet.

        Raises:
            InputError: The suffix is none of the three, or a name is not valid Unicode.
        """
        write_fields(self._fields(), path)

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with the columns of a saved file.

        These are `id`, `label` and `prediction` (class names), `confidence`, `prob_<class>`,
        uncertainties, `score_<name>`, `set_<class>` and further columns, if known. `from_frame` and
        `bayeslora.evaluate` accept it.

        Raises:
            InputError: pandas is not installed; bayeslora does not depend on it.
        """
        try:
            import pandas  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ModuleNotFoundError:
            raise InputError(
                "to_pandas requires pandas; run `pip install pandas`", code="missing"
            ) from None
        return pandas.DataFrame(file_columns(self._fields()))

    def _fields(self) -> dict[str, Any]:
        fields = {
            attribute.name: getattr(self, attribute.name) for attribute in dataclasses.fields(self)
        }
        return {**fields, "prediction": self.prediction, "confidence": self.confidence}

    @classmethod
    def load(
        cls,
        path: str | Path,
        name: str | None = None,
        *,
        columns: Sequence[str] = (),
        delimiter: str | None = None,
        encoding: str | None = None,
        probability_columns: Mapping[str, str] | None = None,
        renormalise: bool = False,
    ) -> Predictions:
        """Read a predictions file written by this package or another tool; see `files`.

        Args:
            path: A `.parquet`, `.csv`, `.tsv`, `.jsonl` or `.json` file, the text formats also with
                `.gz`, or a sample log of lm-evaluation-harness.
            name: The name to use; else the stored name, else the file's name without its suffix.
            columns: Names of further columns to keep, such as the source of each row.
            delimiter: The character between the columns of a `.csv` or `.tsv` file, or `tab`.
            encoding: The encoding of a text file, such as `latin-1`; None means UTF-8.
            probability_columns: Column name -> class, for probability columns not named
                `prob_<class>`.
            renormalise: Whether to divide each row of probabilities by its sum, if sums deviate
                from 1 by more than rounding.

        Raises:
            InputError: The file is missing or unreadable, or a value in it is wrong; the message
                names the file and the row (from 1; in a text file the line, as an editor shows it).
        """
        table = Reading(delimiter, encoding)
        reading = PredictionsReading(table, probability_columns or {}, renormalise)
        return cls.read(path, name, columns=columns, reading=reading)

    @classmethod
    def read(
        cls,
        path: str | Path,
        name: str | None = None,
        *,
        columns: Sequence[str] = (),
        reading: PredictionsReading = AS_WRITTEN,
    ) -> Predictions:
        """Read a predictions file; `load` with its options in one object."""
        fields, where = read_fields(path, columns, reading)
        return cls._read(str(path), fields, name, where)

    @classmethod
    def from_frame(cls, frame: Any, name: str | None = None) -> Predictions:
        """Create predictions from a data frame with the columns of a predictions file.

        Args:
            frame: A pandas, polars or Arrow table, or a mapping from names to equally long columns,
                with `prob_<class>` columns and optionally the others listed in `to_pandas`. Any
                other text or number column becomes a further column.
            name: What made the predictions, for tables and legends.

        Raises:
            InputError: `frame` is not a data frame, or a value is wrong; the message names the row.
        """
        fields, where = frame_fields(frame)
        return cls._read(f"<{type(frame).__name__}>", fields, name, where)

    @classmethod
    def from_arrays(
        cls,
        values: ArrayLike,
        labels: Any = None,
        *,
        kind: Literal["probs", "logits"],
        classes: Sequence[Any] | None = None,
        ids: Sequence[str] | None = None,
        name: str = "",
    ) -> Predictions:
        """Create predictions from arrays, such as scikit-learn's `predict_proba` and `y_true`.

        Args:
            values: [N, C] probabilities or logits, in the order of `classes`.
            labels: [N] class names, or indices if none is a class name; None, NaN or -1 for an
                unlabelled row. None if no row is labelled.
            kind: Type of `values`: `probs`, or `logits` (softmax in float64).
            classes: C names, such as `classifier.classes_`; other types are converted to strings.
                None means numbers from 0.
            ids: N distinct names of the rows, or None.
            name: What made the predictions, for tables and legends.

        Raises:
            InputError: A value is wrong; the message names the row.
        """
        fields = array_fields(values, labels, classes, kind)
        return cls._read("<arrays>", {**fields, "ids": ids}, name)

    @classmethod
    def from_prediction_output(
        cls,
        output: Any,
        classes: Sequence[str] | Mapping[Any, str] | None = None,
        *,
        ids: Sequence[str] | None = None,
        name: str = "",
    ) -> Predictions:
        """Create predictions from `transformers.Trainer.predict` for a sequence classifier.

        Args:
            output: Has `predictions`, logits [N, C] or a tuple that begins with them, and
                `label_ids` [N] with -100 for an unlabelled row, or None.
            classes: C names, or `model.config.id2label`; None means numbers from 0.
            ids: N distinct names of the rows, or None.
            name: What made the predictions, for tables and legends.

        Raises:
            InputError: The output is from another task, or a value is wrong.
        """
        fields = output_fields(output, classes)
        return cls._read("<PredictionOutput>", {**fields, "ids": ids}, name)

    @classmethod
    def from_lm_eval(
        cls,
        path: str | Path,
        *,
        normalise: Literal["none", "characters", "bytes"] = "none",
        name: str | None = None,
        columns: Sequence[str] = (),
        reading: PredictionsReading = AS_WRITTEN,
    ) -> Predictions:
        """Read a sample log of lm-evaluation-harness; `load` does the same without normalising.

        Args:
            path: `samples_<task>_<date>.jsonl` of a multiple-choice task.
            normalise: Divisor of each option's log-likelihood: `none` (as `acc`), its number of
                `characters` (`acc_norm`) or of `bytes` (`acc_bytes`).
            name: The name to use; else model and task, from the file's path.
            columns: Fields of `doc` to keep as further columns.
            reading: The encoding of the file.

        Raises:
            InputError: The log is not of a multiple-choice task, or a value in it is wrong.
        """
        fields, where = read_sample_log(path, normalise, columns, reading)
        return cls._read(str(path), fields, name, where)

    @classmethod
    def _read(
        cls, source: str, fields: dict[str, Any], name: str | None, where: Where = row_number
    ) -> Predictions:
        """Return a record that takes over `fields["probs"]`; errors name source and row."""
        if name is not None:
            fields["name"] = name
        try:
            classes = checks.class_names(fields["classes"])
            fields["probs"] = checks.probabilities(fields["probs"], classes, in_place=True)
            return cls(**fields)
        except RowError as error:
            raise InputError(f"{source}, {error.named(where)}") from None
        except InputError as error:
            raise error.within(source) from None


def _rows_html(caption: str, rows: Sequence[PredictedRow]) -> str:
    """Return an HTML table of rows for a notebook; columns without any value are omitted.

    Args:
        caption: Caption of the table.
        rows: The rows to show, in order.
    """
    columns: dict[str, list[str | None]] = {
        "label": [row.label for row in rows],
        "prediction": [row.prediction for row in rows],
        "confidence": [f"{row.confidence:.3f}" for row in rows],
        "epistemic": [None if row.epistemic is None else f"{row.epistemic:.3g}" for row in rows],
    }
    shown = {name: values for name, values in columns.items() if any(values)}
    names = [str(index) if row.id is None else row.id for index, row in enumerate(rows)]
    cells = zip(names, *shown.values(), strict=True)
    texts = [["" if cell is None else as_label(cell) for cell in row] for row in cells]
    return table_html(clean(caption), ("", *shown), texts)
