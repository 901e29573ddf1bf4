r"""The confidence from which answers may be automated, with a promise about their errors.

    automated: rows with max_c p_c ≥ t;   risk R(t) = P(error | automated)

From held-out rows, candidates t are tested in a fixed sequence of falling t. A candidate with n
automated rows and k errors passes if the exact binomial test rejects R(t) > r,

    P(K ≤ k | K ~ Binomial(n, r)) ≤ 1 − confidence

which is to say that the one-sided bound of Clopper and Pearson is at most r. The last candidate
before the first that fails is taken, so that R(t) ≤ r holds with at least this confidence over the
held-out rows, without a correction for their number. Which candidates there are, and where the
sequence starts, follows from the confidences alone, not from the labels: it starts where the
confidences themselves make a pass most likely. A candidate lies just above the confidence of a
held-out row, since the rows above an order statistic are independent draws from what lies above it.

Sources: Clopper and Pearson 1934; Bauer 1991 and Angelopoulos et al. 2021, arXiv 2110.01052, for
the fixed sequence; Geifman and El-Yaniv 2017, arXiv 1705.08500, for the selective risk.

*Costs* need no threshold: the action of least expected cost under the probabilities, one of which
is to ask a person.

*A cascade* asks a second, dearer model where the first is not sure. Its promise is about all rows:
at most a share r is answered wrong by the first that the second would have answered right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.held_out import check_classes
from bayeslora.option_checks import is_number, read_fields
from bayeslora.plain_text import counted
from bayeslora.predictions.record import Predictions

PERSON = "person"
"""Value of the column `decision` for rows that are not automated."""

COLUMN = "decision"
BY_PREDICTION = "prediction"
"""`Rule.by` for a threshold per predicted class."""

LEAST_ACCEPTED = 20
_MOST_CANDIDATES = 200
LEVEL = 0.05
"""Level of the test that a promise no longer holds."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Promise:
    """A threshold, and the held-out rows that it rests on.

    Attributes:
        threshold: Lowest confidence to automate; None if none keeps the promise.
        rows: Number of labelled held-out rows.
        accepted: Number of those at or above the threshold.
        errors: Number of wrong answers among these.
        bound: Upper bound of Clopper and Pearson on their share, at the confidence of the promise;
            1 without a threshold.
    """

    threshold: Annotated[float, Interval(ge=0, le=1)] | None
    rows: int
    accepted: int = 0
    errors: int = 0
    bound: float = 1.0

    @property
    def share(self) -> float:
        """Share of rows that are automated."""
        return self.accepted / self.rows


@dataclass(frozen=True)
class Rule:
    """Which rows to automate.

    Attributes:
        risk: Largest share of errors among automated rows.
        confidence: Probability over held-out rows that the promise holds.
        by: Column whose values have a threshold each; `prediction` for the predicted class; empty
            for one threshold.
        cluster_by: Column whose equal values mark related rows, or empty; see `independent`.
        promises: Promise by value; of the empty string without `by`. Other values are for a person.
        costs: [C, C] cost of each answer (columns) for each class (rows), instead of promises.
        person: Cost of asking a person, beside `costs`.
    """

    risk: float = 0.0
    confidence: float = 0.95
    by: str = ""
    cluster_by: str = ""
    promises: Mapping[str, Promise] = field(default_factory=dict)
    costs: Sequence[Sequence[float]] | None = None
    person: float = 0.0

    @property
    def columns(self) -> list[str]:
        """The columns that a test of the promises needs."""
        return [name for name in (self.by, self.cluster_by) if name not in ("", BY_PREDICTION)]

    def accepts(self, predictions: Predictions) -> NDArray[np.bool_]:
        """Return which rows are automated, [N]."""
        if self.costs is not None:
            return np.asarray(expected_costs(predictions, self.costs).min(1) <= self.person)
        values = values_of(predictions, self.by)
        limits = {
            value: np.inf if promise.threshold is None else promise.threshold
            for value, promise in self.promises.items()
        }
        least = np.array([limits.get(str(value), np.inf) for value in values.tolist()])
        return np.asarray(predictions.confidence >= least)

    def answers(self, predictions: Predictions) -> NDArray[np.int64]:
        """Return the class that an automated row gets, [N]."""
        if self.costs is None:
            return predictions.prediction
        return np.asarray(expected_costs(predictions, self.costs).argmin(1))

    def apply(self, predictions: Predictions) -> Predictions:
        """Return the predictions with the column `decision`: a class, or `person`.

        Raises:
            InputError: The column of `by` is missing.
        """
        names = np.array(predictions.classes, dtype=object)[self.answers(predictions)]
        names[~self.accepts(predictions)] = PERSON
        return predictions.replace(columns={**predictions.columns, COLUMN: names})

    def to_json(self) -> dict[str, Any]:
        """Return the rule as plain values, with a sentence of each promise for who reviews it."""
        if self.costs is not None:
            return {"costs": self.costs, "person": self.person}
        return {
            "says": [sentence(self, value) for value in self.promises],
            "risk": self.risk,
            "confidence": self.confidence,
            "by": self.by,
            "cluster_by": self.cluster_by,
            "promises": {value: asdict(promise) for value, promise in self.promises.items()},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], classes: Sequence[str]) -> Rule:
        """Return what `to_json` returned, for rows of these classes."""
        made = content.get("promises") or {}
        promises = {str(value): read_fields(Promise, promise) for value, promise in made.items()}
        stored = {name: value for name, value in content.items() if name != "says"}
        rule = cls(**{**stored, "promises": promises})
        if rule.costs is None:
            _check_shares(rule.risk, rule.confidence)
            if not promises:
                raise InputError("the decision has neither promises nor costs")
        elif np.shape(rule.costs) != (len(classes), len(classes)):
            raise InputError(f"costs must be {len(classes)} × {len(classes)}")
        return rule


