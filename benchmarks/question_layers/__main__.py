"""How many layers of a language model should adapt where it reads the options of a question?

Each option is read after the question by a decoder whose last N layers are adapted; all layers are
read, since the language model itself is asked. Fits are to 640 training questions, two epochs, and
judged on 400 further training questions: no test question is touched.

Rule, written when one fit each of 6 and 15 layers to ARC-Easy had been seen (one epoch, LoRA-MLE:
.495 / 1.147 and .643 / .936 in accuracy and NLL) and no other: where options are read one by one,
`num_layers="auto"` takes half of the layers if that has a lower mean NLL over the tasks than the 6
of other fits by more than .02 nats and is worse on none; it takes all if these are better than half
by the same rule. Half was taken when ARC-Easy alone was there with two epochs, where it is ahead by
.17 nats and 14 points of accuracy; what else was run by then is in the table, and the other tasks
may still revise it.

    python -m benchmarks.question_layers --data-dir DIR
"""

from __future__ import annotations

import time
from itertools import product
from pathlib import Path

import numpy as np

import bayeslora as bl
from bayeslora.io.files import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.results import Results
from benchmarks.lib.tables import table

TASKS = ("arc-easy", "openbookqa", "boolq")
LAYERS = (6, 15, 30)
METHODS = {"lora-mle": ("lora", "mle"), "polar-vbll": ("polar", "vbll")}
ROWS, JUDGED, EPOCHS = 640, 400, 2
KEY = ("task", "method", "layers", "seed")
SCORES = ("accuracy", "nll", "ece")


def main() -> None:
    """Run the missing fits, then write the table."""
    parser = study_parser(__doc__, "reports/question-layers")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    results = Results(args.out, KEY)
    cells = product(args.seeds, args.methods, args.tasks, args.layers)
    for seed, method, task, layers in cells:
        cell = {"task": task, "method": method, "layers": layers, "seed": seed}
        if results.get(**cell) is None:
            row = fitted(task, method, layers, seed, args.data_dir)
            results.append(cell | row)
            print(*cell.values(), {name: round(row[name], 3) for name in SCORES}, flush=True)
        write_table(args.out)
    results.sort()


def fitted(
    task: str, method: str, layers: int, seed: int, data_dir: Path | None
) -> dict[str, float]:
    """Return the scores of one fit on held-out questions."""
    rows = bl.load_task(task, "train", data_dir=data_dir)
    order = np.random.default_rng(seed).permutation(len(rows))
    train, judged = rows.take(order[:ROWS]), rows.take(order[ROWS : ROWS + JUDGED])
    adapter, posterior = METHODS[method]
    clf = bl.BayesianClassifier(
        "smollm2-135m", f"{adapter}:num_layers={layers}", posterior, seed=seed, progress=False
    )
    start = time.perf_counter()
    clf.fit(train, epochs=EPOCHS, cv=0)
    seconds = time.perf_counter() - start
    scores = bl.evaluate(clf.predict(judged), num_resamples=20)
    return {name: float(scores[name].value) for name in SCORES} | {"fit_seconds": seconds}


def write_table(out: Path) -> None:
    """Write `summary.md` from the stored rows."""
    rows = Results(out, KEY).rows()
    lines = []
    for method, layers in product(METHODS, LAYERS):
        by_task = {
            task: [row for row in rows if [row[c] for c in KEY[:3]] == [task, method, layers]]
            for task in TASKS
        }
        if not any(by_task.values()):
            continue
        means = [
            np.mean([[r[s] for s in SCORES] for r in own], 0) for own in by_task.values() if own
        ]
        cells = [
            " / ".join(f"{np.mean([r[s] for r in own]):.3f}" for s in SCORES) + f" ({len(own)})"
            if own
            else "not run"
            for own in by_task.values()
        ]
        whole = f"{np.mean(means, 0)[1]:.3f}" if len(means) == len(TASKS) else ""
        lines.append([method, str(layers), *cells, whole])
    text = (
        "# Adapted layers where options are read one by one\n\n"
        f"SmolLM2-135M (30 layers), {ROWS} questions, {EPOCHS} epochs; accuracy / NLL / ECE "
        f"(seeds) on {JUDGED} further training questions.\n\n"
        + table(["method", "layers", *TASKS, "mean NLL"], lines)
        + "\n\nCommand: `python -m benchmarks.question_layers --data-dir DIR`.\n"
    )
    with atomic_file(out / "summary.md") as path:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
