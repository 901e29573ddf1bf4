"""Which distances should the default out-of-distribution score have, and how much doubt?

`unfamiliarity` is (1 − a) log d + a log m + w log(1 − max p): d is the squared Mahalanobis distance
of the features to the nearest class, m that of the mean states in the middle of the backbone.
PoLAR-VBLL is fitted as by default but for `cv=0`; each score's AUROC follows from one prediction.

Rule, written when the MiniLM cells had been seen and those of SmolLM2 had not: of the pairs (a, w)
whose near AUROC is at least that of the highest probability, on average over the development cells
that have near rows, the one with the highest mean far AUROC over the development cells, unless a
set of a backbone loses more than .02 to a = 0, w = .25, the score before. Sets that judge are shown
and choose nothing.

    python -m benchmarks.unfamiliarity_weight --data-dir DIR
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from statistics import fmean, mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora import Predictions
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.experiments.rows import drawn
from bayeslora.io import atomic_file
from bayeslora.metrics.ood import detection, sorted_by_uncertainty
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.pools import JUDGED, Pools, new_classifier, pools_of
from benchmarks.lib.results import Results
from benchmarks.lib.tables import table
from benchmarks.lib.task_rows import TASKS

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0)
BEFORE, TAKEN = "0 0.25", "0.25 0.25"
"""a and w of `unfamiliarity` before this study, and now."""
OTHERS = ("max_probability", "epistemic", "logit_variance")
RUNS = (("minilm", TASKS, (128, 640)), ("smollm2-135m", TASKS, (128,)), ("minilm", JUDGED, (128,)))
SEEDS = (0, 1)
KEY = ("backbone", "task", "size", "seed")
_SCORED = 1000


def main() -> None:
    """Compute the missing scores, then write the table."""
    args = study_parser(__doc__, "reports/unfamiliarity-weight").parse_args()
    results = Results(args.out, KEY)
    for name, tasks, sizes in RUNS:
        backbone = load_backbone(name)
        for size, task, seed in product(sizes, tasks, SEEDS):
            cell = {"backbone": name, "task": task, "size": size, "seed": seed}
            if results.get(**cell) is not None:
                continue
            values = areas(backbone, pools_of(task, args.data_dir), size, seed)
            results.append(cell | values)
            print(*cell.values(), {key: round(area, 3) for key, area in values.items()}, flush=True)
            backbone.prefix_states.clear()
            write_table(args.out)
    results.sort()
    write_table(args.out)


def areas(backbone: Backbone, pools: Pools, size: int, seed: int) -> dict[str, float]:
    """Return the AUROC of each out-of-distribution set by each weight and each other score."""
    clf = new_classifier(backbone, seed).fit(drawn(pools.train, size, seed), cv=0)
    inside = scores(clf.predict(drawn(pools.score, min(len(pools.score) - 1, _SCORED), 0)))
    outside = {
        name: scores(clf.predict(rows, unknown_labels="ood")) for name, rows in pools.ood.items()
    }
    return {
        f"{name} {score}": float(detection(sorted_by_uncertainty(inside[score], values[score]))[0])
        for name, values in outside.items()
        for score in inside
    }


def scores(predictions: Predictions) -> dict[str, NDArray[np.float64]]:
    """Return the score [N] of each share and weight, and the other scores."""
    features, middle = (
        np.log(predictions.scores[name]) for name in ("mahalanobis", "middle_mahalanobis")
    )
    doubt = np.log(np.maximum(predictions.uncertainty("max_probability"), 1e-12))
    values = {
        f"{share:g} {weight:g}": (1 - share) * features + share * middle + weight * doubt
        for share, weight in product(SHARES, WEIGHTS)
    }
    return values | {name: predictions.uncertainty(name) for name in OTHERS}


def write_table(out: Path) -> None:
    """Write `summary.md`: means of every pair, and the sets under the pairs before and now."""
    by_set: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in Results(out, KEY).rows():
        for kind in ("far", "near"):
            if f"{kind} {OTHERS[0]}" in row:
                key = (kind, f"{row['backbone']}, {row['size']} rows", row["task"])
                by_set.setdefault(key, []).append(row)

    def over_sets(kind: str, name: str) -> float:
        cells = [
            rows
            for (other, _, task), rows in by_set.items()
            if (other, task in TASKS) == (kind, True)
        ]
        return fmean(fmean(row[f"{kind} {name}"] for row in rows) for rows in cells)

    def both(name: str) -> str:
        return f"{over_sets('far', name):.3f}, {over_sets('near', name):.3f}"

    if not any(kind == "near" for kind, _, _ in by_set):
        return
    pairs = [
        (f"a = {share:g}", *(both(f"{share:g} {weight:g}") for weight in WEIGHTS))
        for share in SHARES
    ]
    columns = ("0 0", BEFORE, TAKEN, "1 0", *OTHERS)
    body = [
        (*key, *(f"{mean(row[f'{key[0]} {name}'] for row in rows):.3f}" for name in columns))
        for key, rows in sorted(by_set.items())
    ]
    heads = ("rows", "fit", "set", *(f"a, w = {name}" for name in columns[:4]), *OTHERS)
    lines = [
        "# Distances and doubt",
        "AUROC of out-of-distribution rows against rows of the set by (1 − a) log d + a log m + w "
        "log(1 − max p): d and m are the squared Mahalanobis distances of the features and of the "
        "states in the middle of the backbone. PoLAR-VBLL, means over two seeds.",
        "## Development sets: mean far AUROC, mean near AUROC",
        table(("", *(f"w = {weight:g}" for weight in WEIGHTS)), pairs),
        f"By the highest probability: {both('max_probability')}.",
        "## Sets",
        table(heads, body),
        "Made by `python -m benchmarks.unfamiliarity_weight --data-dir DIR`.",
    ]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
