"""Which uncertainty should find unusual questions where options are read one by one?

Fits to 320 training questions are scored on 300 further training questions, and on as many from
elsewhere: training questions of the other set (*other set*), and further training questions with
the options of another question, none of which answers it (*other options*). No validation or test
question is touched.

Rule, written when the AUROC of epistemic uncertainty on the shift from OpenBookQA to MMLU was known
(.13 to .22; highest probability .81 to .84) and no cell of this study: predictions for options are
detected by their highest probability by default if the 95 % t interval of the paired differences of
its AUROC from that of epistemic uncertainty, over methods, sets, seeds and kinds of unusual
questions, lies above zero.

    python -m benchmarks.question_detection --data-dir DIR
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch

import bayeslora as bl
from bayeslora.files import atomic_file
from bayeslora.tasks.examples import Examples
from benchmarks.lib.detection import auroc
from benchmarks.lib.results import Results
from benchmarks.lib.tables import shown, table

TASKS = ("arc-easy", "openbookqa")
METHODS = {
    "polar-vbll": ("polar", "vbll"),
    "lora-vbll": ("lora", "vbll"),
    "lora-ensemble": ("lora", "ensemble:num_members=3"),
    "lora-laplace": ("lora", "laplace"),
}
KINDS = ("other set", "other options")
SCORES = ("max_probability", "epistemic", "logit_variance", "entropy")
ROWS, SCORED = 320, 300
KEY = ("task", "method", "seed")


def main() -> None:
    """Run the missing fits, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("reports/question-detection"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = Results(args.out, KEY)
    for seed, method, task in product(args.seeds, args.methods, TASKS):
        cell = {"task": task, "method": method, "seed": seed}
        if results.get(**cell) is None:
            row = areas(task, method, seed, args.data_dir)
            results.append(cell | row)
            print(*cell.values(), {name: round(row[name], 3) for name in row}, flush=True)
        write_table(args.out)
    results.sort()


def areas(task: str, method: str, seed: int, data_dir: Path | None) -> dict[str, float]:
    """Return accuracy and NLL of a fit, and the AUROC of each score by kind of questions."""
    train, inside, mixed = split(bl.load_task(task, "train", data_dir=data_dir), seed)
    elsewhere = next(name for name in TASKS if name != task)
    other, _, _ = split(bl.load_task(elsewhere, "train", data_dir=data_dir), seed)
    adapter, posterior = METHODS[method]
    clf = bl.BayesianClassifier("smollm2-135m", adapter, posterior, seed=seed, progress=False)
    clf.fit(train, cv=0)
    predicted = clf.predict(inside)
    unusual = {
        "other set": clf.predict(other.take(range(SCORED)), unknown_labels="ood"),
        "other options": clf.predict(with_other_options(mixed), unknown_labels="ood"),
    }
    scores = bl.evaluate(predicted, num_resamples=20)
    row = {name: float(scores[name].value) for name in ("accuracy", "nll")}
    for kind, score in product(KINDS, SCORES):
        if score in predicted.uncertainty_names:
            row[f"{kind} {score}"] = auroc(
                predicted.uncertainty(score), unusual[kind].uncertainty(score)
            )
    return row


def split(rows: Examples, seed: int) -> tuple[Examples, Examples, Examples]:
    """Return training questions with four options, and two lots of others to score."""
    four = [row for row, options in enumerate(rows.choices or ()) if len(options) == 4]
    order = np.random.default_rng(seed).permutation(four)
    ends = np.cumsum([ROWS, SCORED, SCORED])
    train, inside, mixed = np.split(order[: ends[-1]], ends[:-1])
    return rows.take(train), rows.take(inside), rows.take(mixed)


def with_other_options(questions: Examples) -> Examples:
    """Return questions with the options of the next one."""
    choices = questions.choices or ()
    return replace(questions, choices=(*choices[1:], choices[0]), labels=(None,) * len(questions))


def write_table(out: Path) -> None:
    """Write `summary.md` from the stored rows."""
    rows = Results(out, KEY).rows()
    lines = []
    for method, kind in product(METHODS, KINDS):
        own = [row for row in rows if row["method"] == method]
        values = [
            shown([row[f"{kind} {score}"] for row in own if f"{kind} {score}" in row])
            for score in SCORES
        ]
        lines.append([method, kind, *values, str(len(own))])
    gains = [
        row[f"{kind} max_probability"] - row[f"{kind} epistemic"]
        for row, kind in product(rows, KINDS)
        if f"{kind} epistemic" in row
    ]
    accuracy = ", ".join(
        f"{task} {shown([row['accuracy'] for row in rows if row['task'] == task])}"
        for task in TASKS
    )
    text = (
        "# Unusual questions\n\n"
        "AUROC by which each uncertainty separates unusual questions from others, mean ± half a "
        f"95 % interval over the fits; SmolLM2-135M, options read one by one, {ROWS} training "
        "questions of ARC-Easy or OpenBookQA. *Other set*: questions of the other of the two; "
        "*other options*: questions with the options of another question. Accuracy on "
        f"{SCORED} further training questions: {accuracy}.\n\n"
        + table(["method", "unusual", *SCORES, "fits"], lines)
        + f"\n\nHighest probability minus epistemic, paired: {shown(gains)} ({len(gains)} pairs).\n"
        "\nCommand: `python -m benchmarks.question_detection --data-dir DIR`.\n"
    )
    with atomic_file(out / "summary.md") as path:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
