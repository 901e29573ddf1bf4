r"""Whether what was calibrated still holds for the batches that come after.

*Labelled rows* are bets against the confidence. Row i, with confidence q_i and y_i = 1 if its
answer is right, multiplies the wealth of a bet λ by

    1 + λ (y_i − q_i)

which is 1 on average, whatever λ, as long as P(y_i = 1 | the past) = q_i. Each stream, of all rows
and of each predicted class, averages a grid of bets of both signs; the total is half that of all
rows and half the mean over the classes. An average of martingales is one, and by Ville's inequality
the probability that it ever reaches 2 / level is at most level / 2, over all batches, with nothing
to correct for the number of classes or of looks. A class is thus tested too: probabilities that
are right on average but wrong for the rows predicted as one class are worth an alarm.

*All rows* are compared with those that the calibration was fitted to: confidences and predicted
classes by chi-squared tests, and the share beyond each stored quantile of an uncertainty by
Fisher's exact test, Holm-corrected. Batch k spends level / (2 k (k + 1)); the sum over all batches
is level / 2.

Together, false alarms have a probability of at most `level` over the life of a state. An alarm
stays: it says that this calibration does not describe these rows, and only another one, with
another state, changes that. The confidences were fitted to finitely many rows, and are never
exactly right; after very many labelled rows, the alarm may be about a deviation that is too small
to matter. The accuracy beside the expected one shows its size.

Sources: Waudby-Smith and Ramdas 2023, arXiv 2010.09686, for the bets; Ville 1939; Holm 1979.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from bayeslora.decisions.artefact import Calibration, Reference, binned
from bayeslora.errors import InputError, located
from bayeslora.io import read_json, write_json
from bayeslora.metrics.differences import holm
from bayeslora.option_checks import is_number, read_fields
from bayeslora.predictions.collection import PredictionsLike, as_predictions
from bayeslora.predictions.record import Predictions

FORMAT = 1

_SIZES = 0.9 / 2.0 ** np.arange(8)
BETS = np.concatenate([_SIZES, -_SIZES])
"""Bets λ, [L]. Below 1 in size, so that a certain answer that is wrong leaves some wealth."""

_LEAST_EXPECTED = 5.0
"""Expected rows of a cell of a chi-squared test; smaller cells are merged."""

LABELS, CONFIDENCE, CLASSES, BEYOND = "labels", "confidence", "predicted classes", "beyond "
"""Names of the tests; the last is followed by that of an uncertainty."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Batch:
    """What one batch looked like.

    Attributes:
        name: Its name.
        hash: Hash of its rows, without their labels.
        rows: Number of rows.
        labelled: Number of labelled rows.
        accuracy: Share of right answers among the labelled rows, None without any.
        expected: Mean confidence of these, or of all rows if none is labelled.
        low: 2.5 % point of their accuracy if the confidences are right: normal approximation of the
            Poisson binomial distribution.
        high: 97.5 % point.
        drift: Holm-corrected p-value of each test against the reference; empty if the rows were
            tested before they had labels.
        drift_level: Level that the batch spent on these.
        log_wealth: Logarithm of the total wealth after the batch.
        p: p-value of all labelled rows so far, valid at any time: 1 / highest wealth so far.
        alarms: Names of the tests that reject.
    """

    name: str
    hash: str
    rows: int
    labelled: int
    accuracy: float | None
    expected: float
    low: float
    high: float
    drift: Mapping[str, float]
    drift_level: float
    log_wealth: float
    p: float
    alarms: Sequence[str]


