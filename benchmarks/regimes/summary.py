"""Tables of `regimes`: means over seeds with 95 % t intervals, and paired differences."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path

from bayeslora.io.files import atomic_file
from benchmarks.lib.results import Results
from benchmarks.lib.tables import difference, mark, shown

KEY = ("kind", "task", "family", "seed")
REFERENCE = "polar-vbll"
COLUMNS = (
    "accuracy",
    "nll",
    "ece",
    "near max_probability",
    "near epistemic",
    "near logit_variance",
    "far max_probability",
    "far epistemic",
    "far logit_variance",
)
REGIMES = {
    "fixed": "Fixed long budget: 15 epochs, nothing chosen",
    "tuned": "Tuned on validation",
    "none": "No validation rows: as `fit` does it, 15 epochs of PoLAR, 5 of LoRA",
}

NUM_SEEDS = 5
_MIXED = " (unfinished: seeds of two learning rates)"

Cells = dict[tuple[str, str, str], dict[int, dict[str, float]]]


def write_summary(out: Path) -> None:
    """Write `summary.md` from the stored scores."""
    cells = _read(out)
    tasks = sorted({task for task, _, _ in cells})
    parts = [_preamble(), "## In short", _legend()]
    parts += [_short(cells, tasks, regime) for regime in REGIMES]
    for regime, title in REGIMES.items():
        parts.append(f"## {title}")
        parts += [_table(cells, task, regime) for task in tasks]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def _read(out: Path) -> Cells:
    cells: Cells = defaultdict(dict)
    for content in Results(out, KEY).rows(kind="fit"):
        for row in content["rows"]:
            key = (content["task"], row["regime"], row["method"])
            cells[key][content["seed"]] = row
    return cells


def _preamble() -> str:
    return (
        "# Methods in three regimes\n\n"
        "SmolLM2-135M, adapters with r = 8 on the query and value projections of the last 6 of 30 "
        "layers, 640 training, 320 validation and 500 test rows, 250 rows of each "
        "out-of-distribution set, at most 32 tokens a text, bfloat16, MC dropout with 5 passes, "
        "ensembles of 3. `polar-vbll` is what `fit` ends in: its final fit keeps the trained means "
        "in the fixed budget and without validation rows, and validation rows choose between them "
        "and refitted ones; `refit` always fits means in closed form, and `as trained` is the "
        "head as training left it. Values are means over seeds ± half a "
        "95 % t interval; differences are paired by seed (method − polar-vbll). The rows are the "
        "same for every seed, so the intervals reflect training, not the choice of rows. "
        "AUROC is of out-of-distribution rows against test rows. Made by "
        "`python -m benchmarks.regimes --data-dir DIR`."
    )


def _legend() -> str:
    return (
        "Mean NLL / ECE. `<` marks an NLL below that of polar-vbll, `>` one above it, where the "
        "95 % interval of the paired difference over seeds leaves out zero. Nothing corrects for "
        "the number of comparisons: of twenty, one mark is to be expected where there is nothing. "
        "Δ is the mean NLL minus that of polar-vbll, paired by seed. Neighbouring seeds of an "
        "ensemble share two of three members, so its intervals are too narrow."
    )


def _short(cells: Cells, tasks: list[str], regime: str) -> str:
    methods = sorted({method for _, r, method in cells if r == regime})
    lines = [
        f"| {REGIMES[regime].split(':', maxsplit=1)[0]} | {' | '.join(tasks)} | mean NLL | Δ |",
        "|---" * (3 + len(tasks)) + "|",
    ]
    reference = _over_tasks([cells.get((task, regime, REFERENCE), {}) for task in tasks])
    for method in methods:
        values = [_nll_and_ece(cells, task, regime, method) for task in tasks]
        unfinished = "".join(_unfinished(cells.get((task, regime, method), {})) for task in tasks)
        means = _over_tasks([cells.get((task, regime, method), {}) for task in tasks])
        mean = f"{statistics.fmean(row['nll'] for row in means.values()):.3f}" if means else ""
        delta = "" if method == REFERENCE else difference(means, reference, "nll")
        cell = [f"{method}{unfinished and _MIXED}", *values, mean, delta]
        lines.append(f"| {' | '.join(cell)} |")
    return "\n".join(lines)


def _over_tasks(by_task: list[dict[int, dict[str, float]]]) -> dict[int, dict[str, float]]:
    """Return the mean NLL over data sets by seed, for the seeds of all data sets."""
    shared = sorted(set.intersection(*map(set, by_task))) if by_task else []
    return {
        seed: {"nll": statistics.fmean(rows[seed]["nll"] for rows in by_task)} for seed in shared
    }


def _unfinished(rows: dict[int, dict[str, float]]) -> str:
    """Return a note if the seeds have different learning rates, as after an unfinished change."""
    return _MIXED if len({row["lr"] for row in rows.values()}) > 1 else ""


def _nll_and_ece(cells: Cells, task: str, regime: str, method: str) -> str:
    rows = cells.get((task, regime, method), {})
    if not rows:
        return ""
    means = [statistics.fmean(row[name] for row in rows.values()) for name in ("nll", "ece")]
    reference = cells.get((task, regime, REFERENCE), {})
    sign = "" if method == REFERENCE else mark(rows, reference)
    fewer = "" if len(rows) == NUM_SEEDS else f" ({len(rows)} of {NUM_SEEDS} seeds)"
    return f"{means[0]:.3f}{sign} / {means[1]:.3f}{fewer}"


def _table(cells: Cells, task: str, regime: str) -> str:
    methods = sorted(method for t, r, method in cells if (t, r) == (task, regime))
    if not methods:
        return ""
    present = [
        column
        for column in COLUMNS
        if any(column in row for m in methods for row in cells[task, regime, m].values())
    ]
    head = ["method", "seeds", *present, "Δ NLL", "Δ ECE"]
    lines = [f"### {task}", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    reference = cells.get((task, regime, REFERENCE), {})
    for method in methods:
        rows = cells[task, regime, method]
        values = [shown([row[column] for row in rows.values()]) for column in present]
        deltas = [difference(rows, reference, column) for column in ("nll", "ece")]
        name = method + _unfinished(rows)
        lines.append("| " + " | ".join([name, str(len(rows)), *values, *deltas]) + " |")
    return "\n".join(lines)
