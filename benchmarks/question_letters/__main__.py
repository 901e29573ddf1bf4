"""Do fits by letters work where a small model can learn them?

On the real sets SmolLM2-135M answers by letters at chance (`question_formats`), since it does not
bind a letter to its text. Two synthetic tasks teach just that, without data of others: which option
is a given word (`copy`), and which option belongs to a category (`category`). Four options, 320
training questions, 500 test questions whose words never occur in training, and 200 without a right
option; defaults of `fit`, and the untrained model. Nothing is chosen.

Written before the first run, but after one fit of LoRA to copy (accuracy .98, with other words):
 1. letters are learnt on a task if the accuracy of LoRA is above .25 with every seed, by the 95 %
    bootstrap interval over questions;
 2. PoLAR-VBLL against LoRA: NLL and ECE, paired by seed, whatever comes out.
The AUROC of the highest probability and of the epistemic uncertainty says whether a question
without a right option is noticed.

Changed when LoRA and one PoLAR-VBLL (with two folds of half of the questions, accuracy .288) had
been seen: PoLAR-VBLL has the folds of `fit`, PoLAR with a point estimate is there to tell its part
from that of the last layer, and both run on the task that LoRA learns by rule 1, which is copy.
With one seed PoLAR-VBLL's average of networks was at chance and sure (accuracy .252, NLL 1.918), so
`fit` now checks the average; the rows are of fits with that check, which changed this one only.

    python -m benchmarks.question_letters
"""

from __future__ import annotations

import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import bayeslora as bl
from bayeslora.io.files import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.detection import auroc
from benchmarks.lib.results import Results
from benchmarks.lib.tables import shown, table

WORDS = {
    "an animal": "dog horse rabbit tiger eagle monkey camel snake wolf whale sheep goose",
    "a fruit": "apple lemon cherry grape orange peach melon plum banana mango pear fig",
    "a vehicle": "car truck bicycle train boat tractor bus airplane van ship wagon tram",
    "a piece of clothing": "shirt jacket glove scarf dress coat sock skirt hat boot belt sweater",
    "a tool": "hammer saw drill shovel wrench chisel axe pliers screwdriver rake file spade",
    "an instrument": "piano violin guitar drum flute trumpet harp cello organ banjo oboe tuba",
    "a color": "red blue green yellow purple brown black white pink gray violet beige",
    "a part of the body": "knee elbow shoulder finger nose ear ankle chin thumb wrist toe neck",
}
"""Twelve words of each category; the last four are for tests."""
TASKS = ("copy", "category")
METHODS: dict[str, tuple[str, str] | None] = {
    "untrained": None,
    "LoRA": ("lora", "mle"),
    "PoLAR": ("polar", "mle"),
    "PoLAR-VBLL": ("polar", "vbll"),
}
LEARNT = ("copy",)
"""Tasks of the methods beside `untrained` and `LoRA`."""
TRAIN, TEST, UNANSWERABLE, OPTIONS = 320, 500, 200, 4
KEY = ("task", "method", "seed")
SCORES = ("accuracy", "nll", "ece")
SIGNALS = ("max_probability", "epistemic")
Question = dict[str, Any]


def questions(
    task: str, count: int, seed: int, *, test: bool, is_answerable: bool = True
) -> list[Question]:
    """Return random questions.

    Args:
        task: One of `TASKS`.
        count: Number of questions.
        seed: Seed of the draws.
        test: Whether the words are those of tests.
        is_answerable: Whether the right option is among the options; else `answer` is 0.
    """
    rng = np.random.default_rng([seed, test, is_answerable])
    span = slice(8, None) if test else slice(8)
    words = {name: text.split()[span] for name, text in WORDS.items()}
    rows = []
    for _ in range(count):
        # One more category than options: the last is asked for if there is no right option.
        names = rng.choice(list(words), OPTIONS + 1, replace=False)
        drawn = [str(rng.choice(words[name])) for name in names]
        answer = int(rng.integers(OPTIONS)) if is_answerable else OPTIONS
        subject = f"the word '{drawn[answer]}'" if task == "copy" else str(names[answer])
        rows.append(
            {
                "question": f"Which option is {subject}?",
                "choices": drawn[:OPTIONS],
                "answer": answer % OPTIONS,
            }
        )
    return rows


