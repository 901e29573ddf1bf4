"""What was fitted to held-out rows, as one JSON file that goes where the model goes.

A calibration is a sequence of steps, applied in order: recalibrators, conformal sets and a rule of
decision. Beside them stand the classes, the model's fingerprint, hashes of the rows that fitted
something, and what the rows looked like, which `monitor` compares with later ones. The file holds
numbers and names only; whoever reviews it can read it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, cast, get_type_hints

import numpy as np
from numpy.typing import NDArray

from bayeslora import conformal, options
from bayeslora._version import __version__
from bayeslora.decisions.threshold import (
    BY_PREDICTION,
    PERSON,
    Rule,
    cost_rule,
    fit_rule,
    independent,
)
from bayeslora.errors import InputError, located
from bayeslora.held_out import (
    MOST_DISTINCT,
    MOST_EQUAL,
    STEPS,
    check_classes,
    further_columns,
    recalibrations,
    row_names,
)
from bayeslora.io import read_json, write_json
from bayeslora.option_checks import checked, read_fields
from bayeslora.plain_text import counted
from bayeslora.predictions.answers import TYPE_COLUMN
from bayeslora.predictions.collection import PredictionsLike, as_predictions
from bayeslora.predictions.files import AS_WRITTEN, PredictionsReading
from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.recalibrate import CATALOGUE, Recalibrator

FORMAT = 1
Step = Recalibrator | conformal.ConformalPredictor | Rule

_KINDS: Mapping[str, tuple[type[Any], Mapping[str, type[Any]]]] = {
    "recalibrator": (Recalibrator, CATALOGUE),
    "conformal": (conformal.ConformalPredictor, conformal.CONFORMAL),
}
_NUM_BINS = 10
_BEYOND = 0.95
"""Quantile of an uncertainty beyond which a row counts as unfamiliar."""


@dataclass(frozen=True)
class Reference:
    """What labelled held-out rows looked like after all steps but the decision.

    Attributes:
        edges: [9] deciles of the confidence.
        confidence: [10] rows in each of the bins between them.
        predicted: [C] rows predicted as each class.
        unfamiliar: Per uncertainty of the predictions, its quantile of .95, and the number of rows
            beyond.
    """

    edges: Sequence[float]
    confidence: Sequence[int]
    predicted: Sequence[int]
    unfamiliar: Mapping[str, tuple[float, int]]

    @classmethod
    def of(cls, predictions: Predictions) -> Self:
        """Return the reference of predictions."""
        edges = np.quantile(predictions.confidence, np.arange(1, _NUM_BINS) / _NUM_BINS)
        limits = {
            name: float(np.quantile(predictions.uncertainty(name), _BEYOND))
            for name in predictions.scores
        }
        return cls(
            edges.tolist(),
            binned(predictions, edges.tolist()).tolist(),
            np.bincount(predictions.prediction, minlength=predictions.num_classes).tolist(),
            {
                name: (limit, int((predictions.uncertainty(name) > limit).sum()))
                for name, limit in limits.items()
            },
        )

    @classmethod
    def read(cls, content: object, num_classes: int) -> Self:
        """Return a reference from the values of a file."""
        made = read_fields(cls, content)
        sizes = len(made.edges), len(made.confidence), len(made.predicted)
        if sizes != (_NUM_BINS - 1, _NUM_BINS, num_classes):
            raise InputError(f"reference: {sizes} values do not fit", code="damaged")
        return made


def binned(predictions: Predictions, edges: Sequence[float]) -> NDArray[np.int64]:
    """Return the number of rows whose confidence lies between consecutive edges."""
    bins = np.searchsorted(edges, predictions.confidence, side="left")
    return np.bincount(bins, minlength=len(edges) + 1)


@dataclass(frozen=True)
class Calibration:
    """Steps fitted to held-out predictions of one model.

    Attributes:
        classes: C names.
        model: Fingerprint of the model, or None if the predictions have none.
        before: Recalibrators that the predictions had already passed.
        steps: What is applied, in order.
        rows: Hashes of the rows that fitted something.
        named: Whether these hash the rows' ids, else their probabilities.
        reference: What the rows of the last step looked like.
        created: Time of the last step, ISO 8601, UTC.
    """

    classes: tuple[str, ...]
    model: str | None = None
    before: str = ""
    steps: tuple[Step, ...] = ()
    rows: frozenset[str] = frozenset()
    named: bool = False
    reference: Reference | None = None
    created: str = ""

    @classmethod
    def on(cls, predictions: Predictions) -> Self:
        """Return a calibration without steps, for predictions like these."""
        return cls(
            predictions.classes,
            predictions.metadata.get("model_fingerprint"),
            STEPS.join(recalibrations(predictions)),
            named=bool(row_names(predictions)),
        )

    @property
    def rule(self) -> Rule | None:
        """The rule of decision, if there is one."""
        return next((step for step in self.steps if isinstance(step, Rule)), None)

    def then(self, step: Step, predictions: Predictions) -> Calibration:
        """Return the calibration with one more step, fitted to `predictions`.

        Args:
            step: The fitted step.
            predictions: What the model predicted, before any step of this calibration.
        """
        rows = predictions.take(predictions.labelled)
        described = replace(self, steps=(*self._undecided, step))
        return replace(
            described,
            rows=self.rows | _hashes(rows, named=self.named),
            reference=Reference.of(described.independent(described.calibrated(rows))),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def calibrated(self, predictions: Predictions) -> Predictions:
        """Return the predictions after every step but the decision."""
        for step in self._undecided:
            predictions = step.apply(predictions)
        return predictions

    def independent(self, predictions: Predictions) -> Predictions:
        """Return a row of each cluster, if the decision knows clusters; else all rows."""
        return independent(predictions, "", self.rule.cluster_by if self.rule else "")

    def apply(
        self,
        predictions: PredictionsLike,
        *,
        force: bool = False,
        reading: PredictionsReading = AS_WRITTEN,
    ) -> Predictions:
        """Return new predictions after every step.

        Args:
            predictions: What the model predicted for other rows, their file, or a data frame;
                probabilities before recalibration.
            force: Whether to accept those of another model.
            reading: Options for reading files that were not written by this package.

        Raises:
            InputError: The classes are others, the model is, or the rows fitted a step.
        """
        columns = further_columns(predictions, reading)
        new = as_predictions(predictions, columns, reading)
        self.check(new, force=force)
        new = self.calibrated(new)
        return new if self.rule is None else self.rule.apply(new)

    def check(self, predictions: Predictions, *, force: bool = False) -> None:
        """Raise InputError if the steps do not apply to these predictions; see `apply`."""
        try:
            check_classes("the calibration has", self.classes, predictions.classes)
        except InputError as error:
            raise InputError(str(error), code="another-model") from None
        model = predictions.metadata.get("model_fingerprint")
        if not force and None not in (model, self.model) and model != self.model:
            raise InputError(
                f"the predictions are of model {str(model)[:12]}, the calibration of "
                f"{str(self.model)[:12]}; `apply --force` applies it regardless",
                code="another-model",
            )
        before = STEPS.join(recalibrations(predictions))
        if predictions.metadata and before != self.before:
            raise InputError(
                f"the predictions were recalibrated by {before or 'nothing'}, those that the "
                f"calibration was fitted to by {self.before or 'nothing'}"
            )
        if self.named and not row_names(predictions):
            return
        new = _hashes(predictions, named=self.named)
        shared = len(new & self.rows)
        repeats = not self.named and len(new) < MOST_DISTINCT * len(predictions)
        if shared > (0 if self.named else MOST_EQUAL * len(new)) and not repeats:
            raise InputError(
                f"{counted(shared, 'row')} of these predictions fitted the calibration, whose "
                "promises are about other rows"
            )

    @property
    def _undecided(self) -> tuple[Recalibrator | conformal.ConformalPredictor, ...]:
        return tuple(step for step in self.steps if not isinstance(step, Rule))

    def save(self, path: str | Path) -> None:
        """Write a JSON file, atomically."""
        content = {
            "format": FORMAT,
            "made_by": f"bayeslora {__version__}",
            "created": self.created,
            "model_fingerprint": self.model,
            "recalibrated_before": self.before,
            "classes": list(self.classes),
            "steps": [_step_to_json(step) for step in self.steps],
            "reference": None if self.reference is None else asdict(self.reference),
            "rows": {
                "count": len(self.rows),
                "hashed": "ids" if self.named else "probabilities",
                "hashes": " ".join(sorted(self.rows)),
            },
        }
        write_json(path, content)


def decide(
    predictions: PredictionsLike,
    risk: float | None = None,
    *,
    confidence: float | None = None,
    by: str | None = None,
    per_class: bool | None = None,
    cluster_by: str | None = None,
    costs: Any = None,
    calibration: Calibration | None = None,
    reading: PredictionsReading = AS_WRITTEN,
) -> Calibration:
    """Return which answers of a model may be automated, as a calibration whose rule says it.

    Args:
        predictions: Labelled predictions of rows that neither the model nor the calibration was
            fitted to, their file, or a data frame.
        risk: Largest share of errors among automated answers, between 0 and 1.
        confidence: Probability over held-out rows that the promise holds (default: .95).
        by: Column whose values get a threshold each.
        per_class: Whether each predicted class gets a threshold.
        cluster_by: Column whose equal values mark related rows, of which one counts; for answers of
            decision models, `state`.
        costs: Costs of answers and of asking a person, instead of `risk`; see `cost_rule`.
        calibration: Steps before the decision, such as a recalibrator.
        reading: Options for reading files that were not written by this package.

    Raises:
        InputError: A value is not allowed, no row has a label, or rows fitted the calibration.
    """
    held_out = as_predictions(predictions, further_columns(predictions, reading), reading)
    before = Calibration.on(held_out) if calibration is None else calibration
    before.check(held_out)
    if PERSON in held_out.classes:
        raise InputError(f"a class is called {PERSON!r}, as are decisions not to automate")
    settled = before.calibrated(held_out)
    if (risk is None) == (costs is None):
        raise InputError("either risk or costs is required", options=("risk", "costs"))
    if costs is not None:
        others = {"by": by, "per_class": per_class, "cluster_by": cluster_by}
        for name, value in {**others, "confidence": confidence}.items():
            if value:
                raise InputError(f"{name} has no effect with costs", options=(name, "costs"))
        rule = cost_rule(costs, settled.classes)
    else:
        if by and per_class:
            raise InputError("by and per_class are two choices", options=("by", "per_class"))
        if cluster_by is None and {"question", TYPE_COLUMN, "state"} <= {*settled.columns}:
            cluster_by = "state"
        rule = fit_rule(
            settled,
            cast("float", risk),
            confidence=0.95 if confidence is None else confidence,
            by=BY_PREDICTION if per_class else by or "",
            cluster_by=cluster_by or "",
        )
    return before.then(rule, held_out)


def load_calibration(path: str | Path) -> Calibration:
    """Return the calibration in a file that `--save` or `Calibration.save` wrote.

    Raises:
        InputError: The file is missing, damaged, or of a later format.
    """
    content = read_json(path)
    if not isinstance(content, Mapping) or "steps" not in content:
        raise InputError(f"{path} is no calibration; `--save` writes them", code="damaged")
    if content.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {content.get('format')!r}; this version reads {FORMAT}",
            code="damaged",
        )
    with located(path):
        try:
            return _from_json(content)
        except InputError:
            raise
        except Exception as error:  # whatever an edited file leads to
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"damaged calibration: {reason}", code="damaged") from error


def _from_json(content: Mapping[str, Any]) -> Calibration:
    classes, reference = tuple(map(str, content["classes"])), content["reference"]
    calibration = Calibration(
        classes,
        content["model_fingerprint"],
        content["recalibrated_before"],
        tuple(_step_from_json(step, classes) for step in content["steps"]),
        frozenset(content["rows"]["hashes"].split()),
        content["rows"]["hashed"] == "ids",
        None if reference is None else Reference.read(reference, len(classes)),
        content["created"],
    )
    # Whether the numbers fit together shows when they are used.
    probs = np.full((2, len(classes)), 1 / len(classes))
    calibration.calibrated(Predictions(probs, classes))
    return calibration


def _step_to_json(step: Step) -> dict[str, Any]:
    if isinstance(step, Rule):
        return {"step": "decision", **step.to_json()}
    kind = next(kind for kind, (base, _) in _KINDS.items() if isinstance(step, base))
    state = {item.name: getattr(step, item.name) for item in fields(step) if not item.init}
    return {
        "step": kind,
        "name": step.name,
        "options": {item.name: getattr(step, item.name) for item in fields(step) if item.init},
        "rows": step.num_rows,
        "fitted": {k: _plain(v) for k, v in state.items() if k not in ("classes", "num_rows")},
    }


def _step_from_json(content: Mapping[str, Any], classes: tuple[str, ...]) -> Step:
    kind = content["step"]
    if kind == "decision":
        return Rule.from_json({k: v for k, v in content.items() if k != "step"}, classes)
    chosen = {"name": content["name"], **content["options"]}
    step: Any = replace(options.resolve("name", chosen, _KINDS[kind][1]))
    names = {item.name for item in fields(step) if not item.init}
    hints = get_type_hints(type(step), include_extras=True)
    state = {"classes": classes, "num_rows": int(content["rows"]), **content["fitted"]}
    if {*state} != names:
        raise InputError(f"{step.name} has {sorted(names)}, the file {sorted(state)}")
    for name, value in state.items():
        is_number = name != "classes" and not isinstance(value, list)
        setattr(step, name, checked(name, value, hints[name]) if is_number else _restored(value))
    return step  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    """Return arrays and tuples as lists, with infinite numbers as text, which JSON lacks."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def _restored(value: Any) -> Any:
    """Return lists of numbers as arrays, and lists of unequal lists as tuples."""
    if not isinstance(value, list):
        return value
    try:
        return np.asarray(value, dtype=np.float64)
    except ValueError:
        return tuple(map(_restored, value))


def _hashes(predictions: Predictions, *, named: bool) -> frozenset[str]:
    keys = (
        [name.encode() for name in row_names(predictions)]
        if named
        else [row.tobytes() for row in predictions.probs]
    )
    return frozenset(hashlib.sha256(key).hexdigest()[:16] for key in keys)
