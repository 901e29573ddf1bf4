"""How often do 95 % intervals hold the truth? Simulated data sets whose truth is known.

A row has Gaussian logits z; its label is drawn from softmax(z). The calibrated model states
softmax(z), the overconfident one softmax(1.6 z). Unfamiliar rows have logits half as wide. From
each population data sets of n rows are drawn; the scores of each get their intervals, and it is
counted how many of these hold the score of the population: the limit of infinitely many rows, bins
included. Accuracy, NLL, Brier, AUROC and ECE are taken of 1,000 data sets, so that a share of 95 %
is known to ± 1.4 points (twice its standard error), the other scores of fewer: they cost more.
Prediction sets hold the classes whose stated probability is at least `IN_SET`.

    python -m benchmarks.interval_coverage
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayeslora.io import atomic_file
from bayeslora.metrics.calibration import bin_places, bin_sums, top_label
from bayeslora.metrics.chance import (
    CHANCE_KEYS,
    SIGNIFICANT,
    ece_by_chance,
    errors_by_chance,
    p_values,
)
from bayeslora.metrics.evaluate import set_scores, statistic
from bayeslora.metrics.intervals import (
    Prepare,
    Resampling,
    Rows,
    Statistic,
    bootstrap_interval,
    from_zero,
    wilson,
)
from bayeslora.metrics.ood import DETECTION, detect, detection, sorted_by_uncertainty
from bayeslora.metrics.rowwise import CLAMP, LabelledRows, Scoring, labelled_rows
from bayeslora.metrics.scores import SCORE_KEYS, SCORES, Score
from bayeslora.predictions.record import Predictions
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.results import Results

KEY = ("kind",)
CLASSES = 5
WIDTH = 2.5
MODELS = {"calibrated": 1.0, "overconfident": 1.6}
SIZES = (200, 2000)
METHODS = ("percentile", "reflected")
POPULATION = 400_000
BINS = 15
RESAMPLES = 199
KINDS = {f"{model}-{size}": (model, size) for model in MODELS for size in SIZES}
FIRST = ("accuracy", "nll", "brier", "ece", "auroc")
FURTHER = tuple(key for key in SCORE_KEYS if key not in FIRST)
SELECTIVE = ("aurc", "accuracy_at_80", "accuracy_at_90", "accuracy_at_95")
IN_SET = 0.15
TOO_RARELY = 0.85
"""Coverage below which the table marks an interval."""

Scored = tuple[dict[str, float], dict[str, float], Prepare, list[int]]
"""Scores by key, p-values of some of them, statistic of resamples, and sizes of its groups."""


def main() -> None:
    """Simulate the missing kinds of data sets, count covered truths, and write the table."""
    parser = study_parser(__doc__, "reports/interval-coverage", data_dir=False, threads=None)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--further-sets", type=int, default=50)
    args = parser.parse_args()
    settings = {"sets": args.sets, "further_sets": args.further_sets, "resamples": RESAMPLES}
    results = Results(args.out, KEY)
    for kind, (model, size) in KINDS.items():
        if results.get(kind=kind) is None:
            scores = simulated(MODELS[model], size, args.sets, args.further_sets)
            results.append({"kind": kind, **settings, "scores": scores})
            print(kind, flush=True)
    results.sort()
    write_summary(args.out)


def simulated(power: float, size: int, sets: int, further_sets: int) -> dict[str, dict[str, float]]:
    """Return the results of `coverage` and `printed_coverage` for one kind of data sets."""
    truth = population_scores(power)
    return {
        **coverage(truth, power, size, sets=sets, scored=first_scores),
        **coverage(truth, power, size, sets=further_sets, scored=further_scores),
        **printed_coverage(power, size, further_sets),
    }


def draw(
    generator: np.random.Generator, rows: int, power: float, width: float = WIDTH
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return true and stated probabilities, [rows, CLASSES] each."""
    logits = generator.normal(scale=width, size=(rows, CLASSES))
    return softmax(logits), softmax(power * logits)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the softmax of each row."""
    values = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(values / values.sum(1, keepdims=True))


def with_labels(
    generator: np.random.Generator, true: NDArray[np.float64], stated: NDArray[np.float64]
) -> LabelledRows:
    """Return rows with labels drawn from the true probabilities."""
    labels = (true.cumsum(1) > generator.random((len(true), 1))).argmax(1)
    return labelled_rows(Predictions(stated, tuple("abcde"), labels))


def population_scores(power: float) -> dict[str, float]:
    """Return the scores of infinitely many rows.

    Every label of a row is weighted by its probability, so that sampling of labels adds no error.
    Scores of selective prediction need integer counts and use sampled labels.
    """
    generator = np.random.default_rng([0, int(10 * power)])
    true, stated = draw(generator, POPULATION, power)
    row, label = np.divmod(np.arange(POPULATION * CLASSES), CLASSES)
    of_label = stated[row, label]
    squares = (stated**2).sum(1)[row]
    every = LabelledRows(
        probs=stated[row],
        labels=label,
        confidence=stated.max(1)[row],
        correct=(stated.argmax(1)[row] == label).astype(np.float64),
        nll=-np.log(np.maximum(of_label, CLAMP)),
        brier=squares - 2 * of_label + 1,
        clamped=0,
        index=row,
    )
    soft = statistic(every, BINS)(true.reshape(-1))
    drawn = statistic(with_labels(generator, true, stated), BINS)(np.ones(POPULATION))
    truth = dict(zip(SCORE_KEYS, soft.tolist(), strict=True))
    truth |= {key: float(drawn[SCORE_KEYS.index(key)]) for key in SELECTIVE}
    outside = draw(generator, POPULATION, power, WIDTH / 2)[1]
    truth["auroc"] = float(
        detection(sorted_by_uncertainty(1 - stated.max(1), 1 - outside.max(1)))[0]
    )
    return truth


def coverage(
    truth: dict[str, float], power: float, size: int, *, sets: int, scored: Callable[..., Scored]
) -> dict[str, dict[str, float]]:
    """Return for each score its truth, its mean, and the coverage of each kind of interval."""
    records: dict[str, dict[str, float]] = {}
    for seed in range(sets):
        generator = np.random.default_rng([1, size, int(10 * power), seed])
        rows = with_labels(generator, *draw(generator, size, power))
        outside = 1 - draw(generator, size, power, WIDTH / 2)[1].max(1)
        values, chance, prepare, sizes = scored(rows, outside, seed)
        spread = Resampling(RESAMPLES, seed).spread(prepare, sizes)
        for place, (key, value) in enumerate(values.items()):
            record = records.setdefault(key, {"truth": truth[key], "mean": 0.0})
            record["mean"] += value / sets
            info = SCORES.get(key)
            low, high = (info.low, info.high) if info else (0.0, 1.0)
            used = "reflected" if info and info.reflected else "percentile"
            for method in METHODS:
                score = bootstrap_interval(value, spread.deviations[:, place], method, low, high)
                count(record, method, score, sets)
                if method == used:
                    noise = chance.get(key, 0.0) > SIGNIFICANT
                    count(record, "printed", from_zero(score) if noise else score, sets)
        if "accuracy" in values:
            low, high = wilson(rows.correct.sum(), size)
            inside = bool(low <= truth["accuracy"] <= high)
            records["accuracy"]["wilson"] = records["accuracy"].get("wilson", 0.0) + inside / sets
    return records


def count(record: dict[str, float], method: str, score: Score, sets: int) -> None:
    """Add an interval to the coverage of a method if it contains the truth."""
    inside = score.low - 1e-12 <= record["truth"] <= score.high + 1e-12
    record[method] = record.get(method, 0.0) + inside / sets


def first_scores(rows: LabelledRows, outside: NDArray[np.float64], seed: int) -> Scored:
    """Return accuracy, NLL, Brier, ECE and AUROC in the format of `coverage`."""
    inside = 1 - rows.confidence

    def prepare(indices: Rows, outside_indices: Rows) -> Statistic:
        part = rows.take(indices)
        means = part.means[:, :3].T
        sums = bin_sums(top_label(part.confidence, part.correct), BINS)
        areas = sorted_by_uncertainty(inside[indices], outside[outside_indices])

        def scores(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
            linear = means @ ours / ours.sum(axis=0)
            area = detection(areas, ours, theirs)[:1]
            return np.concatenate([linear, sums(ours).ece[None], area])

        return scores

    sizes = [len(rows), len(outside)]
    values = prepare(*map(np.arange, sizes))(*(np.ones(size) for size in sizes))
    place = bin_places(rows.confidence, BINS)
    drawn = ece_by_chance(rows.confidence, place, BINS, Resampling(RESAMPLES, seed))
    p = float(p_values(drawn, values[[FIRST.index("ece")]])[0])
    return dict(zip(FIRST, values.tolist(), strict=True)), {"ece": p}, prepare, sizes


def further_scores(rows: LabelledRows, _outside: NDArray[np.float64], seed: int) -> Scored:
    """Return all other scores in the format of `coverage`."""
    places = [SCORE_KEYS.index(key) for key in FURTHER]

    def prepare(indices: Rows) -> Statistic:
        scores = statistic(rows.take(indices), BINS)
        return lambda counts: scores(counts)[places]

    every = statistic(rows, BINS)(np.ones(len(rows)))
    values = dict(zip(SCORE_KEYS, every.tolist(), strict=True))
    scoring = Scoring(BINS, Resampling(RESAMPLES, seed))
    observed = np.array([values[key] for key in CHANCE_KEYS])
    p = p_values(errors_by_chance(rows, scoring), observed)
    chance = dict(zip(CHANCE_KEYS, p.tolist(), strict=True))
    return {key: values[key] for key in FURTHER}, chance, prepare, [len(rows)]


def printed_coverage(power: float, size: int, sets: int) -> dict[str, dict[str, float]]:
    """Return the coverage of printed intervals: detection and prediction sets."""
    records: dict[str, dict[str, float]] = {}
    truth = printed_truth(power)
    for seed in range(sets):
        generator = np.random.default_rng([2, size, int(10 * power), seed])
        for key, score in printed_scores(generator, size, power, seed).items():
            record = records.setdefault(key, {"truth": truth[key], "mean": 0.0})
            record["mean"] += score.value / sets
            count(record, "printed", score, sets)
    return records


def printed_scores(
    generator: np.random.Generator, size: int, power: float, seed: int
) -> dict[str, Score]:
    """Return the scores of one data set with the intervals of `evaluate`."""
    true, stated = draw(generator, size, power)
    labels = (true.cumsum(1) > generator.random((size, 1))).argmax(1)
    inside = Predictions(stated, tuple("abcde"), labels, sets=stated >= IN_SET)
    outside = Predictions(draw(generator, size, power, WIDTH / 2)[1], tuple("abcde"))
    how = Resampling(RESAMPLES, seed)
    far = detect(inside, {"far": outside}, "max_probability", how)["far"]
    return {
        **{key: far.by_score["max_probability"][key] for key in DETECTION[1:]},
        **set_scores(inside, how),
    }


def printed_truth(power: float) -> dict[str, float]:
    """Return the scores of `printed_scores` for infinitely many rows."""
    generator = np.random.default_rng([3, int(10 * power)])
    true, stated = draw(generator, POPULATION, power)
    sets = stated >= IN_SET
    unsure = 1 - stated.max(1)
    outside = 1 - draw(generator, POPULATION, power, WIDTH / 2)[1].max(1)
    areas = detection(sorted_by_uncertainty(unsure, outside))
    return {
        **dict(zip(DETECTION, areas.tolist(), strict=True)),
        "coverage": float((true * sets).sum(1).mean()),
        "set_size": float(sets.sum(1).mean()),
        "singletons": float((sets.sum(1) == 1).mean()),
        "empty_sets": float((sets.sum(1) == 0).mean()),
    }


def write_summary(out: Path) -> None:
    """Write the tables of the simulated kinds."""
    rows = Results(out, KEY).rows()
    settings, tables = rows[0], {row["kind"]: row["scores"] for row in rows}
    lines = [
        "# How often 95 % intervals hold the truth",
        "",
        f"Simulated data sets, {settings['sets']:,} of each kind for accuracy, NLL, Brier, ECE and "
        f"AUROC, {settings['further_sets']:,} for the other scores; {settings['resamples']:,} "
        f"bootstrap resamples each, {CLASSES} classes, {BINS} bins; made by "
        "`python -m benchmarks.interval_coverage`. Per cent of the intervals that hold "
        "the score of the population. *Printed* is the interval that `evaluate` gives by default: "
        "percentile, or "
        "reflected for scores that noise moves one way, and from zero on where a calibration error "
        "is no larger than chance makes it. *Mean* is the mean of the score over the data sets: "
        "where it is far from the truth, the score is biased at this number of rows. Bold: printed "
        f"intervals that hold the truth in less than {100 * TOO_RARELY:.0f} %. *near* is the mean "
        "over two out-of-distribution sets, *total* the mean total uncertainty of all, right and "
        "wrong rows. A share from "
        f"{settings['sets']:,} sets is known to ± {200 * (0.0475 / settings['sets']) ** 0.5:.1f} "
        f"points, one from {settings['further_sets']:,} to "
        f"± {200 * (0.0475 / settings['further_sets']) ** 0.5:.1f}.",
    ]
    for name in filter(tables.__contains__, KINDS):
        heading = "| score | truth | mean | printed | percentile | reflected | Wilson |"
        model, size = KINDS[name]
        lines += [
            "",
            f"## {model}, n = {size:,}",
            "",
            heading,
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        lines += [line(key, row) for key, row in tables[name].items()]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def line(key: str, row: dict[str, float]) -> str:
    """Return one row of the table."""
    shares = [
        f"{100 * row[method]:.1f}" if method in row else ""
        for method in ("printed", *METHODS, "wilson")
    ]
    if row["printed"] < TOO_RARELY:
        shares[0] = f"**{shares[0]}**"
    return f"| `{key}` | {row['truth']:.4f} | {row['mean']:.4f} | {' | '.join(shares)} |"


if __name__ == "__main__":
    main()
