"""Summary of the study of several tasks, from its stored rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bayeslora.io.files import atomic_file
from benchmarks.lib.results import Results
from benchmarks.lib.tables import shown, table
from benchmarks.lib.verdicts import Claim

Row = Mapping[str, Any]
Score = Callable[[Row], float]


def tasks_of(row: Row) -> list[str]:
    """Return the names of the tasks."""
    return [*row["epochs"][-1]]


def worst_drop(row: Row) -> float:
    """Return the maximum over tasks of best minus last accuracy over the epochs."""
    return max(
        max(epoch[task]["accuracy"] for epoch in row["epochs"])
        - row["epochs"][-1][task]["accuracy"]
        for task in tasks_of(row)
    )


def worst_rise(row: Row) -> float:
    """Return the maximum over tasks of last minus lowest NLL over the epochs."""
    return max(
        row["epochs"][-1][task]["nll"] - min(epoch[task]["nll"] for epoch in row["epochs"])
        for task in tasks_of(row)
    )


def mean_of(name: str, where: str = "epochs") -> Score:
    """Return a function for the mean over tasks of a score in the last epoch."""

    def score(row: Row) -> float:
        last = row["epochs"][-1] if where == "epochs" else row[where]
        return sum(scores[name] for scores in last.values()) / len(last)

    return score


COLUMNS: dict[str, Score] = {
    "accuracy": mean_of("accuracy"),
    "NLL": mean_of("nll"),
    "ECE": mean_of("ece"),
    "ECE, one temperature": mean_of("ece", "scaled"),
    "worst drop of accuracy": worst_drop,
    "worst rise of NLL": worst_rise,
}
PAIRS = (
    ("worst drop of accuracy, lower by", "lora", "lora+retaining", worst_drop),
    ("worst drop of accuracy, lower by", "emtal", "emtal+retaining", worst_drop),
    ("worst rise of NLL, lower by", "lora", "lora+retaining", worst_rise),
    ("worst rise of NLL, lower by", "emtal", "emtal+retaining", worst_rise),
    ("mean accuracy, higher by", "emtal+retaining", "lora", mean_of("accuracy")),
    ("mean accuracy, higher by", "lora+retaining", "lora", mean_of("accuracy")),
    ("mean accuracy, higher by", "emtal", "lora", mean_of("accuracy")),
    ("mean NLL, lower by", "lora", "emtal+retaining", mean_of("nll")),
    ("mean NLL, lower by", "lora", "lora+retaining", mean_of("nll")),
    ("mean accuracy, higher by", "emtal", "emtal in file order", mean_of("accuracy")),
    ("worst drop of accuracy, lower by", "lora across", "lora+retaining across", worst_drop),
    ("worst drop of accuracy, lower by", "emtal across", "emtal+retaining across", worst_drop),
    ("worst rise of NLL, lower by", "lora across", "lora+retaining across", worst_rise),
    ("worst rise of NLL, lower by", "emtal across", "emtal+retaining across", worst_rise),
    ("mean accuracy, higher by", "emtal+retaining across", "lora across", mean_of("accuracy")),
)
"""Comparisons: the score of the first arm minus that of the second, above 0 as claimed."""


def paired(results: Results, first: str, second: str, score: Score) -> list[float]:
    """Return the differences between two arms by seed."""
    others = {row["seed"]: row for row in results.rows(arm=second)}
    return [
        score(row) - score(others[row["seed"]])
        for row in results.rows(arm=first)
        if row["seed"] in others
    ]


def claims(folder: Path) -> list[Claim]:
    """Return the claims of the paper on several tasks, with the stored gains.

    Claims on the arms `across` are there once these have run.
    """
    results = Results(folder, ("arm", "seed"))
    comparisons = [
        (
            "lower worst drop of a task's accuracy with the quality-retaining loss, beside LoRA",
            "",
            paired(results, "lora", "lora+retaining", worst_drop),
        ),
        (
            "the same beside EMTAL's experts",
            "",
            paired(results, "emtal", "emtal+retaining", worst_drop),
        ),
        (
            "lower worst rise of a task's NLL with the loss, beside LoRA",
            "nats",
            paired(results, "lora", "lora+retaining", worst_rise),
        ),
        (
            "the same beside EMTAL's experts",
            "nats",
            paired(results, "emtal", "emtal+retaining", worst_rise),
        ),
        (
            "higher mean accuracy of experts with the loss than of LoRA",
            "",
            paired(results, "emtal+retaining", "lora", mean_of("accuracy")),
        ),
        (
            "higher mean accuracy of clustered experts than of LoRA",
            "",
            paired(results, "emtal", "lora", mean_of("accuracy")),
        ),
        (
            "higher mean accuracy of clustered experts than of experts in file order",
            "",
            paired(results, "emtal", "emtal in file order", mean_of("accuracy")),
        ),
    ]
    across = [
        (
            "across tasks: lower worst drop of a task's accuracy with the loss, beside LoRA",
            "",
            paired(results, "lora across", "lora+retaining across", worst_drop),
        ),
        (
            "across tasks: the same beside EMTAL's experts",
            "",
            paired(results, "emtal across", "emtal+retaining across", worst_drop),
        ),
        (
            "across tasks: higher mean accuracy of experts with the loss than of LoRA",
            "",
            paired(results, "emtal+retaining across", "lora across", mean_of("accuracy")),
        ),
    ]
    comparisons += [claim for claim in across if claim[-1]]
    return [Claim("EMTAL", text, unit, tuple(gains)) for text, unit, gains in comparisons]


def write_report(results: Results, out: Path, known: Iterable[str]) -> None:
    """Write `summary.md` from the stored rows; `known` are the names of all arms."""
    rows = results.rows()
    if not rows:
        return
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    arms.sort(key=lambda arm: ("+" in arm, arm))
    every = [
        [
            arm,
            str(len(of_arm)),
            *(shown([score(row) for row in of_arm]) for score in COLUMNS.values()),
        ]
        for arm in arms
        if (of_arm := results.rows(arm=arm))
    ]
    by_task = [
        [
            arm,
            task,
            *(
                shown([row["epochs"][-1][task][key] for row in of_arm])
                for key in ("accuracy", "nll", "ece")
            ),
            shown([row["scaled"][task]["ece"] for row in of_arm]),
            shown(
                [
                    max(e[task]["accuracy"] for e in row["epochs"])
                    - row["epochs"][-1][task]["accuracy"]
                    for row in of_arm
                ]
            ),
            shown([row["epochs"][-1][task]["accuracy_among_all"] for row in of_arm]),
        ]
        for arm in arms
        if (of_arm := results.rows(arm=arm))
        for task in tasks_of(of_arm[0])
    ]
    compared = [
        [what, first, second, shown(differences), str(len(differences))]
        for what, first, second, score in PAIRS
        if (differences := paired(results, first, second, score))
    ]
    missing = [arm for arm in known if arm not in arms]
    text = "\n\n".join(
        [
            "# Several tasks at once",
            "`python -m benchmarks.multi_task --data-dir DIR`; what is asked, the rows and the "
            "rule are in its first lines. Means over seeds, ± half of a 95 % t interval.",
            *([f"Not run: {', '.join(missing)}."] if missing else []),
            "Accuracy among all classes is that of the highest logit without knowing the task, "
            "which only the arms `across` are fitted for. These classify a row among the classes "
            "of all tasks, as published; their scores are harder to raise, and compare with each "
            "other alone.",
            "## Differences, paired by seed",
            table(["score", "of", "against", "difference", "seeds"], compared),
            "## Arms, means over tasks in the last epoch",
            table(["arm", "seeds", *COLUMNS], every),
            "## By task, last epoch",
            table(
                [
                    "arm",
                    "task",
                    "accuracy",
                    "NLL",
                    "ECE",
                    "ECE, one temperature",
                    "drop from its best epoch",
                    "accuracy among all classes",
                ],
                by_task,
            ),
        ]
    )
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
