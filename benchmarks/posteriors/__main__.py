"""Every posterior on LoRA and PoLAR: the same rows, seeds and epochs, tuned on validation rows.

A fit serves all posteriors that leave its adapter alone: they are calibrated on it, with the time
of the fit added to their own. Each kind of training takes the better of two learning rates, by
validation NLL with the first seed; fits that train their adapter alike share the choice. Posteriors
over adapter weights then take the better of two widths in the same way. On the features of such
fits, distances to the training rows are tried as out-of-distribution scores, and approximations are
measured against chains with the same prior. Everything is stored as it comes; the same command goes
on where it was interrupted.

    python -m benchmarks.posteriors --data-dir DIR

Seconds are processor time of one thread, which other processes disturb less than time by the clock.
Those of a prediction have the frozen layers in them; those of a fit have not, as one pass serves
all fits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import torch

import bayeslora as bl
from bayeslora.adapters.registry import ADAPTERS
from bayeslora.backbones.load import load_backbone
from bayeslora.predictions.record import Predictions
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.detection import distance_detections
from benchmarks.lib.fits import (
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
from benchmarks.lib.results import Results
from benchmarks.lib.task_rows import TASKS, WHOLE_AND_RAW, load_experiment
from benchmarks.posteriors.choices import KEY
from benchmarks.posteriors.distances import APPROXIMATIONS, EXACT, Answer, distance_rows
from benchmarks.posteriors.summary import write_summary

Choice = TypeVar("Choice")
LEARNING_RATES = {"lora": (1e-3, 3e-3), "polar": (4e-3, 1e-2)}

# Fits, and the posteriors that are calibrated on each.
FITS: dict[str, tuple[str, ...]] = {
    "mle": ("temperature", "gvbll", "laplace_lora"),
    "map": (
        "laplace",
        "laplace:prior_precision=marglik",
        "laplace:structure=full",
        "laplace:structure=diag",
        EXACT,
    ),
    "vbll": (
        "vbll:covariance=diagonal",
        "vbll:polish_bound=jensen",
        "vbll:laplace_refinement=true",
    ),
    "swag": (),
    "tfb": (),
    "blob": (),
    "ivon": (),
    "scalabl": (),
    "clora": (),
    "mc_dropout": (),
    "ensemble": (),
}
LORA_ONLY = {"scalabl", "mc_dropout"}
TRAINED_AS = {"map": "mle", "tfb": "mle", "mc_dropout": "mle", "ensemble": "mle"}
"""Fits whose adapter also trains on plain cross-entropy, with the same learning rate."""
WIDER = {
    "swag": "swag:scale=2",
    "tfb": "tfb:tolerance=0.03",
    "blob": "blob:initial_std=0.01",
    "ivon": "ivon:ess=1e6",
    "scalabl": "scalabl:initial_std=0.2",
    "clora": "clora:initial_std=0.2",
    "mc_dropout": "mc_dropout:p=0.2",
}
"""Alternatives with another width, for posteriors that do not choose it by validation rows."""


def main() -> None:
    """Run the missing fits, then write tables and figures."""
    parser = study_parser(__doc__, "reports/posteriors", threads=None)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--fits", nargs="+", choices=list(FITS), default=list(FITS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_backbone("smollm2-135m", dtype="bfloat16")
    for seed, task in product(args.seeds, args.tasks):
        data = load_experiment(task, num_test=NUM_TEST, num_ood=NUM_OOD, data_dir=args.data_dir)
        cell = Cell(backbone, data, next(iter(LEARNING_RATES)), seed, args.out)
        todo = [
            (replace(cell, adapter=adapter), fit)
            for adapter, fit in product(LEARNING_RATES, args.fits)
            if adapter == "lora" or fit not in LORA_ONLY
        ]
        for adapter_cell, fit in warmed(todo, is_stored):
            run(adapter_cell, fit)
            write_summary(args.out)
        backbone.prefix_states.clear()
    Results(args.out, KEY).sort()


def is_stored(cell: Cell, fit: str) -> bool:
    """Whether a fit and the posteriors calibrated on it are stored."""
    stored = Results(cell.out, KEY).get(kind="fit", **place_of(cell, fit), seed=cell.seed)
    return stored is not None


def place_of(cell: Cell, fit: str) -> dict[str, str]:
    """Return the columns shared by the rows of a fit and of its choices."""
    return {"task": cell.data.name, "adapter": cell.adapter, "fit": fit}


def run(cell: Cell, fit: str) -> None:
    """Fit, calibrate, score and store a fit."""
    if is_stored(cell, fit):
        return
    clf, seconds = at_best(cell, fit)
    rows = [scored(cell, clf, fit, seconds)]
    content = {"kind": "fit", **place_of(cell, fit), "seed": cell.seed}
    with tempfile.TemporaryDirectory(prefix="bayeslora-benchmark-") as folder:
        clf.save_pretrained(Path(folder) / "fit")
        # Each calibration starts from the trained mean, independent of earlier ones.
        load = partial(
            bl.BayesianClassifier.from_pretrained,
            Path(folder) / "fit",
            backbone=cell.backbone,
            progress=False,
        )
        for posterior in FITS[fit]:
            more = load()
            _, taken = timed(partial(calibrate, cell, more, posterior))
            rows.append(scored(cell, more, posterior, seconds + taken))
        if FITS[fit]:
            rows[0] |= distance_detections(cell.data, load)
        if fit in APPROXIMATIONS:
            known = stored_answer(cell, rows, EXACT)
            content["distances"] = distance_rows(cell.data, fit, load, known)
    Results(cell.out, KEY).append({**content, "rows": rows})


def stored_answer(cell: Cell, rows: Sequence[dict[str, Any]], method: str) -> Answer | None:
    """Return the choices and test predictions of a method among the rows, or None."""
    for row in rows:
        if row["method"] == method:
            return row["chosen"], Predictions.load(cell.predictions_path(method) / "test.parquet")
    return None


def at_best(cell: Cell, fit: str) -> tuple[bl.BayesianClassifier, float]:
    """Return a fit at the learning rate and width chosen once by validation NLL."""
    if fit not in WIDER:
        return at_best_rate(cell, fit, fit)
    results, place = Results(cell.out, KEY), {"kind": "width", **place_of(cell, fit)}
    if chosen := results.get(**place):
        return at_best_rate(cell, fit, str(chosen["posterior"]))
    tried = {recipe: at_best_rate(cell, fit, recipe) for recipe in (fit, WIDER[fit])}
    best, losses = lowest_nll(cell, tried)
    results.append({**place, "seed": cell.seed, "posterior": best, "validation_nll": losses})
    return tried[best]


def at_best_rate(cell: Cell, fit: str, recipe: str) -> tuple[bl.BayesianClassifier, float]:
    """Return a fit of a recipe at the learning rate of its kind, chosen with default options."""
    kind = TRAINED_AS.get(fit, fit)
    results, place = Results(cell.out, KEY), {"kind": "rate", **place_of(cell, kind)}
    if chosen := results.get(**place):
        return fitted(cell, recipe, float(chosen["lr"]))
    tried = {lr: fitted(cell, kind, lr) for lr in LEARNING_RATES[cell.adapter]}
    best, losses = lowest_nll(cell, tried)
    results.append({**place, "seed": cell.seed, "lr": best, "validation_nll": losses})
    return tried[best] if kind == recipe else fitted(cell, recipe, best)


def lowest_nll(
    cell: Cell, tried: Mapping[Choice, tuple[bl.BayesianClassifier, float]]
) -> tuple[Choice, list[tuple[Choice, float]]]:
    """Return the choice with the lowest validation NLL, and the NLL of all choices."""
    validation = cell.data.validation
    losses = {choice: nll_of(clf.predict(validation)) for choice, (clf, _) in tried.items()}
    return min(losses, key=losses.__getitem__), list(losses.items())


def fitted(cell: Cell, fit: str, lr: float) -> tuple[bl.BayesianClassifier, float]:
    """Fit a classifier and return it with its processor seconds."""
    adapter = ADAPTERS[cell.adapter](lr=lr)
    # MC dropout sets its own dropout rate.
    if cell.adapter == "lora" and not fit.startswith("mc_dropout"):
        adapter = replace(adapter, dropout=0.1)
    clf = bl.BayesianClassifier(
        cell.backbone,
        adapter,
        fit,
        seed=cell.seed,
        max_length=MAX_LENGTH,
        progress=False,
        **WHOLE_AND_RAW,
    )
    data = cell.data
    _, seconds = timed(
        partial(clf.fit, data.train, data.validation, epochs=EPOCHS, patience=EPOCHS)
    )
    return clf, seconds


if __name__ == "__main__":
    main()
