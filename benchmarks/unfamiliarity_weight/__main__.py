"""How much should doubt about the class count beside the distance of the features?

`unfamiliarity` is log d + w log(1 − max p), with d the squared Mahalanobis distance: w = 0 is the
distance, a large w the highest probability. PoLAR-VBLL is fitted as by default but for `cv=0`, on
the development sets; each weight's AUROC follows from one prediction.

Rule, written when prototypes of the same sizes and seeds had been seen: the weight is the largest
of these whose mean far AUROC is within .005 of the best, so that near rows, which larger weights
serve better, gain what they can.

    python -m benchmarks.unfamiliarity_weight --data-dir DIR
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bayeslora import BayesianClassifier, Predictions
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.backbones.template import DEFAULT_FRAME
from bayeslora.files import atomic_file
from benchmarks.lib.detection import auroc
from benchmarks.lib.pools import TEXT_TOKENS, Pools, development, drawn, frame_tokens
from benchmarks.lib.results import Results
from benchmarks.lib.tables import table
from benchmarks.lib.task_rows import TASKS

WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0)
OTHERS = ("max_probability", "epistemic", "logit_variance")
RUNS = {"minilm": ((128, 640), (0, 1)), "smollm2-135m": ((128,), (0, 1))}
KEY = ("backbone", "task", "size", "seed")
_TAKEN, _SCORED = 0.25, 1000


def main() -> None:
    """Compute the missing scores, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("reports/unfamiliarity-weight"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pools = {task: development(task, args.data_dir) for task in TASKS}
    results = Results(args.out, KEY)
    for name, (sizes, seeds) in RUNS.items():
        backbone = load_backbone(name)
        for size, seed, task in product(sizes, seeds, TASKS):
            cell = {"backbone": name, "task": task, "size": size, "seed": seed}
            if results.get(**cell) is not None:
                continue
            values = areas(backbone, pools[task], size, seed)
            results.append(cell | values)
            print(name, task, size, seed, {key: round(area, 3) for key, area in values.items()})
            backbone.prefix_states.clear()
            write_table(args.out)
    results.sort()
    write_table(args.out)


def areas(backbone: Backbone, pools: Pools, size: int, seed: int) -> dict[str, float]:
    """Return the AUROC of each out-of-distribution set by each weight and each other score."""
    clf = BayesianClassifier(
        backbone,
        seed=seed,
        max_length=TEXT_TOKENS + frame_tokens(backbone, DEFAULT_FRAME),
        progress=False,
    ).fit(drawn(pools.train, size, seed), cv=0)
    inside = scores(clf.predict(drawn(pools.score, min(len(pools.score) - 1, _SCORED), 0)))
    outside = {
        name: scores(clf.predict(rows, unknown_labels="ood")) for name, rows in pools.ood.items()
    }
    return {
        f"{name} {score}": auroc(inside[score], values[score])
        for name, values in outside.items()
        for score in inside
    }


def scores(predictions: Predictions) -> dict[str, NDArray[np.float64]]:
    """Return the score [N] of each weight, and the other scores."""
    distance, doubt = (predictions.uncertainty(name) for name in ("mahalanobis", "max_probability"))
    doubt = np.log(np.maximum(doubt, 1e-12))
    values = {f"{weight:g}": np.log(distance) + weight * doubt for weight in WEIGHTS}
    values[f"{_TAKEN:g}"] = predictions.uncertainty("unfamiliarity")
    return values | {name: predictions.uncertainty(name) for name in OTHERS}


def write_table(out: Path) -> None:
    """Write `summary.md` with the far and near AUROC of every weight."""
    by_set: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in Results(out, KEY).rows():
        for kind in ("far", "near"):
            if f"{kind} 0" in row:
                key = (kind, f"{row['backbone']}, {row['size']} rows", row["task"])
                by_set.setdefault(key, []).append(row)
    names = [*(f"{weight:g}" for weight in WEIGHTS), *OTHERS]
    body = [
        (*key, *(f"{mean(row[f'{key[0]} {name}'] for row in rows):.3f}" for name in names))
        for key, rows in sorted(by_set.items())
    ]
    for kind in ("far", "near"):
        cells = [
            [mean(row[f"{kind} {name}"] for row in rows) for name in names]
            for (subset, *_), rows in by_set.items()
            if subset == kind
        ]
        if cells:
            body.append(
                (kind, "all", "", *(f"{mean(column):.3f}" for column in zip(*cells, strict=True)))
            )
    lines = [
        "# Distance and doubt",
        "AUROC of out-of-distribution rows against rows of the set by log d + w log(1 − max p), d "
        "the squared Mahalanobis distance of the features, and by other scores; PoLAR-VBLL, means "
        "over two seeds. Made by `python -m benchmarks.unfamiliarity_weight --data-dir DIR`.",
        table(("rows", "fit", "set", *(f"w = {name}" for name in names[:-3]), *OTHERS), body),
    ]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
