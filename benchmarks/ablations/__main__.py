"""What each part of PoLAR-VBLL contributes: one option changed at a time, the others at defaults.

Nothing is tuned for a variant: learning rates, epochs and patience are the defaults of `fit`.
Validation rows choose the epoch and, unless the variant says which, whether the final fit keeps the
trained means.

The variants answer published objections: how tight the bound is, what the covariance family and
the prior scale do, whether a Laplace refinement helps, and whether the
gain is the adapter's or the last layer's. What only concerns the final fit is calibrated on the
features of the default's fit. Everything is stored as it comes; the same command goes on where it
was interrupted.

    python -m benchmarks.ablations --data-dir DIR
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import bayeslora as bl
from bayeslora.backbones.load import load_backbone
from bayeslora.io.files import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.fits import (
    MAX_LENGTH,
    NUM_OOD,
    NUM_TEST,
    SCORES,
    Cell,
    calibrate,
    scored,
    timed,
    warmed,
)
from benchmarks.lib.results import Results
from benchmarks.lib.tables import difference, shown
from benchmarks.lib.task_rows import TASKS, WHOLE_AND_RAW, load_experiment

DEFAULT = "default"
KEY = ("task", "fit", "seed")

# Adapter and posterior of every fit.
FITS: dict[str, tuple[str, str]] = {
    DEFAULT: ("polar", "vbll"),
    "adapter lora": ("lora", "vbll"),
    "adapter lora, alpha 64": ("lora:alpha=64", "vbll"),
    "alpha 128": ("polar:alpha=128", "vbll"),
    "r 4": ("polar:r=4", "vbll"),
    "r 16": ("polar:r=16", "vbll"),
    "bound knowles_minka": ("polar", "vbll:bound=knowles_minka"),
    "bound mc": ("polar", "vbll:bound=mc"),
    "training prior scale 8": ("polar", "vbll:training_prior_scale=8"),
    "posterior mle": ("polar", "mle"),
}

# Final fits on the default's features.
POLISHES: dict[str, str] = {
    "polish bound jensen": "vbll:polish_bound=jensen",
    "covariance diagonal": "vbll:covariance=diagonal",
    "Laplace refinement": "vbll:laplace_refinement=true",
    "prior scale 0.5": "vbll:prior_scale=0.5",
    "prior scale 1": "vbll:prior_scale=1",
    "prior scale 2": "vbll:prior_scale=2",
    "prior scale 4": "vbll:prior_scale=4",
    "prior scale 8": "vbll:prior_scale=8",
    "means refit": "vbll:polish_mean=refit",
    "means trained": "vbll:polish_mean=trained",
    # Variants that take effect above only if validation rows choose to refit the means.
    "refit, bound jensen": "vbll:polish_mean=refit,polish_bound=jensen",
    "refit, Laplace refinement": "vbll:polish_mean=refit,laplace_refinement=true",
    "refit, bound jensen, Laplace refinement": (
        "vbll:polish_mean=refit,polish_bound=jensen,laplace_refinement=true"
    ),
    "refit, covariance diagonal": "vbll:polish_mean=refit,covariance=diagonal",
    "refit, prior scale 0.5": "vbll:polish_mean=refit,prior_scale=0.5",
    "refit, prior scale 1": "vbll:polish_mean=refit,prior_scale=1",
    "refit, prior scale 2": "vbll:polish_mean=refit,prior_scale=2",
    "refit, prior scale 4": "vbll:polish_mean=refit,prior_scale=4",
    "refit, prior scale 8": "vbll:polish_mean=refit,prior_scale=8",
    "last-layer Laplace": "laplace",
}
# Tolerance for the NLL of a repeated fit: the rounding of float64.
_SAME = 1e-6
COLUMNS = ("epoch", "validation_nll", *SCORES)


def main() -> None:
    """Run the missing fits, then write the table."""
    parser = study_parser(__doc__, "reports/ablations", threads=None)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS[:2]))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--fits", nargs="+", choices=list(FITS), default=list(FITS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_backbone("smollm2-135m", dtype="bfloat16")
    for seed, task in product(args.seeds, args.tasks):
        data = load_experiment(task, num_test=NUM_TEST, num_ood=NUM_OOD, data_dir=args.data_dir)
        cell = Cell(backbone, data, "variants", seed, args.out)
        for variant_cell, fit in warmed([(cell, fit) for fit in args.fits], is_done):
            run(variant_cell, fit)
            write_summary(args.out)
        backbone.prefix_states.clear()
    Results(args.out, KEY).sort()


def is_done(cell: Cell, fit: str) -> bool:
    """Whether a fit is stored, and for the default all its polishes too."""
    return stored(cell, fit) is not None and not (fit == DEFAULT and missing(cell))


def stored(cell: Cell, fit: str) -> dict[str, Any] | None:
    """Return the stored row of a fit, or None."""
    return Results(cell.out, KEY).get(task=cell.data.name, fit=fit, seed=cell.seed)


def missing(cell: Cell) -> dict[str, str]:
    """Return the polishes that are not stored yet."""
    known = stored(cell, DEFAULT) or {"rows": ()}
    methods = {row["method"] for row in known["rows"]}
    return {name: polish for name, polish in POLISHES.items() if name not in methods}


def run(cell: Cell, fit: str) -> None:
    """Fit and score a variant; for the default, score its polishes too.

    Missing polishes need the default's features, which are not stored, so the default is fitted
    again, with the same result.
    """
    if is_done(cell, fit):
        return
    results, known = Results(cell.out, KEY), stored(cell, fit)
    rows = known["rows"] if known else []
    left = missing(cell) if rows else POLISHES
    adapter, posterior = FITS[fit]
    clf = bl.BayesianClassifier(
        cell.backbone,
        adapter,
        posterior,
        seed=cell.seed,
        max_length=MAX_LENGTH,
        progress=False,
        **WHOLE_AND_RAW,
    )
    _, seconds = timed(partial(clf.fit, cell.data.train, cell.data.validation))
    row = {**scored(cell, clf, fit, seconds), "method": fit}
    if rows and abs(rows[0]["nll"] - row["nll"]) > _SAME:
        raise RuntimeError(
            f"this machine fits otherwise than the one before; delete the row of {fit!r} with seed "
            f"{cell.seed} from {results.path}"
        )
    rows = rows or [row]
    if fit == DEFAULT:
        rows += polished(cell, clf, left, rows[0])
    results.append({"task": cell.data.name, "seed": cell.seed, "fit": fit, "rows": rows})


def polished(
    cell: Cell, clf: bl.BayesianClassifier, polishes: dict[str, str], base: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the scores of final fits on the features of a classifier with the row `base`."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="bayeslora-benchmark-") as folder:
        clf.save_pretrained(Path(folder) / "fit")
        for name, polish in polishes.items():
            more = bl.BayesianClassifier.from_pretrained(
                Path(folder) / "fit", backbone=cell.backbone, progress=False
            )
            _, taken = timed(partial(calibrate, cell, more, polish))
            scores = scored(cell, more, name, base["fit_seconds"] + taken)
            rows.append({**scores, "epoch": base["epoch"]})
    return rows


def write_summary(out: Path) -> None:
    """Write one table per data set: means over seeds and paired differences from the default."""
    tasks: dict[str, dict[str, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for content in Results(out, KEY).rows():
        for row in content["rows"]:
            tasks[content["task"]][row["method"]][content["seed"]] = row
    parts = [
        "# Parts of PoLAR-VBLL, one changed at a time\n\n"
        "SmolLM2-135M, r = 8 on the query and value projections of the last 6 of 30 layers, 640 "
        f"training, 320 validation and {NUM_TEST} test rows, at most {MAX_LENGTH} tokens, "
        "bfloat16. No variant is tuned: learning rates and epochs (at most 15, of which five "
        "without a better validation NLL are the last) are the defaults of `fit`, and validation "
        "NLL chooses the epoch and, unless the variant says which, whether the means of the final "
        "fit are refitted or stay as trained (`refitted`: in how many fits). Where they stay, a "
        "learned prior scale is 0.5, and neither bound nor prior moves them. `gap`: nats a row "
        "that the bound is below the sampled log-likelihood. `calibration`: processor seconds of a "
        "final fit alone, with its validation scores, on features that are there. "
        "Means over seeds ± half a 95 % t interval; differences are paired by seed (variant − "
        "default). The rows are the same for every seed, so the intervals reflect training, not "
        "the choice of rows. Made by `python -m benchmarks.ablations --data-dir DIR`."
    ]
    for task, methods in sorted(tasks.items()):
        parts.append(f"## {task}\n\n" + "\n".join(_table(methods)))
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _table(methods: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    first = next(iter(next(iter(methods.values())).values()))
    present = [column for column in COLUMNS if column in first]
    head = ["variant", "seeds", "refitted", *present, "Δ NLL", "Δ ECE", "prior scale", "gap"]
    head += ["fit seconds", "calibration"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    base = methods.get(DEFAULT, {})
    for name in (*FITS, *POLISHES):
        rows = methods.get(name, {})
        if not rows:
            continue
        cells = [shown([row[column] for row in rows.values()]) for column in present]
        cells += [difference(rows, base, column) for column in ("nll", "ece")]
        chosen = [row["chosen"] for row in rows.values()]
        for key, digits in (("prior_scale", 2), ("bound_gap", 4)):
            numbers = [report[key] for report in chosen if key in report]
            cells.append(f"{fmean(numbers):.{digits}f}" if numbers else "")
        cells.append(f"{fmean(row['fit_seconds'] for row in rows.values()):.0f}")
        cells.append(_calibration_seconds(rows, base) if name in POLISHES else "")
        means = [report["polish_mean"] for report in chosen if "polish_mean" in report]
        refitted = f"{means.count('refit')} of {len(means)}" if means else ""
        lines.append("| " + " | ".join([name, str(len(rows)), refitted, *cells]) + " |")
    return lines


def _calibration_seconds(rows: dict[int, dict[str, Any]], base: dict[int, dict[str, Any]]) -> str:
    """Return the mean seconds of the final fits, without the training shared with the default."""
    taken = [row["fit_seconds"] - base[seed]["fit_seconds"] for seed, row in rows.items()]
    return f"{fmean(taken):.0f}"


if __name__ == "__main__":
    main()
