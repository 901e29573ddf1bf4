"""The joined results of the grids `multiple-choice*.yaml`, and their tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bayeslora.experiments.summary import SCORES, markdown_table, shown
from bayeslora.io import atomic_file

FILE = "cells.parquet"
REFERENCE = "PoLAR VBLL"
KEY = ("protocol", "task", "backbone", "method", "rows", "seed")
COST = "cost"
_DETECTORS = ("max_probability", "epistemic")
_HIGHER = frozenset({"accuracy"})
_HEAD = f"""\
# Multiple choice, first cells

Cells of `bayeslora experiment benchmarks/grids/NAME.yaml --data-dir DIR --out RUN` with the names
`multiple-choice-core` and `multiple-choice-more`, joined by `python -m benchmarks.multiple_choice
--add RUN …`. SmolLM2-135M, 640 training questions drawn per seed, protocol `label-budget`: nothing
is held out beyond what a method holds out of its own questions (*LoRA temperature* and *TFB*: a
fifth), ECE with 15 bins. OpenBookQA has 500 test questions with 4 options; ARC-Easy 2,376 with 3 to
5 (4 on average).

*{REFERENCE}* is what `fit` returns by default: the average of the networks that `cv` trains. Fits
ran beside other work, on two kinds of processors (*BLoB* and *Laplace-LoRA*, seed 0, on another
than their other seeds), so seconds are too long and not comparable.

Means over seeds, ± half of a 95 % t interval (none for a single seed). Differences are paired by
seed, method minus *{REFERENCE}*; a number in brackets counts the pairs if there are fewer than the
method has seeds. NLL in nats.
"""

Cells = dict[str, dict[int, dict[tuple[str, str, str | None], float]]]
"""Values by method and seed, then by set, score and uncertainty."""


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of all tables; a cell of a later one replaces that of an earlier one."""
    by_cell: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for table in tables:
        cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in table.to_pylist():
            cells.setdefault(tuple(row[key] for key in KEY), []).append(row)
        by_cell |= cells
    ordered = sorted(by_cell, key=lambda cell: (cell[1] != "openbookqa", *map(str, cell)))
    together = [row for cell in ordered for row in by_cell[cell]]
    return pa.Table.from_pylist(together, schema=tables[0].schema)


def write_summary(folder: Path) -> None:
    """Write the tables of the stored cells."""
    tasks: dict[str, Cells] = {}
    for row in pq.read_table(folder / FILE).to_pylist():
        where = "reported" if row["set"] == row["split"] else row["set"]
        cells = tasks.setdefault(row["task"], {})
        cell = cells.setdefault(row["method"], {}).setdefault(row["seed"], {})
        cell[where, row["score"], row["by"]] = row["value"]
    parts = [_HEAD]
    for task, cells in tasks.items():
        parts += [f"## {task}", _scores(cells), _differences(cells), _shifts(cells)]
    parts += ["## Cost", _cost(tasks)]
    with atomic_file(folder / "summary.md") as temporary:
        temporary.write_text(
            "\n\n".join(part.strip() for part in parts if part) + "\n", encoding="utf-8"
        )


def _values(cells: Cells, method: str, key: tuple[str, str, str | None]) -> dict[int, float]:
    """Return the values of a method by seed."""
    seeds = cells.get(method, {})
    return {seed: seeds[seed][key] for seed in sorted(seeds) if key in seeds[seed]}


def _scores(cells: Cells) -> str:
    head = ["method", *(f"{score} {'↑' if score in _HIGHER else '↓'}" for score in SCORES), "seeds"]
    lines = []
    for method in cells:
        values = [_values(cells, method, ("reported", score, None)) for score in SCORES]
        lines.append([method, *(shown([*each.values()]) for each in values), _span(cells[method])])
    return markdown_table(head, lines)


def _differences(cells: Cells) -> str:
    lines = []
    for method in cells:
        line = []
        for score in SCORES:
            key = ("reported", score, None)
            own, other = _values(cells, method, key), _values(cells, REFERENCE, key)
            seeds = own.keys() & other.keys()
            count = f" ({len(seeds)})" if 0 < len(seeds) < len(own) else ""
            line.append(shown([own[s] - other[s] for s in sorted(seeds)], sign=True) + count)
        if method != REFERENCE and any(line):
            lines.append([method, *line])
    if not lines:
        return ""
    head = ["method", *(f"{score} {'↑' if score in _HIGHER else '↓'}" for score in SCORES)]
    return f"Difference from *{REFERENCE}*:\n\n" + markdown_table(head, lines)


def _shifts(cells: Cells) -> str:
    """Return detection and scores of the out-of-distribution sets; empty if there are none."""
    sets = sorted({key[0] for cell in _cells(cells) for key in cell} - {"reported", COST})
    blocks = []
    for name in sets:
        keys: list[tuple[str, str, str | None]] = [
            *((name, "auroc", by) for by in _DETECTORS),
            *((name, score, None) for score in ("accuracy", "nll", "ece")),
        ]
        lines = [
            [method, *(shown([*_values(cells, method, key).values()]) for key in keys)]
            for method in cells
        ]
        head = ["method", "AUROC, max probability", "AUROC, epistemic"]
        head += ["accuracy ↑", "nll ↓", "ece ↓"]
        blocks.append(f"Shift to {name}:\n\n" + markdown_table(head, lines))
    return "\n\n".join(blocks)


def _cost(tasks: dict[str, Cells]) -> str:
    head = ["task", "method", "fit, s", "1,000 predictions, s", "passes", "peak memory, GB"]
    lines = []
    for task, cells in tasks.items():
        for method in cells:
            fit, predict, passes, memory = (
                fmean(_values(cells, method, (COST, key, None)).values())
                for key in (
                    *("seconds_fit", "seconds_predict_per_1000"),
                    *("passes", "peak_memory_bytes"),
                )
            )
            numbers = [f"{fit:.0f}", f"{predict:.0f}", f"{passes:.0f}", f"{memory / 1e9:.2f}"]
            lines.append([task, method, *numbers])
    return markdown_table(head, lines)


def _cells(cells: Cells) -> Iterable[dict[tuple[str, str, str | None], float]]:
    return (cell for seeds in cells.values() for cell in seeds.values())


def _span(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))