@dataclass(frozen=True)
class State:
    """Everything that the next batch needs to know of those before.

    Attributes:
        calibration: Hash that identifies the calibration.
        confidence: Probability of no false alarm, over all batches.
        classes: C names.
        log_wealth: [1 + C][L] logarithm of the wealth of each bet, of all rows and per class.
        counts: [1 + C] labelled rows.
        highest: Highest logarithm of the total wealth after any row.
        batches: The batches, in order.
    """

    calibration: str
    confidence: Annotated[float, Interval(gt=0, lt=1)]
    classes: Sequence[str]
    log_wealth: Sequence[Sequence[float]]
    counts: Sequence[int]
    highest: float = 0.0
    batches: Sequence[Batch] = ()

    @classmethod
    def start(cls, calibration: Calibration, confidence: float = 0.95) -> State:
        """Return the state before the first batch.

        Raises:
            InputError: The confidence is not between 0 and 1, or the calibration has no step.
        """
        if not is_number(confidence) or not 0 < confidence < 1:
            raise InputError(
                f"confidence must be between 0 and 1, got {confidence!r}", options=("confidence",)
            )
        if calibration.reference is None:
            raise InputError("the calibration has no step, and thus no rows to compare with")
        streams = 1 + len(calibration.classes)
        wealth = np.zeros((streams, len(BETS))).tolist()
        return cls(identity(calibration), confidence, calibration.classes, wealth, [0] * streams)

    @property
    def level(self) -> float:
        """Probability of a false alarm, over all batches."""
        return 1 - self.confidence

    @property
    def alarm(self) -> bool:
        """Whether a test of any batch rejects."""
        return any(batch.alarms for batch in self.batches)

    def save(self, path: str | Path) -> None:
        """Write a JSON file, atomically."""
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {"format": FORMAT, "alarm": self.alarm, **asdict(self)}


def identity(calibration: Calibration) -> str:
    """Return a hash that differs between calibrations fitted to other rows or at another time."""
    reference = calibration.reference
    content = (
        calibration.created,
        calibration.model,
        calibration.classes,
        sorted(calibration.rows),
        None if reference is None else asdict(reference),
    )
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def load_state(path: str | Path) -> State:
    """Return the state in a file that `State.save` wrote.

    Raises:
        InputError: The file is missing, damaged, or of a later format.
    """
    content = read_json(path)
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise InputError(f"{path} is no state of format {FORMAT}", code="damaged")
    with located(path):
        try:
            fields = {k: v for k, v in content.items() if k not in ("format", "alarm")}
            state = read_fields(State, fields)
            shape = np.shape(np.asarray(state.log_wealth))
            if shape != (1 + len(state.classes), len(BETS)) or len(state.counts) != shape[0]:
                raise InputError(f"the wealth of {shape} bets does not fit", code="damaged")
        except ValueError as error:
            raise InputError(f"damaged state: {error}", code="damaged") from error
    return state


def monitor(
    calibration: Calibration, predictions: PredictionsLike, state: State | None = None
) -> State:
    """Return the state after one more batch.

    A batch may come again with labels that it had not: it is then tested for its labels only.

    Args:
        calibration: What was fitted.
        predictions: What the model predicted for new rows, before any step of the calibration; the
            labelled rows in the order in which they came; a file or data frame of them.
        state: State after the batches before; None for the first.

    Raises:
        InputError: The state is of another calibration, the batch was given before, or the
            calibration does not apply to it (see `Calibration.check`).
    """
    before = State.start(calibration) if state is None else state
    if before.calibration != identity(calibration):
        raise InputError("the state is of another calibration", code="another-model")
    columns = calibration.rule.columns if calibration.rule else []
    predictions = as_predictions(predictions, columns)
    calibration.check(predictions)
    digest = _hash(predictions)
    same = [batch for batch in before.batches if batch.hash == digest]
    if same and (any(batch.labelled for batch in same) or not predictions.labelled.any()):
        raise InputError(f"these rows are those of batch {same[0].name!r}", code="exists")
    settled = calibration.independent(calibration.calibrated(predictions))
    drift, level = {}, 0.0
    if calibration.reference is not None and not same:
        drift = drift_tests(calibration.reference, settled)
        count = 1 + sum(bool(batch.drift) for batch in before.batches)
        level = before.level / (2 * count * (count + 1))
    after, log_wealth = _after_bets(before, settled)
    alarms = [name for name, p in drift.items() if p <= level]
    # Of a wealth that was reached before, there is nothing new to report.
    if before.highest < np.log(2 / before.level) <= after.highest:
        alarms.insert(0, LABELS)
    batch = Batch(
        name=predictions.name,
        hash=digest,
        rows=len(settled),
        labelled=int(settled.labelled.sum()),
        **_accuracy(settled),
        drift=drift,
        drift_level=level,
        log_wealth=log_wealth,
        p=float(np.exp(-after.highest)),
        alarms=alarms,
    )
    return replace(after, batches=[*before.batches, batch])