def values_of(predictions: Predictions, by: str) -> NDArray[Any]:
    """Return the value of each row that selects its threshold, [N].

    Raises:
        InputError: There is no such column.
    """
    if by == BY_PREDICTION:
        return np.array(predictions.classes, dtype=object)[predictions.prediction]
    if not by:
        return np.full(len(predictions), "", dtype=object)
    if by not in predictions.columns:
        raise InputError(
            f"there is no column {by!r}; choose from {', '.join(predictions.columns) or 'none'}",
            options=("by", "cluster_by"),
        )
    return np.asarray(predictions.columns[by])


def fit_rule(
    predictions: Predictions,
    risk: float,
    *,
    confidence: float = 0.95,
    by: str = "",
    cluster_by: str = "",
) -> Rule:
    """Return thresholds with a promise, from held-out rows.

    Each promise holds with its own confidence; that of one group says nothing of the others.

    Args:
        predictions: Rows that neither the model nor its recalibrator was fitted to; those without
            a label are skipped.
        risk: Largest share of errors among automated rows, between 0 and 1.
        confidence: Probability over held-out rows that a promise holds, between 0 and 1.
        by: See `Rule`.
        cluster_by: See `Rule`.

    Raises:
        InputError: A value is not allowed, or no row has a label.
    """
    _check_shares(risk, confidence)
    rows = independent(labelled(predictions), by, cluster_by)
    values = values_of(rows, by)
    wrong = rows.prediction != rows.labels
    promises = {
        str(value): promise(
            rows.confidence[values == value], wrong[values == value], risk, confidence
        )
        for value in sorted({value for value in values.tolist() if value is not None})
    }
    if not promises:
        raise InputError(f"by: column {by!r} has no values", options=("by",))
    return Rule(risk, confidence, by, cluster_by, promises)


def _check_shares(risk: float, confidence: float) -> None:
    for name, value in (("risk", risk), ("confidence", confidence)):
        if not is_number(value) or not 0 < value < 1:
            raise InputError(f"{name} must be between 0 and 1, got {value!r}", options=(name,))


def labelled(predictions: Predictions) -> Predictions:
    """Return the labelled rows.

    Raises:
        InputError: There is none.
    """
    if not predictions.labelled.any():
        raise InputError("labels are needed, and these predictions have none")
    return predictions.take(predictions.labelled)


def independent(predictions: Predictions, by: str = "", cluster_by: str = "") -> Predictions:
    """Return of each cluster one row per value of `by`, drawn at random.

    Binomial tests count independent rows. Those of a cluster, such as questions about one state,
    are right or wrong together.

    Raises:
        InputError: There is no such column.
    """
    if not cluster_by:
        return predictions
    groups = [values_of(predictions, name).astype(str) for name in (cluster_by, by)]
    numbers = [np.unique(group, return_inverse=True)[1] for group in groups]
    order = np.random.default_rng(0).permutation(len(predictions))
    first = np.unique(np.column_stack(numbers)[order], axis=0, return_index=True)[1]
    return predictions.take(np.sort(order[first]))


def promise(scores: Array, losses: NDArray[np.bool_], risk: float, confidence: float) -> Promise:
    """Return the lowest threshold that keeps a risk.

    Args:
        scores: [N] confidences.
        losses: [N] whether the answer is wrong.
        risk: r.
        confidence: Probability that R(t) ≤ r.
    """
    lowest = _lowest(scores, losses, risk, confidence, of_all=False)
    if lowest is None:
        return Promise(None, len(scores))
    threshold, accepted, errors = lowest
    bound = upper_bound(errors, accepted, confidence)
    return Promise(threshold, len(scores), accepted, errors, bound)


