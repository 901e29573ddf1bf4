"""Table of `posteriors` over all data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from benchmarks.lib.tables import Rows, difference, is_blind, mark, table
from benchmarks.posteriors.pareto import Point

LEGEND = (
    "Means over the seeds that all these methods have on all data sets ({seeds}). `<` marks an NLL "
    "below that of {reference}, `>` one above it, where the 95 % interval of the paired difference "
    "over seeds leaves out zero; nothing corrects for the number of comparisons. Δ is the mean NLL "
    "minus that of {reference}, paired by seed. A star marks the Pareto front of the means over "
    "data sets, which are point estimates. Far AUROC is by the highest probability and, of what "
    "has one, by the variance of the logits."
)


def short_table(
    tasks: Mapping[str, Mapping[str, Rows]],
    means: Sequence[Point],
    front: Sequence[str],
    reference: str,
) -> str:
    """Return legend and table, sorted by mean NLL.

    Args:
        tasks: Rows by data set and method, with common seeds.
        means: Means over data sets of the methods to show.
        front: Names of the methods on the Pareto front.
        reference: Name of the reference method.
    """
    names = sorted(tasks)
    scores = ("ece", "far max_probability", "far logit_variance")
    head = ["method", *names, "mean NLL", "Δ", *scores, "passes", "predict s"]
    lines = []
    means_of = {
        point.name: _by_seed([tasks[name][point.name] for name in names]) for point in means
    }
    for point in sorted(means, key=lambda point: point.nll):
        each = [tasks[name][point.name] for name in names]
        cells = [
            _nll(rows, tasks[name].get(reference, {}), own=point.name == reference)
            for name, rows in zip(names, each, strict=True)
        ]
        row = [
            point.name + (" ★" if point.name in front else ""),
            *cells,
            f"{point.nll:.3f}",
            difference(means_of[point.name], means_of.get(reference, {}), "nll"),
            *(_mean(each, column) for column in scores),
            str(next(iter(each[0].values()))["passes"]),
            f"{point.cost:.1f}",
        ]
        lines.append(row)
    seeds = sorted(next(iter(tasks[names[0]].values())))
    legend = LEGEND.format(reference=reference, seeds=", ".join(map(str, seeds)))
    return legend + "\n\n" + table(head, lines)


def _nll(rows: Rows, base: Rows, *, own: bool) -> str:
    sign = "" if own else mark(rows, base)
    return f"{fmean(row['nll'] for row in rows.values()):.3f}{sign}"


def _by_seed(each: Sequence[Rows]) -> Rows:
    """Return the mean NLL over data sets by seed."""
    return {seed: {"nll": fmean(rows[seed]["nll"] for rows in each)} for seed in each[0]}


def _mean(each: Sequence[Rows], column: str) -> str:
    """Return the mean over data sets and seeds; empty for an uninformative score."""
    if any(is_blind(rows, column) for rows in each):
        return ""
    return f"{fmean(fmean(row[column] for row in rows.values()) for rows in each):.3f}"
