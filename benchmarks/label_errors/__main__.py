"""Does `labels` find flipped labels, by predictions that `fit` keeps of held-out rows?

A share of the labels of 1,000 rows is replaced by another class, drawn evenly. A last layer on
frozen features (`fit --quick`) is fitted with five folds, and `find_label_errors` ranks the rows by
their held-out predictions, as `cleanlab` does for the same probabilities. The sets have wrong
labels of their own, which count against both.

    python -m benchmarks.label_errors --data-dir DIR
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora import Predictions, find_label_errors
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.data.examples import Examples, class_names, encode_labels
from bayeslora.experiments.rows import drawn
from bayeslora.io import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.pools import new_classifier, pools_of
from benchmarks.lib.results import Results
from benchmarks.lib.tables import shown, table

TASKS = ("ag_news_10k", "tweets", "newsgroups")
NUM_ROWS, SHARE, FIRST = 1000, 0.05, 50
SEEDS = (0, 1, 2)
KEY = ("task", "seed")


def main() -> None:
    """Compute the missing cells, then write the table."""
    args = study_parser(__doc__, "reports/label-errors").parse_args()
    results = Results(args.out, KEY)
    backbone = load_backbone("minilm")
    for seed, task in product(SEEDS, TASKS):
        if results.get(task=task, seed=seed) is None:
            rows = drawn(pools_of(task, args.data_dir).train, NUM_ROWS, seed)
            results.append({"task": task, "seed": seed} | scores(backbone, rows, seed))
            backbone.prefix_states.clear()
            write_table(args.out)
    results.sort()
    write_table(args.out)


def flipped(rows: Examples, seed: int) -> tuple[Examples, NDArray[np.bool_]]:
    """Return the rows with some labels replaced by other classes, and which were."""
    classes, chance = class_names(rows), np.random.default_rng(seed)
    codes = encode_labels(rows, classes)
    wrong = np.zeros(len(rows), dtype=np.bool_)
    wrong[chance.choice(len(rows), round(SHARE * len(rows)), replace=False)] = True
    shifts = chance.integers(1, len(classes), size=len(rows))
    labels = [classes[code] for code in np.where(wrong, (codes + shifts) % len(classes), codes)]
    return replace(rows, labels=tuple(labels)), wrong


def scores(backbone: Backbone, rows: Examples, seed: int) -> dict[str, Any]:
    """Return what our ranking and that of cleanlab find among rows with flipped labels."""
    noisy, wrong = flipped(rows, seed)
    clf = new_classifier(backbone, seed, "none").fit(noisy, cv=5)
    predictions = clf.held_out
    place = {name: row for row, name in enumerate(rows.ids)}
    flips = wrong[[place[name] for name in predictions.ids]]
    errors = find_label_errors(predictions)
    by_method = {"ours": (errors.rows, errors.estimate), "cleanlab": by_cleanlab(predictions)}
    values = {
        f"{name} {key}": value
        for name, (order, estimate) in by_method.items()
        for key, value in {
            "precision": float(flips[order[:FIRST]].mean()),
            "recall": float(flips[order].sum() / flips.sum()),
            "suspected": len(order),
            "estimate": int(estimate),
        }.items()
    }
    shared = len({*errors.rows.tolist()} & {*by_method["cleanlab"][0].tolist()})
    right = predictions.prediction == predictions.labels
    return {
        "rows": len(predictions),
        "flipped": int(flips.sum()),
        "accuracy": float(right[~flips].mean()),
        "shared": shared,
        **values,
    }


def by_cleanlab(predictions: Predictions) -> tuple[NDArray[np.int64], int]:
    """Return the rows that cleanlab suspects, in order, and its estimate of their number."""
    from cleanlab.count import num_label_issues  # noqa: PLC0415 - of the extra `dev`
    from cleanlab.filter import find_label_issues  # noqa: PLC0415

    labels, probs = predictions.labels, predictions.probs
    order = find_label_issues(labels, probs, return_indices_ranked_by="self_confidence", n_jobs=1)
    return order, num_label_issues(labels, probs, estimation_method="off_diagonal_calibrated")


def write_table(out: Path) -> None:
    """Write `summary.md`: means over seeds by set."""
    body = []
    for task in TASKS:
        rows = Results(out, KEY).rows(task=task)
        if not rows:
            continue
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        counts = (columns["flipped"], columns["ours suspected"], columns["ours estimate"])
        cells = [shown(columns[f"{name} precision"], 2) for name in ("ours", "cleanlab")]
        cells += [shown(columns[f"{name} recall"], 2) for name in ("ours", "cleanlab")]
        cells += [shown(values, 0) for values in (*counts, columns["cleanlab estimate"])]
        body.append((task, str(len(rows)), shown(columns["accuracy"], 2), *cells))
    heads = (
        "set",
        "draws",
        "accuracy",
        f"precision at {FIRST}",
        "cleanlab",
        "recall of all",
        "cleanlab",
    )
    lines = [
        "# Flipped labels",
        f"{100 * SHARE:.0f} % of the labels of {NUM_ROWS:,} rows are flipped. Rows are ranked by "
        "predictions of held-out rows (MiniLM, 32 tokens, frozen features, five folds); cleanlab "
        "has the same probabilities. Accuracy is that of held-out rows whose label was not "
        "flipped. Mean ± 95 % interval over the draws.",
        table((*heads, "flipped", "suspected", "estimate", "cleanlab"), body),
        "Made by `python -m benchmarks.label_errors --data-dir DIR`.",
    ]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
