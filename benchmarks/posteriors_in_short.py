"""The table of `posteriors.py` over all data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from posteriors_more_tables import Rows
from posteriors_pareto import Point
from summarise import mark

LEGEND = (
    "Mean NLL over the seeds that all these methods have on all data sets ({seeds}). `<` marks one "
    "below that of {reference}, `>` one above it, where the 95 % interval of the paired difference "
    "over seeds leaves out zero; nothing corrects for the number of comparisons. A star marks the "
    "Pareto front of the means over data sets. Validation NLL is what choices were made by, and "
    "far AUROC that of logit variance, both the mean over data sets."
)


def short_table(
    tasks: Mapping[str, Mapping[str, Rows]],
    means: Sequence[Point],
    front: Sequence[str],
    reference: str,
) -> str:
    """Return legend and table, sorted by mean NLL.

    Args:
        tasks: Rows by data set and method, those of the same seeds.
        means: Means over data sets of the methods to show.
        front: Names of those on the Pareto front.
        reference: The method that others are compared with.
    """
    names = sorted(tasks)
    head = ["method", *names, "mean NLL", "validation NLL", "far AUROC", "passes", "predict s"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for point in sorted(means, key=lambda one: one.nll):
        each = [tasks[name][point.name] for name in names]
        cells = [
            _nll(rows, tasks[name].get(reference, {}), own=point.name == reference)
            for name, rows in zip(names, each, strict=True)
        ]
        row = [
            point.name + (" ★" if point.name in front else ""),
            *cells,
            f"{point.nll:.3f}",
            *(_mean(each, column) for column in ("validation_nll", "far logit_variance")),
            str(next(iter(each[0].values()))["passes"]),
            f"{point.cost:.1f}",
        ]
        lines.append("| " + " | ".join(row) + " |")
    seeds = sorted(next(iter(tasks[names[0]].values())))
    legend = LEGEND.format(reference=reference, seeds=", ".join(map(str, seeds)))
    return legend + "\n\n" + "\n".join(lines)


def _nll(rows: Rows, base: Rows, *, own: bool) -> str:
    sign = "" if own else mark(rows, base)
    return f"{fmean(row['nll'] for row in rows.values()):.3f}{sign}"


def _mean(each: Sequence[Rows], column: str) -> str:
    """Return the mean over data sets of the mean over seeds."""
    if any(column not in row for rows in each for row in rows.values()):
        return ""
    return f"{fmean(fmean(row[column] for row in rows.values()) for rows in each):.3f}"