def _lowest(
    scores: Array, losses: NDArray[np.bool_], risk: float, confidence: float, *, of_all: bool
) -> tuple[float, int, int] | None:
    """Return the last threshold of the sequence that passes, its rows and its losses.

    Args:
        scores: [N].
        losses: [N].
        risk: r.
        confidence: 1 − level of the test.
        of_all: Whether the risk is a share of all rows, not of those at or above the threshold.
    """
    from scipy.stats import binom, poisson

    order = np.argsort(-scores, kind="stable")
    falling, lost = scores[order], np.cumsum(losses[order])
    expected = np.cumsum(1 - falling)
    # Candidates are at the ends of runs of equal scores, with the first score below them.
    ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
    ends = ends[ends + 1 >= LEAST_ACCEPTED]
    if not len(ends):
        return None
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, _MOST_CANDIDATES).round().astype(int))]
    counts = np.full(len(ends), len(scores)) if of_all else ends + 1
    # The largest number of losses that passes; -1 if even none does not.
    most = binom.ppf(1 - confidence, counts, risk)
    most = np.where(binom.cdf(most, counts, risk) <= 1 - confidence, most, most - 1)
    likely = np.where(most >= 0, poisson.cdf(most, expected[ends]), -1.0)
    if likely.max() < 0:
        return None
    start = int(likely.argmax())
    passes = lost[ends[start:]] <= most[start:]
    last = start + (len(passes) if passes.all() else int(passes.argmin())) - 1
    if last < start:
        return None
    end = int(ends[last])
    below = falling[end + 1] if end + 1 < len(falling) else 0.0
    threshold = float(np.nextafter(below, 1.0)) if below else 0.0
    return threshold, end + 1, int(lost[end])


def curve(
    scores: Array, losses: NDArray[np.bool_], confidence: float = 0.95
) -> tuple[Promise, ...]:
    """Return errors among 10, 20, … 100 % of the rows, each with a bound for this share alone.

    Rows of equal confidence stay together.

    Args:
        scores: [N] confidences.
        losses: [N] whether the answer is wrong.
        confidence: Probability that a bound holds.
    """
    points, falling = [], np.sort(scores)[::-1]
    for tenths in range(1, 11):
        threshold = float(falling[max(1, round(tenths / 10 * len(falling))) - 1])
        accepted = scores >= threshold
        count, errors = int(accepted.sum()), int(losses[accepted].sum())
        bound = upper_bound(errors, count, confidence)
        points.append(Promise(threshold, len(falling), count, errors, bound))
    return tuple(dict.fromkeys(points))


def upper_bound(errors: int, count: int, confidence: float) -> float:
    """Return the one-sided upper bound of Clopper and Pearson on a share."""
    from scipy.stats import beta

    return float(beta.ppf(confidence, errors + 1, count - errors)) if errors < count else 1.0


def expected_costs(predictions: Predictions, costs: Sequence[Sequence[float]]) -> Array:
    """Return the expected cost of each answer under the probabilities, [N, C]."""
    return np.asarray(predictions.probs @ np.asarray(costs, dtype=np.float64))


def cost_rule(costs: Any, classes: Sequence[str]) -> Rule:
    """Return the rule of least expected cost.

    Args:
        costs: A mapping with `person`, the cost of asking one, and `costs`, which maps classes to
            the cost of other answers by name: `{person: 1, costs: {spam: {ham: 5}}}`. Answers that
            are not named cost 0 if right and 1 if wrong.
        classes: C names.

    Raises:
        InputError: It is no such mapping, or a class is unknown.
    """
    if not isinstance(costs, Mapping) or {*costs} - {PERSON, "costs"} or PERSON not in costs:
        raise InputError("costs must have `person`, the cost of asking one, and maybe `costs`")
    matrix = 1.0 - np.eye(len(classes))
    entries = costs.get("costs") or {}
    if not isinstance(entries, Mapping) or not all(
        isinstance(v, Mapping) for v in entries.values()
    ):
        raise InputError("costs must map a class to costs by answer, such as `spam: {ham: 5}`")
    pairs = [(y, a, cost) for y, row in entries.items() for a, cost in row.items()]
    for label, answer, cost in [*pairs, (classes[0], classes[0], costs[PERSON])]:
        for name in (label, answer):
            if str(name) not in classes:
                raise InputError(
                    f"costs: {str(name)!r} is no class; choose from {', '.join(classes)}"
                )
        if not is_number(cost) or not 0 <= cost < np.inf:
            raise InputError(f"costs must be numbers of at least 0, got {cost!r}")
    for label, answer, cost in pairs:
        matrix[classes.index(str(label)), classes.index(str(answer))] = cost
    return Rule(costs=matrix.tolist(), person=float(costs[PERSON]))


