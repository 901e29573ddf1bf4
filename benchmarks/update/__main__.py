"""What do 512 more rows bring by `update`, beside a full fit to all of them, and nothing?

MiniLM is fitted to 128 rows, and its last layer then takes 512 more; the full fit has all 640. All
three predict the same rows.

    python -m benchmarks.update --data-dir DIR
"""

from __future__ import annotations

import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bayeslora import evaluate
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.experiments.rows import drawn
from bayeslora.io import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.pools import Pools, new_classifier, pools_of
from benchmarks.lib.results import Results
from benchmarks.lib.tables import shown, shown_over_sets, table

TASKS = ("ag_news_10k", "newsgroups", "sst2_sentences", "reuters_r8")
FIRST, ALL = 128, 640
SEEDS = (0, 1, 2)
KEY = ("task", "seed")
METHODS = ("nothing", "update", "full fit")
_MOST_SCORED = 1500


def main() -> None:
    """Compute the missing cells, then write the table."""
    args = study_parser(__doc__, "reports/update").parse_args()
    results = Results(args.out, KEY)
    backbone = load_backbone("minilm")
    for seed, task in product(SEEDS, TASKS):
        if results.get(task=task, seed=seed) is None:
            cell = scores(backbone, pools_of(task, args.data_dir), seed)
            results.append({"task": task, "seed": seed} | cell)
            backbone.prefix_states.clear()
            write_table(args.out)
    results.sort()
    write_table(args.out)


def scores(backbone: Backbone, pools: Pools, seed: int) -> dict[str, Any]:
    """Return NLL, accuracy, ECE and seconds of the three."""
    rows = drawn(pools.train, ALL, seed)
    order = np.random.default_rng(seed).permutation(len(rows))
    first, more = rows.take(order[:FIRST]), rows.take(order[FIRST:])
    known = {*first.labels}
    test = [row for row, label in enumerate(pools.score.labels) if label in known]
    test = sorted(np.random.default_rng(0).permutation(test)[:_MOST_SCORED].tolist())
    values: dict[str, Any] = {}

    def measure(name: str, clf: Any, start: float) -> None:
        values[f"{name} seconds"] = round(time.perf_counter() - start, 1)
        scored = evaluate(clf.predict(pools.score.take(test)), num_resamples=20)
        values.update({f"{name} {key}": scored[key].value for key in ("nll", "accuracy", "ece")})

    start = time.perf_counter()
    clf = new_classifier(backbone, seed, "polar", "vbll").fit(first)
    measure("nothing", clf, start)
    more = more.take([row for row, label in enumerate(more.labels) if label in known])
    start = time.perf_counter()
    clf.update(more)
    measure("update", clf, start)
    values |= {f"chosen {key}": value for key, value in clf.record.results["update"].items()}
    start = time.perf_counter()
    measure("full fit", new_classifier(backbone, seed, "polar", "vbll").fit(rows), start)
    return values


def write_table(out: Path) -> None:
    """Write `summary.md`: means over draws by set, and differences over all."""
    body, gaps = [], {name: [] for name in ("update − nothing", "full fit − update")}
    for task in TASKS:
        rows = Results(out, KEY).rows(task=task)
        if not rows:
            continue
        nll = {name: [row[f"{name} nll"] for row in rows] for name in METHODS}
        for gap, groups in gaps.items():
            more, less = gap.split(" − ")
            groups.append([a - b for a, b in zip(nll[more], nll[less], strict=True)])
        cells = [
            f"{np.mean(nll[name]):.3f} / {np.mean([row[f'{name} accuracy'] for row in rows]):.3f} "
            f"/ {np.mean([row[f'{name} ece'] for row in rows]):.3f}"
            for name in METHODS
        ]
        seconds = [f"{np.median([r[f'{name} seconds'] for r in rows]):.0f}" for name in METHODS[1:]]
        weights = ", ".join(
            "∞" if r["chosen strength"] is None else f"{r['chosen strength']:g}" for r in rows
        )
        body.append(
            (
                task,
                str(len(rows)),
                *cells,
                *(shown(g[-1]) for g in gaps.values()),
                weights,
                *seconds,
            )
        )
    heads = ("set", "draws", *METHODS, *(f"Δ NLL, {gap}" for gap in gaps), "κ")
    lines = [
        "# More rows by `update`",
        "",
        f"MiniLM, {FIRST} rows, then {ALL - FIRST} more: NLL (nats) / accuracy / ECE, means over "
        "draws; Δ ± a 95 % interval over draws. κ: weight of the old posterior that each draw "
        "chose. Made by `python -m benchmarks.update --data-dir DIR`.",
        "",
        table([*heads, "seconds of update", "of a full fit"], body),
        "",
        *(f"Δ NLL over sets, {gap}: {shown_over_sets(groups)}." for gap, groups in gaps.items()),
    ]
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / "summary.md") as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