def main() -> None:
    """Run the missing fits, then write the table."""
    parser = study_parser(__doc__, "reports/question-letters", data_dir=False)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    results = Results(args.out, KEY)
    for method, seed, task in product(METHODS, args.seeds, TASKS):
        cell = {"task": task, "method": method, "seed": seed}
        if task not in LEARNT and method not in ("untrained", "LoRA"):
            continue
        if results.get(**cell) is None:
            row = fitted(task, method, seed)
            results.append(cell | row)
            print(*cell.values(), *(f"{row[name][0]:.3f}" for name in SCORES), flush=True)
        write_table(args.out)
    results.sort()


def fitted(task: str, method: str, seed: int) -> dict[str, Any]:
    """Return the scores of one fit."""
    train = questions(task, TRAIN, seed, test=False)
    start = time.perf_counter()
    if (options := METHODS[method]) is None:
        clf = bl.BayesianClassifier("smollm2-135m", seed=seed, format="letters", progress=False)
        clf.zero_shot(texts=train)
    else:
        adapter, posterior = options
        clf = bl.BayesianClassifier(
            "smollm2-135m", adapter, posterior, seed=seed, format="letters", progress=False
        ).fit(train)
    seconds = time.perf_counter() - start
    known = clf.predict(questions(task, TEST, seed, test=True))
    scores = bl.evaluate(known)
    row: dict[str, Any] = {
        name: [scores[name].value, scores[name].low, scores[name].high] for name in SCORES
    }
    without = clf.predict(questions(task, UNANSWERABLE, seed, test=True, is_answerable=False))
    row |= {
        f"auroc_{signal}": auroc(known.uncertainty(signal), without.uncertainty(signal))
        for signal in SIGNALS
        if signal in known.uncertainty_names
    }
    return row | {"fit_seconds": seconds}


def write_table(out: Path) -> None:
    """Write `summary.md` from the stored rows."""
    results = Results(out, KEY)
    head = ["task", "method", "seeds", "accuracy", "NLL", "ECE"]
    head += ["AUROC, max probability", "AUROC, epistemic"]
    lines, gains = [], []
    for task in TASKS:
        by_method = {
            method: {row["seed"]: row for row in results.rows(task=task, method=method)}
            for method in METHODS
        }
        for method, rows in by_method.items():
            if rows:
                numbers = [shown([row[name][0] for row in rows.values()]) for name in SCORES]
                for signal in SIGNALS:
                    column = f"auroc_{signal}"
                    numbers.append(shown([row[column] for row in rows.values() if column in row]))
                lines.append([task, method, str(len(rows)), *numbers])
        lora, polar = by_method["LoRA"], by_method["PoLAR-VBLL"]
        shared = sorted(lora.keys() & polar.keys())
        if shared:
            differences = (
                [polar[seed][name][0] - lora[seed][name][0] for seed in shared] for name in SCORES
            )
            gains.append([task, str(len(shared)), *map(shown, differences)])
    text = (
        "# Letters on synthetic questions\n\n"
        f"SmolLM2-135M, {OPTIONS} options, {TRAIN} training questions, {TEST} test questions whose "
        f"words are new, and {UNANSWERABLE} without a right option, which an AUROC tells from the "
        "test questions. Means over seeds, ± half of a 95 % t interval. What is asked, and the "
        "rules: first lines of the study.\n\n" + table(head, lines)
    )
    if gains:
        text += "\n\nPoLAR-VBLL minus LoRA, paired by seed:\n\n" + table(
            ["task", "seeds", "accuracy", "NLL", "ECE"], gains
        )
    text += "\n\nCommand: `python -m benchmarks.question_letters`.\n"
    with atomic_file(out / "summary.md") as path:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