def drift_tests(reference: Reference, predictions: Predictions) -> dict[str, float]:
    """Return the Holm-corrected p-value of each test of rows against the reference.

    The counts beyond a quantile of the reference, given those of the reference, follow the negative
    hypergeometric distribution, whose upper tail is that of Fisher's test.

    Args:
        reference: Of the calibration.
        predictions: Calibrated predictions, with the uncertainties that the reference has.

    Raises:
        InputError: An uncertainty is missing.
    """
    from scipy.stats import fisher_exact

    predicted = np.bincount(predictions.prediction, minlength=len(reference.predicted))
    p = {
        CONFIDENCE: _chi_squared(reference.confidence, binned(predictions, reference.edges)),
        CLASSES: _chi_squared(reference.predicted, predicted),
    }
    for name, (limit, count) in reference.unfamiliar.items():
        beyond = int((predictions.uncertainty(name) > limit).sum())
        table = [[beyond, len(predictions) - beyond], [count, sum(reference.predicted) - count]]
        p[BEYOND + name] = float(fisher_exact(table, alternative="greater").pvalue)
    return dict(zip(p, map(float, holm([*p.values()])), strict=True))


def _chi_squared(reference: Sequence[int], new: NDArray[np.int64]) -> float:
    """Return the p-value of two samples of counts, with rare cells merged."""
    from scipy.stats import chi2_contingency

    table = np.array([reference, new], dtype=np.float64)
    smaller = table.sum(0) * table.sum(1).min() / table.sum()
    rare = smaller < _LEAST_EXPECTED
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(1)])
    table = table[:, table.sum(0) > 0]
    return float(chi2_contingency(table, correction=False).pvalue) if table.shape[1] > 1 else 1.0


def _after_bets(state: State, predictions: Predictions) -> tuple[State, float]:
    """Return the state after the labelled rows, and the logarithm of its total wealth."""
    rows = predictions.labelled
    predicted = predictions.prediction[rows]
    right = np.zeros(0) if predictions.labels is None else predicted == predictions.labels[rows]
    wealth, total = wagers(
        np.array(state.log_wealth), right - predictions.confidence[rows], predicted
    )
    new = [len(predicted), *np.bincount(predicted, minlength=predictions.num_classes).tolist()]
    return replace(
        state,
        log_wealth=wealth.tolist(),
        counts=[count + more for count, more in zip(state.counts, new, strict=True)],
        highest=max(state.highest, float(total.max())),
    ), float(total[-1])


def wagers(log_wealth: Array, excess: Array, predicted: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return the logarithms of the wealth of each bet at the end, and of the total on the way.

    Args:
        log_wealth: [1 + C, L] at the start.
        excess: [N] y − q.
        predicted: [N] predicted class.

    Returns:
        [1 + C, L], and [N + 1] with the start.
    """
    from scipy.special import logsumexp

    gains = np.log1p(np.outer(excess, BETS))
    ends, of_classes = log_wealth.copy(), np.full(len(excess) + 1, -np.inf)
    for stream, start in enumerate(log_wealth):
        own = np.ones(len(excess), np.bool_) if stream == 0 else predicted == stream - 1
        # A sum that goes on from the start is that of all batches at once, to the last digit.
        path = np.cumsum(np.vstack([start, gains[own]]), axis=0)
        ends[stream] = path[-1]
        mean = (logsumexp(path, axis=1) - np.log(len(BETS)))[np.append(0, np.cumsum(own))]
        if stream == 0:
            of_all = mean
        else:
            of_classes = np.logaddexp(of_classes, mean)
    of_classes -= np.log(len(log_wealth) - 1)
    return ends, np.logaddexp(of_all, of_classes) - np.log(2)


def _accuracy(predictions: Predictions) -> dict[str, Any]:
    """Return accuracy, its expectation and the ends of its interval; see `Batch`."""
    rows = predictions.labelled
    right = None
    if predictions.labels is not None:
        right = float((predictions.prediction == predictions.labels)[rows].mean())
        predictions = predictions.take(rows)
    confidence = predictions.confidence
    expected = float(confidence.mean())
    margin = 1.959964 * float(np.sqrt((confidence * (1 - confidence)).sum())) / len(confidence)
    low, high = max(0.0, expected - margin), min(1.0, expected + margin)
    return {"accuracy": right, "expected": expected, "low": low, "high": high}


def _hash(predictions: Predictions) -> str:
    """Return a hash of the rows, in any order."""
    names = predictions.ids or [""] * len(predictions)
    rows = sorted(
        name.encode() + probs.tobytes()
        for name, probs in zip(names, predictions.probs, strict=True)
    )
    return hashlib.sha256(b"".join(rows)).hexdigest()
