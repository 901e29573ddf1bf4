"""The record between methods and metrics: class probabilities of N rows with labels and scores.

Every method returns a `Predictions`; every metric and report starts from it, whichever method or
other tool made it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslora.data.formats import Reading, check_distinct
from bayeslora.errors import InputError, RowError, located, unknown_choice
from bayeslora.plain_text import as_label, counted, shown
from bayeslora.predictions import files
from bayeslora.predictions.files import AS_WRITTEN, UNCERTAINTIES, PredictionsReading, refuse

logger = logging.getLogger(__name__)

COMPUTED = ("max_probability", "entropy")
"""Uncertainty scores that follow from the probabilities."""

BY_ROW = ("probs", "labels", "soft_labels", "sets", "available", "intervals", *UNCERTAINTIES)
"""Fields of `Predictions` that are arrays with a row per row, or None."""

KINDS = ("probs", "logits", "logprobs")
IGNORED = -100
"""The label of ignored rows in transformers."""

_EXACT = 1e-12  # sums this close to 1 are left alone, so that saving and loading changes no bit
_SHOWN_CLASSES = 5  # more would not fit a line


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
        intervals: [N, C, 2] float64: the ends of each probability's credible interval, or None; see
            `bayeslora.recalibration.bayesian`.
        soft_labels: [N, C] float64: how often annotators chose each class, or its probability, over
            the sum of the row; NaN in rows without. Where `labels` is None, a row's label is the
            class with the largest share, the first of several. None if no row has any.

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
    intervals: NDArray[np.float64] | None = None
    soft_labels: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        classes = _class_names(self.classes)
        check_further(self.columns)
        shape = np.shape(self.probs)
        _check_shape(shape, classes)
        rows = shape[0]
        probs = _normalised(_array("probs", self.probs, np.float64, shape), classes)
        soft = _soft_labels(self.soft_labels, shape, classes)
        known = _majority(soft) if self.labels is None else self.labels
        labels = _label_indices(known, rows, classes)
        checked: dict[str, Any] = {
            "classes": classes,
            "probs": probs,
            "labels": labels,
            "soft_labels": soft,
            "ids": _row_ids(self.ids, rows),
            "scores": {name: _score(name, values, rows) for name, values in self.scores.items()},
            "metadata": {str(key): str(value) for key, value in self.metadata.items()},
            "sets": None if self.sets is None else _array("sets", self.sets, np.bool_, shape),
            "available": _available(self.available, shape, labels, classes),
            "columns": {name: _further(name, texts, rows) for name, texts in self.columns.items()},
        }
        if self.intervals is not None:
            checked["intervals"] = _array("intervals", self.intervals, np.float64, (*shape, 2))
        for name in UNCERTAINTIES:
            values = getattr(self, name)
            checked[name] = None if values is None else _finite(name, values, rows)
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
                name: probs[c]
                for c, name in enumerate(self.classes)
                if self.available is None or self.available[row, c]
            },
            scores={name: float(values[row]) for name, values in self.scores.items()},
            set=None if members is None else tuple(self.classes[c] for c in members),
            columns={name: values[row] for name, values in self.columns.items()},
            **{name: None if v is None else float(v[row]) for name, v in parts.items()},
        )

    def __repr__(self) -> str:
        """Return one line with the name, the size and the uncertainties."""
        uncertainties = ", ".join(self.uncertainty_names)
        return f"<Predictions {self.name!r}: {self._size()}, uncertainties {uncertainties}>"

    def _size(self) -> str:
        names = ", ".join(map(as_label, self.classes[:_SHOWN_CLASSES]))
        more = ", …" if self.num_classes > _SHOWN_CLASSES else ""
        rows = f"{counted(len(self), 'row')} ({int(self.labelled.sum())} labelled)"
        return f"{rows}, {counted(self.num_classes, 'class')} ({names}{more})"

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
    def label_shares(self) -> NDArray[np.float64]:
        """[N, C]: soft labels; one-hot in rows with only a label, and NaN in those without."""
        shares = np.full(self.probs.shape, np.nan)
        if self.labels is not None:
            shares[self.labelled] = np.eye(self.num_classes)[self.labels[self.labelled]]
        if self.soft_labels is None:
            return shares
        return np.where(np.isnan(self.soft_labels), shares, self.soft_labels)

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
        chosen = np.arange(len(self))[selection if selection.size else []]
        arrays = {name: getattr(self, name) for name in BY_ROW}
        return self.replace(
            **{name: None if v is None else v[chosen] for name, v in arrays.items()},
            ids=None if self.ids is None else tuple(self.ids[row] for row in chosen.tolist()),
            scores={name: values[chosen] for name, values in self.scores.items()},
            columns={name: np.asarray(v)[chosen] for name, v in self.columns.items()},
        )

    def with_probs(self, probs: ArrayLike, name: str | None = None) -> Predictions:
        """Return the same rows with other probabilities, such as recalibrated ones.

        `total`, `aleatoric`, `epistemic`, `sets` and `intervals` are dropped, since they derive
        from the old probabilities. `scores` are kept.

        Args:
            probs: [N, C].
            name: The new name; the old one if None.
        """
        dropped: dict[str, Any] = dict.fromkeys((*UNCERTAINTIES, "sets", "intervals"))
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
        with located(path):
            table = self._table()
        files.write(path, table.schema, [table])

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with the columns of a saved file.

        These are `id`, `label` and `prediction` (class names), `confidence`, `prob_<class>`,
        uncertainties, `score_<name>`, `set_<class>` and further columns, if known. `from_frame` and
        `bayeslora.evaluate` accept it.

        pandas must be installed; bayeslora does not depend on it.
        """
        return self._table().to_pandas()

    def _soft_columns(self) -> dict[str, Any]:
        if self.soft_labels is None:
            return {}
        shares = np.ma.masked_invalid(self.soft_labels)
        return {f"{files.SOFT}{name}": shares[:, k] for k, name in enumerate(self.classes)}

    def _table(self) -> Any:
        """Return the `pyarrow.Table` of the file, with the metadata.

        Raises:
            InputError: A name is not valid Unicode.
        """
        import pyarrow as pa

        names = np.array((*self.classes, None), dtype=object)  # -1 picks the None
        probs = self.probs
        if self.available is not None:
            probs = np.ma.MaskedArray(probs, ~self.available)
        columns = {
            "id": self.ids,
            "label": None if self.labels is None else names[self.labels],
            "prediction": names[self.prediction],
            "confidence": self.confidence,
            **self._soft_columns(),
            **{f"prob_{name}": probs[:, k] for k, name in enumerate(self.classes)},
            **{name: getattr(self, name) for name in UNCERTAINTIES},
            **{f"score_{name}": values for name, values in self.scores.items()},
        }
        if self.sets is not None:
            columns |= {f"set_{name}": self.sets[:, k] for k, name in enumerate(self.classes)}
        if self.intervals is not None:
            ends = self.intervals.reshape(len(self), -1)
            columns |= dict(zip(files.interval_columns(self.classes), ends.T, strict=True))
        columns |= self.columns
        metadata = {
            **self.metadata,
            "format_version": files.FORMAT_VERSION,
            "name": self.name,
            "classes": json.dumps(self.classes, ensure_ascii=False),
        }
        try:
            # Without a type, a column of None only would become a null column.
            arrays = {
                name: pa.array(
                    values, pa.string() if np.asarray(values).dtype.kind in "OU" else None
                )
                for name, values in columns.items()
                if values is not None
            }
            return pa.table(arrays, metadata={f"{files.PREFIX}{k}": v for k, v in metadata.items()})
        except UnicodeEncodeError as error:
            raise InputError(f"a name or label is not valid Unicode: {error}") from None

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
        label_column: str | None = None,
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
            label_column: Column of the labels; None means `label`, if there is one.

        Raises:
            InputError: The file is missing or unreadable, or a value in it is wrong; the message
                names the file and the row (from 1; in a text file the line, as an editor shows it).
        """
        table = Reading(delimiter, encoding)
        reading = PredictionsReading(
            table, probability_columns or {}, renormalise, label_column=label_column
        )
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
        """Read a predictions file; `load` with its options in one object.

        A model directory stands for its predictions of held-out rows.
        """
        opened = files.open_columns(path, reading)
        fields = files.fields_of(opened, columns)
        made = cls._made(opened.source, fields, name, opened.where)
        if Path(path).is_dir():
            logger.warning(
                "%s: predictions of %s training rows, each by a network fitted without it",
                *(opened.source, made.metadata.get(files.HELD_OUT_ROWS, len(made))),
            )
        return made

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        name: str | None = None,
        *,
        probability_columns: Mapping[str, str] | None = None,
        renormalise: bool = False,
        label_column: str | None = None,
    ) -> Predictions:
        """Create predictions from a data frame with the columns of a predictions file.

        Args:
            frame: A pandas, polars or Arrow table, or a mapping from names to equally long columns,
                with `prob_<class>` columns and optionally the others listed in `to_pandas`. Any
                other column becomes a further column.
            name: What made the predictions, for tables and legends.
            probability_columns: As for `load`.
            renormalise: As for `load`.
            label_column: As for `load`.

        Raises:
            InputError: `frame` is not a data frame, or a value is wrong; the message names the row.
        """
        import pyarrow as pa

        source = f"<{type(frame).__name__}>"
        try:
            table = pa.table(frame)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InputError(
                "expected Predictions, the path of a file, or a data frame with columns "
                f"prob_<class> and label, got {shown(frame)} ({error}); for arrays use "
                "Predictions.from_arrays"
            ) from None
        check_distinct(table.column_names, source)
        names = tuple(table.column_names)
        reading = PredictionsReading(
            probability_columns=probability_columns or {},
            renormalise=renormalise,
            label_column=label_column,
        )
        columns = files.Columns(source, names, lambda *_names: table, reading=reading)
        fields = files.fields_of(columns, columns.further)
        return cls._made(source, fields, name or "")

    @classmethod
    def from_arrays(
        cls,
        values: Any,
        labels: Any = None,
        *,
        kind: Literal["probs", "logits", "logprobs"] = "probs",
        classes: Sequence[Any] | None = None,
        ids: Sequence[str] | None = None,
        name: str = "",
        renormalise: bool = False,
    ) -> Predictions:
        """Create predictions from arrays, such as scikit-learn's `predict_proba` and `y_true`.

        Args:
            values: [N, C] probabilities or logits, in the order of `classes`; [N] those of the
                second of two classes, the logits relative to the first.
            labels: [N] class names, or indices if none is a class name; None, NaN or -1 for an
                unlabelled row. None if no row is labelled.
            kind: Type of `values`: `probs`, `logits` (softmax in float64; −∞ is a probability of
                0), or `logprobs` (their exponentials in float64).
            classes: C names, such as `classifier.classes_`; other types are converted to strings.
                None takes the columns of a data frame, else the distinct labels in sorted order if
                there are C, as scikit-learn does, else numbers from 0.
            ids: N distinct names of the rows, or None.
            name: What made the predictions, for tables and legends.
            renormalise: Whether to divide each row of probabilities by its sum.

        Raises:
            InputError: A value is wrong; the message names the row.
        """
        if kind not in KINDS:
            raise unknown_choice("kind", str(kind), KINDS)
        matrix = np.array(values, dtype=np.float64)
        if kind == "logprobs":
            matrix = np.exp(matrix)
        if matrix.ndim == 1:
            other = np.zeros_like(matrix) if kind == "logits" else 1 - matrix
            matrix = np.column_stack([other, matrix])
        if np.ndim(labels) > 1:
            raise InputError(f"<arrays>: labels must be [N], got shape {list(np.shape(labels))}")
        texts = None if labels is None else _as_texts(labels)
        if classes is None:
            classes = getattr(values, "columns", None)
        if classes is None:
            classes = _sorted_classes(texts or (), matrix.shape[-1])
        names = _class_names(_as_texts(classes))
        _check_shape(matrix.shape, names)
        fields: dict[str, Any] = {"probs": matrix, "classes": names, "ids": ids}
        with files.named("<arrays>"):
            if kind == "logits":
                files.softmax(matrix, names)
            elif renormalise:
                files.renormalise(matrix)
            if texts is not None:
                unlabelled = {None, "-1"} - {*names}
                known = [None if text in unlabelled else text for text in texts]
                fields["labels"] = files.label_codes(known, names)
        return cls._made("<arrays>", fields, name)

    @classmethod
    def from_pipeline(
        cls,
        outputs: Sequence[Any],
        labels: Any = None,
        *,
        classes: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        name: str = "",
    ) -> Predictions:
        """Create predictions from `transformers.pipeline("text-classification")`.

        Args:
            outputs: What the pipeline returns with `top_k=None`: for each row, a list of
                `{"label": …, "score": …}` of all classes in any order.
            labels: [N] as for `from_arrays`.
            classes: C names in order; None takes them in sorted order.
            ids: N distinct names of the rows, or None.
            name: What made the predictions, for tables and legends.

        Raises:
            InputError: A row lacks a class, as without `top_k=None`, or does not sum to 1, as with
                `function_to_apply="sigmoid"`.
        """
        lists = [[row] if isinstance(row, Mapping) else row for row in outputs]
        rows = [{item["label"]: item["score"] for item in row} for row in lists]
        names = sorted({label for row in rows for label in row}) if classes is None else classes
        lacking = next((k for k, row in enumerate(rows) if {*names} != {*row}), None)
        if lacking is not None:
            raise InputError(
                f"<pipeline>, row {lacking + 1}: classes {shown([*rows[lacking]])}, expected "
                f"{shown([*names])}; call the pipeline with top_k=None"
            )
        probs = [[row[label] for label in names] for row in rows]
        return cls.from_arrays(probs, labels, classes=names, ids=ids, name=name)

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
        logits, labels = output.predictions, output.label_ids
        if isinstance(logits, tuple):
            logits = logits[0]
        if isinstance(classes, Mapping):  # the keys of an `id2label` are strings in JSON
            classes = [classes[index] for index in sorted(classes, key=int)]
        made = cls.from_arrays(logits, kind="logits", classes=classes, ids=ids, name=name)
        if labels is None:
            return made
        with files.named("<PredictionOutput>"):
            return made.replace(labels=np.where(labels == IGNORED, -1, labels))

    @classmethod
    def _made(
        cls,
        source: str,
        fields: dict[str, Any],
        name: str | None,
        where: files.Where = files.row_number,
    ) -> Predictions:
        """Return a record that takes over `fields["probs"]`; errors name source and row."""
        if name is not None:
            fields["name"] = name
        with files.named(source, where):
            fields["probs"] = _normalised(fields["probs"], fields["classes"])
            return cls(**fields)


def _class_names(names: Sequence[Any]) -> tuple[str, ...]:
    """Return two or more distinct, non-empty names."""
    classes = tuple(names)
    if len(classes) < 2:
        raise InputError(f"classes must be at least two names, got {classes!r}")
    for index, name in enumerate(classes):
        if not isinstance(name, str) or not name:
            raise InputError(f"class {index + 1}: a name must be a non-empty string, got {name!r}")
        if name in classes[:index]:
            raise InputError(f"class {index + 1}: duplicate name {name!r}")
    return classes


def _check_shape(shape: tuple[int, ...], classes: Sequence[str]) -> None:
    if len(shape) != 2 or shape[0] < 1 or shape[1] != len(classes):
        raise InputError(
            f"expected numbers [rows, {len(classes)} classes] with at least 1 row, got shape "
            f"{list(shape)}"
        )


def _sorted_classes(labels: Sequence[str | None], num_classes: int) -> Sequence[Any]:
    """Return the distinct labels in sorted order if they are C, else numbers from 0."""
    names = {label for label in labels if label is not None} - {"-1"}
    if len(names) != num_classes or names <= {*map(str, range(num_classes))}:
        if names and "0" not in names:
            logger.warning(
                "labels are read as indices from 0 to %d, and none is 0; name the classes with "
                "classes= if they are others",
                num_classes - 1,
            )
        return range(num_classes)
    return sorted(names, key=int if all(map(str.isdecimal, names)) else None)


def _as_texts(values: Any) -> list[str | None]:
    """Return names or indices, such as an array's, as texts; None and NaN as None."""
    plain = values.tolist() if hasattr(values, "tolist") else values
    return [files.as_text(value) for value in plain]


