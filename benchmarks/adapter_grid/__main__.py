"""What does the adapter change in calibration? Six of them, each with three last layers.

The same rows, seeds and epochs for all; epoch, learning rate (once for each kind of training) and
the posterior's own number are chosen by validation NLL. Laplace
is fitted around the point estimate, so two fits serve three last layers. A LISA whose layers are
drawn once is the control of drawing them anew. Everything is stored as it comes; the same command
goes on where it was interrupted. Several may run at once on data sets of their own (`--tasks`).

    python -m benchmarks.adapter_grid --data-dir DIR
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import product
from statistics import fmean
from typing import TypeAlias

import torch

import bayeslora as bl
from bayeslora.adapters.registry import ADAPTERS
from bayeslora.backbones.load import load_backbone
from bayeslora.options import resolve
from benchmarks.adapter_grid.summary import (
    FITS,
    FIXED,
    KEY,
    MOST_RATES,
    REFERENCE,
    best,
    write_summary,
)
from benchmarks.lib.arguments import study_parser
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
from benchmarks.lib.task_rows import WHOLE_AND_RAW, load_experiment

TASKS = ("newsgroups", "sst2_sentences")
RECIPES = {FIXED: "lisa:mode=fixed"}
"""Adapter specifications of the names that are not adapters with default options."""
# Two initial rates per adapter; all adapters are in the last six layers.
LEARNING_RATES = {
    "lora": (1e-3, 3e-3),
    "pissa": (3e-4, 1e-3),
    "corda": (3e-4, 1e-3),
    "s2ft": (1e-3, 3e-3),
    "lisa": (3e-5, 1e-4),
    FIXED: (3e-5, 1e-4),
    "polar": (4e-3, 1e-2),
}
RATE_SEED = 0

Fitted: TypeAlias = tuple[bl.BayesianClassifier, float]
"""A classifier and the processor seconds that its fit took."""


def main() -> None:
    """Run the missing fits, then write the tables."""
    parser = study_parser(__doc__, "reports/adapter-grid", threads=None)
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
        for adapter_cell, fit in warmed(todo, is_stored):
            run(adapter_cell, fit)
            write_summary(args.out)
        backbone.prefix_states.clear()
    Results(args.out, KEY).sort()


def is_stored(cell: Cell, fit: str) -> bool:
    """Whether the scores of a fit at the chosen learning rate are stored."""
    stored = Results(cell.out, KEY).get(kind="fit", **place_of(cell, fit), seed=cell.seed)
    if stored is None:
        return False
    losses = rates_tried(cell, fit)
    return next_rate(cell.adapter, losses) is None and stored["lr"] == best(losses)


def place_of(cell: Cell, fit: str) -> dict[str, str]:
    """Return the columns shared by the rows of a fit and of its learning rates."""
    return {"task": cell.data.name, "adapter": cell.adapter, "fit": fit}


def run(cell: Cell, fit: str) -> None:
    """Choose the learning rate if necessary, then fit, calibrate, score and store."""
    tried: dict[float, Fitted] = {}
    lr = chosen_rate(cell, fit, tried)
    if is_stored(cell, fit):
        return
    clf, seconds = tried[lr] if lr in tried else fitted(cell, fit, lr)
    adapter = changes(clf)
    rows = [scored(cell, clf, fit, seconds)]
    for posterior in FITS[fit]:
        _, taken = timed(partial(calibrate, cell, clf, posterior))
        rows.append(scored(cell, clf, posterior, seconds + taken))
    row = {"kind": "fit", **place_of(cell, fit), "seed": cell.seed, "lr": lr}
    Results(cell.out, KEY).append({**row, "rows": [{**row, **adapter} for row in rows]})


def changes(clf: bl.BayesianClassifier) -> dict[str, float]:
    """Return the number of trained parameters, and stable rank and relative norm of the changes.

    The means are over changed layers.
    """
    layers = [layer for layer in clf.spectrum()[0] if layer.norm > 0]
    return {
        "num_trained": clf.record.results["adapter"]["num_parameters"],
        "stable_rank": fmean(layer.stable_rank for layer in layers),
        "relative_norm": fmean(layer.relative_norm for layer in layers),
    }


def chosen_rate(cell: Cell, fit: str, tried: dict[float, Fitted]) -> float:
    """Return the learning rate with the lowest validation NLL, and store its fits in `tried`.

    All seeds use the rate chosen with `RATE_SEED`; only fits with that seed are added to `tried`.
    """
    losses = rates_tried(cell, fit)
    while (lr := next_rate(cell.adapter, losses)) is not None:
        made = fitted(replace(cell, seed=RATE_SEED), fit, lr)
        losses[lr] = nll_of(made[0].predict(cell.data.validation))
        row = {"kind": "rate", **place_of(cell, fit), "seed": RATE_SEED, "lr": best(losses)}
        Results(cell.out, KEY).append({**row, "validation_nll": list(losses.items())})
        if cell.seed == RATE_SEED:
            tried[lr] = made
    return best(losses)


def next_rate(adapter: str, losses: Mapping[float, float]) -> float | None:
    """Return the next rate to try: the first two, then beyond the best end of the range.

    The ratio of neighbouring rates stays constant. Returns None if the best rate is inside the
    range, or after `MOST_RATES` rates.
    """
    low, high = LEARNING_RATES[adapter]
    for lr in (low, high):
        if lr not in losses:
            return lr
    tried = sorted(losses)
    if len(tried) >= MOST_RATES or tried[0] < best(losses) < tried[-1]:
        return None
    further = tried[-1] * high / low if best(losses) == tried[-1] else tried[0] * low / high
    return float(f"{further:.1e}")


def rates_tried(cell: Cell, fit: str) -> dict[float, float]:
    """Return the validation NLL of every tried learning rate."""
    row = Results(cell.out, KEY).get(kind="rate", **place_of(cell, fit))
    return dict(row["validation_nll"]) if row else {}


def fitted(cell: Cell, fit: str, lr: float) -> Fitted:
    """Return a classifier and the processor seconds that its fit took."""
    recipe = RECIPES.get(cell.adapter, cell.adapter)
    adapter = replace(resolve("adapter", recipe, ADAPTERS), lr=lr)
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
    work = partial(clf.fit, data.train, data.validation, epochs=EPOCHS, patience=EPOCHS)
    with empty_cache():
        return clf, timed(work)[1]


@contextmanager
def empty_cache() -> Iterator[None]:
    """Use an empty cache, since a cached pass over the context would cost no time."""
    before = os.environ.get("BAYESLORA_CACHE")
    with tempfile.TemporaryDirectory(prefix="bayeslora-benchmark-") as folder:
        os.environ["BAYESLORA_CACHE"] = folder
        try:
            yield
        finally:
            os.environ.pop("BAYESLORA_CACHE")
            if before is not None:
                os.environ["BAYESLORA_CACHE"] = before


if __name__ == "__main__":
    main()
