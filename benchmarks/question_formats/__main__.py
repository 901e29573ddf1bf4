"""What does a language model know of multiple-choice questions before any label, in each format?

Every option after the question, or all options in the prompt and a letter as the answer: the same
backbone answers the reported questions in both formats, untrained. Nothing is chosen.

    python -m benchmarks.question_formats --data-dir DIR
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import bayeslora as bl
from bayeslora.io.files import atomic_file
from bayeslora.option_checks import FORMATS, Format
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.results import Results
from benchmarks.lib.tables import table

TASKS = ("arc-easy", "arc-challenge", "openbookqa", "winogrande-s")
SCORES = ("accuracy", "nll", "ece")
KEY = ("task", "format")


def main() -> None:
    """Compute the missing scores, then write the table."""
    parser = study_parser(__doc__, "reports/question-formats")
    parser.add_argument("--backbone", default="smollm2-135m")
    args = parser.parse_args()
    results = Results(args.out, KEY)
    for task, form in product(TASKS, FORMATS):
        if results.get(task=task, format=form) is None:
            row = answered(args.backbone, task, form, args.data_dir)
            results.append({"task": task, "format": form, **row})
            print(task, form, row["accuracy"])
        write_table(args.out, args.backbone)
    results.sort()


def answered(backbone: str, task: str, form: Format, data_dir: Path | None) -> dict[str, object]:
    """Return the scores of the untrained language model on the test questions of a task."""
    rows = bl.load_task(task, "test", data_dir=data_dir)
    clf = bl.BayesianClassifier(backbone, format=form, progress=False)
    predictions = clf.zero_shot(texts=rows).predict(rows)
    scores = bl.evaluate(predictions)
    values = {name: [scores[name].value, scores[name].low, scores[name].high] for name in SCORES}
    prompts = clf.record.backbone["template"]
    return {"n": len(rows), "template": prompts, "chance": scores.chance_accuracy, **values}


def write_table(out: Path, backbone: str) -> None:
    """Write `summary.md` from the stored rows."""
    lines = [
        [row["task"], row["format"], str(row["n"]), f"{row['chance']:.3f}"]
        + ["{:.3f} [{:.3f}, {:.3f}]".format(*row[name]) for name in SCORES]
        for row in Results(out, KEY).rows()
    ]
    text = (
        "# Questions before any label\n\n"
        f"{backbone}, untrained, on test questions; 95 % bootstrap intervals over rows. With "
        "`options` each option is scored after the question by its log-likelihood per token; with "
        "`letters` all options are in the prompt.\n\n"
        + table(["task", "format", "questions", "chance", "accuracy", "NLL", "ECE"], lines)
        + "\n\nNothing is trained here. What fits gain on these questions is the subject of "
        "`benchmarks/grids/multiple-choice*.yaml`; "
        "[the claims](../../docs/claims.md#multiple-choice) say what of them has been run.\n\n"
        "Command: `python -m benchmarks.question_formats --data-dir DIR`.\n"
    )
    with atomic_file(out / "summary.md") as path:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