def _array(
    name: str, values: ArrayLike, kind: type[np.generic], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Return a read-only array; that of another record is shared, others are copied."""
    array = np.asarray(values)
    if not np.can_cast(array.dtype, kind, "same_kind") or array.shape != shape:
        raise InputError(
            f"{name} must be {kind.__name__} of shape {list(shape)}, got {array.dtype} of shape "
            f"{list(array.shape)}"
        )
    if array.dtype != kind or array.base is not None or array.flags.writeable:
        array = array.astype(kind)
        array.setflags(write=False)
    return array


def _normalised(probs: NDArray[np.float64], classes: Sequence[str]) -> NDArray[np.float64]:
    """Return probabilities [N, C] read-only, each row renormalised; in place where writeable.

    Sums may be off by `SUM_TOLERANCE`.
    """
    refuse(
        ~((probs >= 0) & (probs < np.inf)),
        lambda row, k: (
            f", class {shown(classes[k])}: probability {probs[row, k]} is not between 0 and 1"
        ),
    )
    sums = probs.sum(1)
    off = np.abs(sums - 1)
    refuse(
        off > files.SUM_TOLERANCE,
        lambda row: (
            f": probabilities sum to {sums[row]:.9g}, expected 1 ± {files.SUM_TOLERANCE:g}; "
            "renormalise (--renormalise) divides by the sum"
        ),
    )
    # A weighted mean of certain rows may exceed 1 by rounding.
    if off.max() > _EXACT or probs.max() > 1:
        probs = probs if probs.flags.writeable else probs.copy()
        probs /= np.where(off > _EXACT, sums, 1.0)[:, None]
        np.minimum(probs, 1.0, out=probs)
    probs.setflags(write=False)
    return probs


def _label_indices(
    values: ArrayLike | None, rows: int, classes: Sequence[str]
) -> NDArray[np.int64] | None:
    """Return [N] class indices, -1 where unlabelled; None where no row is labelled."""
    if values is None:
        return None
    labels, most = _array("labels", values, np.int64, (rows,)), len(classes) - 1
    refuse(
        (labels < -1) | (labels > most),
        lambda row: f": label {labels[row]} is not between 0 and {most} (-1: unlabelled)",
    )
    return labels if (labels >= 0).any() else None


def _soft_labels(
    values: ArrayLike | None, shape: tuple[int, ...], classes: Sequence[str]
) -> NDArray[np.float64] | None:
    """Return [N, C] shares of the annotators' choices, NaN in rows without; None without any."""
    if values is None:
        return None
    counts = _array("soft_labels", values, np.float64, shape)
    known = ~np.isnan(counts).all(1)
    # Annotators of whom none chose a class may have left it empty.
    counts = np.where(np.isnan(counts), 0.0, counts)
    refuse(
        ~((counts >= 0) & (counts < np.inf)),
        lambda row, k: (
            f", class {shown(classes[k])}: label share {counts[row, k]} is not 0 or more"
        ),
    )
    sums = counts.sum(1)
    refuse(known & (sums == 0), lambda _: ": the shares of the labels are all 0")
    shares = np.full(shape, np.nan)
    np.divide(
        counts,
        np.where(np.abs(sums - 1) > _EXACT, sums, 1.0)[:, None],
        shares,
        where=known[:, None],
    )
    shares.setflags(write=False)
    return shares if known.any() else None


def _majority(soft: NDArray[np.float64] | None) -> NDArray[np.int64] | None:
    """Return [N] the class with the largest share, the first of several; -1 in rows without."""
    if soft is None:
        return None
    return np.where(np.isnan(soft[:, 0]), -1, soft.argmax(1))


def _row_ids(names: Sequence[str] | None, rows: int) -> tuple[str, ...] | None:
    """Return N distinct strings."""
    if names is None:
        return None
    ids = tuple(map(str, names))
    if len(ids) != rows:
        raise InputError(f"{len(ids)} ids for {rows} rows")
    if len(set(ids)) < rows:
        first: dict[str, int] = {}
        row = next(row for row, name in enumerate(ids) if first.setdefault(name, row) != row)
        raise RowError(row, f": id {shown(ids[row])} duplicates the id of", first[ids[row]])
    return ids


def _finite(name: str, values: ArrayLike, rows: int) -> NDArray[np.float64]:
    """Return [N] values without NaN or infinities."""
    array = _array(name, values, np.float64, (rows,))
    refuse(~np.isfinite(array), lambda row: f": {name} is {array[row]}, not a finite number")
    return array


def _score(name: str, values: ArrayLike, rows: int) -> NDArray[np.float64]:
    if name in (*COMPUTED, *UNCERTAINTIES):
        raise InputError(f"a score cannot be named {name!r}: the name is reserved")
    return _finite(f"score {name!r}", values, rows)


def _available(
    values: ArrayLike | None,
    shape: tuple[int, ...],
    labels: NDArray[np.int64] | None,
    classes: Sequence[str],
) -> NDArray[np.bool_] | None:
    """Return which classes a row has, [N, C]; None where every row has all of them."""
    if values is None:
        return None
    options = _array("available", values, np.bool_, shape)
    if labels is not None:
        labelled = labels[:, None] == np.arange(len(classes))
        refuse(
            labelled & ~options,
            lambda _, k: f": the label {shown(classes[k])} is not an available option",
        )
    return None if options.all() else options


def check_further(names: Iterable[str]) -> None:
    """Raise InputError if a name is not allowed for a further column."""
    for name in names:
        if files.is_ours(name):
            raise InputError(f"a further column cannot be named {name!r}: the name is reserved")


def _further(name: str, texts: Sequence[str | None], rows: int) -> NDArray[Any]:
    """Return a further column as [N] strings and None."""
    values = np.array([None if text is None else str(text) for text in texts], dtype=object)
    if len(values) != rows:
        raise InputError(f"column {name!r} has {len(values)} values, but there are {rows} rows")
    values.setflags(write=False)
    return values