@dataclass(frozen=True)
class Check:
    """Whether the promise of a rule still holds on new labelled rows.

    Attributes:
        accepted: Number of labelled rows that are automated.
        errors: Number of wrong answers among these.
        p: Exact binomial probability of so many errors or more at the promised risk, the least of
            the groups' times their number.
    """

    accepted: int
    errors: int
    p: float

    @property
    def holds(self) -> bool:
        """Whether the errors are within chance, at the level of .05."""
        return self.p >= LEVEL


def check(rule: Rule, predictions: Predictions) -> Check:
    """Test a rule's promises on new labelled rows.

    Raises:
        InputError: No row has a label, or the rule is one of costs, which promises nothing.
    """
    from scipy.stats import binom

    if rule.costs is not None:
        raise InputError("a rule of costs promises no share of errors")
    rows = independent(labelled(predictions), rule.by, rule.cluster_by)
    accepted, values = rule.accepts(rows), values_of(rows, rule.by)
    wrong = rows.prediction != rows.labels
    groups = [accepted & (values == value) for value in rule.promises]
    p = min(binom.sf(wrong[part].sum() - 1, part.sum(), rule.risk) for part in groups)
    return Check(int(accepted.sum()), int(wrong[accepted].sum()), min(1.0, float(p) * len(groups)))


@dataclass(frozen=True)
class Cascade:
    """A threshold below which a second model is asked.

    Attributes:
        threshold: Lowest confidence of the first model to take its answer; None to ask the second
            for every row.
        rows: Number of labelled rows.
        accepted: Number of those that the first model answers.
        losses: Number of those that it answers wrong and the second would answer right.
        cost: Mean price per row.
        accuracy: Share of right answers of the first model, the second, and both together.
    """

    threshold: float | None
    rows: int
    accepted: int
    losses: int
    cost: float
    accuracy: tuple[float, float, float]


def cascade(
    first: Predictions,
    second: Predictions,
    risk: float,
    prices: tuple[float, float],
    confidence: float = 0.95,
) -> Cascade:
    """Return the cheapest threshold of a cascade whose loss against the second model is bounded.

    Args:
        first: Held-out predictions of the cheap model.
        second: Those of the dear one for the same rows, in the same order.
        risk: Largest share of all rows that the first answers wrong and the second right.
        prices: Price of a row for each; the first is always asked.
        confidence: Probability over held-out rows that the promise holds.

    Raises:
        InputError: A value is not allowed, the rows or classes differ, or no row has a label.
    """
    _check_shares(risk, confidence)
    if not all(is_number(price) and 0 <= price < np.inf for price in prices):
        raise InputError(f"prices must be at least 0, got {prices!r}", options=("prices",))
    check_classes("the first predictions have", first.classes, second.classes, "the second have")
    if len(first) != len(second) or first.ids != second.ids:
        raise InputError(f"the two have other rows: {len(first)} and {len(second)}, or other ids")
    rows = labelled(first)
    others = second.take(first.labelled)
    if others.labels is not None and (others.labels != rows.labels).any():
        raise InputError("the two have other labels, and thus other rows")
    right = [part.prediction == rows.labels for part in (rows, others)]
    lowest = _lowest(rows.confidence, ~right[0] & right[1], risk, confidence, of_all=True)
    threshold, accepted, losses = lowest or (None, 0, 0)
    taken = rows.confidence >= (np.inf if threshold is None else threshold)
    both = np.where(taken, right[0], right[1])
    # Without a threshold, nobody needs the first.
    cost = prices[1] + (0 if threshold is None else prices[0] - float(taken.mean()) * prices[1])
    accuracy = (float(right[0].mean()), float(right[1].mean()), float(both.mean()))
    return Cascade(threshold, len(rows), accepted, losses, cost, accuracy)


def sentence(rule: Rule, value: str = "") -> str:
    """Return what a promise says, of whom, and when it is lost."""
    made = rule.promises[value]
    whose = f" where {rule.by} is {value}" if rule.by else ""
    if made.threshold is None:
        return (
            f"no threshold{whose} keeps the share of errors at {rule.risk:.3g} with "
            f"{rule.confidence:.3g} confidence, from {counted(made.rows, 'row')}"
        )
    least = f" with a probability of at least {made.threshold:.4f}" if made.threshold else ""
    return (
        f"{'answers' if least else 'all answers'}{whose}{least} are automated: "
        f"{100 * made.share:.1f} % of rows; at most {100 * rule.risk:.3g} % of them are wrong, "
        f"with {100 * rule.confidence:.3g} % confidence, as long as new rows are like the "
        f"{counted(made.rows, 'row')} it rests on{', one of each ' * bool(rule.cluster_by)}"
        f"{rule.cluster_by}"
    )
