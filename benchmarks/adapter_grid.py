"""What does the adapter change in calibration? Six of them, each with three last layers.

The same rows, seeds and epochs for all; epoch, learning rate (the better of two for each kind of
training, with the first seed) and the posterior's own number are chosen by validation NLL. Laplace
is fitted around the point estimate, so two fits serve three last layers. Everything is stored as it
comes; the same command goes on where it was interrupted.

    python benchmarks/adapter_grid.py --data-dir DIR
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from posteriors import (
    EPOCHS,
    MAX_LENGTH,
    NUM_OOD,
    NUM_TEST,
    Cell,
    calibrate,
    nll_of,
    scored,
    timed,
    warmed,
)
from summarise import interval
from task_rows import load_experiment

import bayeslora as bl
from bayeslora.adapters.config import ADAPTERS
from bayeslora.backbones.load import load_backbone
from bayeslora.files import atomic_file, read_json, write_json

TASKS = ("newsgroups", "sst2_sentences")

# Two rates for each, around the default; all adapters sit in the last six layers.
LEARNING_RATES = {
    "lora": (1e-3, 3e-3),
    "pissa": (3e-4, 1e-3),
    "corda": (3e-4, 1e-3),
    "s2ft": (1e-3, 3e-3),
    "lisa": (3e-5, 1e-4),
    "polar": (4e-3, 1e-2),
}
# Fits, and what is calibrated on each.
FITS: dict[str, tuple[str, ...]] = {"mle": ("laplace",), "vbll": ()}
REFERENCE = "lora"
SCORES = ("accuracy", "nll", "ece", "near max_probability", "far logit_variance")


def main() -> None:
    """Run what is not there yet, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("reports/adapter-grid"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--adapters", nargs="+", choices=LEARNING_RATES, default=[*LEARNING_RATES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_backbone("smollm2-135m", dtype="bfloat16")
    for seed, task in product(args.seeds, args.tasks):
        data = load_experiment(task, num_test=NUM_TEST, num_ood=NUM_OOD, data_dir=args.data_dir)
        cell = Cell(backbone, data, REFERENCE, seed, args.out)
        todo = [(replace(cell, adapter=name), fit) for name, fit in product(args.adapters, FITS)]
        for one, fit in warmed(todo):
            run(one, fit)
            write_summary(args.out)
        backbone.prefix_states.clear()


def run(cell: Cell, fit: str) -> None:
    """Fit, calibrate, score and store."""
    if cell.file(fit).is_file():
        return
    clf, seconds = at_best_rate(cell, fit)
    adapter = changes(clf)
    rows = [scored(cell, clf, fit, seconds)]
    for posterior in FITS[fit]:
        _, taken = timed(partial(calibrate, cell, clf, posterior))
        rows.append(scored(cell, clf, posterior, seconds + taken))
    content = {"task": cell.data.name, "adapter": cell.adapter, "seed": cell.seed, "fit": fit}
    write_json(cell.file(fit), {**content, "rows": [{**row, **adapter} for row in rows]})


def changes(clf: bl.BayesianClassifier) -> dict[str, float]:
    """Return mean stable rank and mean relative size of the changes, over changed layers."""
    layers = [layer for layer in clf.spectrum()[0] if layer.norm > 0]
    return {
        "stable_rank": fmean(layer.stable_rank for layer in layers),
        "relative_norm": fmean(layer.relative_norm for layer in layers),
    }


def at_best_rate(cell: Cell, fit: str) -> tuple[bl.BayesianClassifier, float]:
    """Return a fit at the learning rate of its kind, chosen once by validation NLL."""
    file = cell.out / "learning-rates" / cell.data.name / f"{cell.adapter}-{fit}.json"
    if file.is_file():
        return fitted(cell, fit, float(read_json(file)["lr"]))
    tried = {lr: fitted(cell, fit, lr) for lr in LEARNING_RATES[cell.adapter]}
    held = cell.data.validation
    found = {lr: nll_of(clf.predict(held)) for lr, (clf, _) in tried.items()}
    best = min(found, key=found.__getitem__)
    write_json(file, {"lr": best, "seed": cell.seed, "validation_nll": list(found.items())})
    return tried[best]


def fitted(cell: Cell, fit: str, lr: float) -> tuple[bl.BayesianClassifier, float]:
    """Return a classifier and the processor seconds that its fit took."""
    adapter = replace(ADAPTERS[cell.adapter](), lr=lr)
    clf = bl.BayesianClassifier(
        cell.backbone, adapter, fit, seed=cell.seed, max_length=MAX_LENGTH, progress=False
    )
    data = cell.data
    work = partial(clf.fit, data.train, data.validation, epochs=EPOCHS, patience=EPOCHS)
    with empty_cache():
        return clf, timed(work)[1]


@contextmanager
def empty_cache() -> Iterator[None]:
    """Let nothing be found in the cache: a context that was run before would cost no time."""
    before = os.environ.get("BAYESLORA_CACHE")
    with tempfile.TemporaryDirectory(prefix="bayeslora-benchmark-") as folder:
        os.environ["BAYESLORA_CACHE"] = folder
        try:
            yield
        finally:
            os.environ.pop("BAYESLORA_CACHE")
            if before is not None:
                os.environ["BAYESLORA_CACHE"] = before


def write_summary(out: Path) -> None:
    """Write a table a data set from the scores that are there."""
    tasks: dict[str, dict[tuple[str, str], dict[int, dict[str, Any]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for file in sorted((out / "scores").glob("*/*/*.json")):
        content = read_json(file)
        for row in content["rows"]:
            place = (row["method"], content["adapter"])
            tasks[content["task"]][place][content["seed"]] = row
    parts = [_preamble()]
    for task, methods in sorted(tasks.items()):
        parts += [f"## {task}", _table(methods)]
    with atomic_file(out / "summary.md") as aside:
        aside.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _preamble() -> str:
    return (
        "# Adapters and last layers\n\n"
        "SmolLM2-135M, every adapter at its default size in the last 6 of 30 layers, 640 training, "
        "320 validation and 500 test rows, 250 rows of each out-of-distribution set, at most "
        f"{MAX_LENGTH} tokens a text, at most {EPOCHS} epochs, bfloat16. Epoch, learning rate (the "
        "better of two, with the first seed) and the posterior's own number are chosen by "
        "validation NLL. Values are means over seeds ± half a 95 % t interval; Δ NLL and Δ ECE are "
        f"paired by seed, adapter − {REFERENCE} under the same last layer. Stable rank is "
        "‖ΔW‖²_F / ‖ΔW‖²₂ and relative size ‖ΔW‖_F / ‖W‖_F, means over changed layers. "
        "Seconds are processor time of a fit on one thread, without the pass of the frozen layers "
        "that serves all fits of an adapter, and with CorDA's pass over its context. LoRA and "
        "PoLAR have a rank of 8 on two layers, PiSSA and CorDA of 16 on more: differences from "
        "LoRA are of defaults, in size too. "
        "Made by `python benchmarks/adapter_grid.py --data-dir DIR`."
    )


def _table(methods: Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]]) -> str:
    present = [
        name for name in SCORES if any(name in row for m in methods.values() for row in m.values())
    ]
    head = ["last layer", "adapter", "seeds", *present, "Δ NLL", "Δ ECE"]
    head += ["stable rank", "relative size", "fit s"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (posterior, adapter), rows in sorted(methods.items()):
        values = list(rows.values())
        cells = [interval([row[name] for row in values]) for name in present]
        base = methods.get((posterior, REFERENCE), {})
        gaps = [_gap(rows, base, name) for name in ("nll", "ece")] if adapter != REFERENCE else []
        shape = [fmean(row[name] for row in values) for name in ("stable_rank", "relative_norm")]
        seconds = f"{fmean(row['fit_seconds'] for row in values):.0f}"
        row = [posterior, adapter, str(len(rows)), *cells, *(gaps or ["", ""])]
        row += [f"{shape[0]:.2f}", f"{shape[1]:.3f}", seconds]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _gap(
    rows: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]], name: str
) -> str:
    shared = sorted(rows.keys() & base.keys())
    return interval([rows[seed][name] - base[seed][name] for seed in shared]) if shared else ""


if __name__ == "__main__":
    main()
