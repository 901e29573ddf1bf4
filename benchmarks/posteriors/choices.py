"""Tables of the choices by validation rows in `posteriors`: rates, widths, epochs, priors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.lib.results import Results
from benchmarks.lib.tables import Rows, table

TITLE = (
    "## What was chosen\n\n"
    "Learning rate of each kind of training, the lower ↓ or upper ↑ of the two that were tried; "
    "`map`, `tfb`, `mc_dropout` and `ensemble` train as `mle` does. Then the width of posteriors "
    "over adapter weights, where the second of the two was the better."
)
PRIORS = (
    "What last layers chose by themselves, by seed. A prior precision of 10,000 is the largest "
    "that is tried: no uncertainty is left, and the method answers as `map` does (`laplace_lora` "
    "as `mle`)."
)
EPOCHS = (
    "Fits whose chosen epoch is the last: more epochs might have been better for them (without "
    "`swag`, which always takes the last)."
)
KEY = ("kind", "task", "adapter", "fit", "seed")
"""Key of fits, and of the learning rates and widths chosen for them."""
FIXED_PRIOR = {"map", "nuts"}
CHOSEN = ("temperature", "prior_precision", "prior_scale", "polish_mean", "shrinkage", "inflation")


def choice_tables(out: Path, tasks: Mapping[str, Mapping[str, Rows]], epochs: int) -> list[str]:
    """Return title and tables; empty if no rates are stored.

    Args:
        out: Directory of the stored choices of rates and widths.
        tasks: Rows by data set and method.
        epochs: Maximum epochs of a fit.
    """
    rates = _rates(out)
    if not rates:
        return []
    parts = [TITLE, _table("training", sorted(tasks), rates)]
    if last := _last_epochs(tasks, epochs):
        parts += [EPOCHS, _table("adapter", sorted(tasks), last)]
    if priors := _priors(tasks):
        parts += [PRIORS, _table("method", sorted(tasks), priors)]
    return parts


def _table(first: str, columns: list[str], by_name: Mapping[str, Mapping[str, str]]) -> str:
    rows = [[name, *(row.get(key, "") for key in columns)] for name, row in by_name.items()]
    return table([first, *columns], rows)


def _rates(out: Path) -> dict[str, dict[str, str]]:
    """Return the chosen rate and width by training and data set."""
    chosen: dict[str, dict[str, str]] = defaultdict(dict)
    results = Results(out, KEY)
    for row in results.rows(kind="rate"):
        lowest = row["lr"] == min(rate for rate, _ in row["validation_nll"])
        chosen[_name(row)][row["task"]] = f"{row['lr']:g} {'↓' if lowest else '↑'}"
    for row in results.rows(kind="width"):
        _, _, wider = row["posterior"].partition(":")
        cells = [chosen[_name(row)].get(row["task"], ""), wider]
        chosen[_name(row)][row["task"]] = ", ".join(cell for cell in cells if cell)
    return {name: row for name, row in sorted(chosen.items()) if any(row.values())}


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['adapter']} {row['fit']}"


def _last_epochs(tasks: Mapping[str, Mapping[str, Rows]], epochs: int) -> dict[str, dict[str, str]]:
    counts: dict[str, dict[str, str]] = defaultdict(dict)
    for task, methods in tasks.items():
        chosen: dict[str, list[int]] = defaultdict(list)
        for name, rows in methods.items():
            adapter, _, posterior = name.partition(" ")
            best_epochs = [row.get("epoch") for row in rows.values() if posterior != "swag"]
            chosen[adapter] += [epoch for epoch in best_epochs if epoch]
        for adapter, each in sorted(chosen.items()):
            if each:
                counts[adapter][task] = f"{sum(epoch == epochs for epoch in each)} of {len(each)}"
    return counts


def _priors(tasks: Mapping[str, Mapping[str, Rows]]) -> dict[str, dict[str, str]]:
    priors: dict[str, dict[str, str]] = defaultdict(dict)
    for task, methods in tasks.items():
        for name, rows in methods.items():
            if name.split()[1].partition(":")[0] in FIXED_PRIOR:
                continue
            chosen = [row.get("chosen", {}) for _, row in sorted(rows.items())]
            for key in _keys(chosen[0]):
                cells = [_short(row[key]) for row in chosen if key in row]
                priors[f"{name}: {key}"][task] = ", ".join(cells)
    return dict(sorted(priors.items()))


def _keys(chosen: Mapping[str, Any]) -> list[str]:
    # A prior scale is equivalent to the precision and shown only without it.
    keys = [key for key in CHOSEN if key in chosen]
    return [key for key in keys if key != "prior_scale" or "prior_precision" not in keys]


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
