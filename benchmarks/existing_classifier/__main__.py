"""A classifier fine-tuned without us, before and after `calibrate`: its NLL and ECE.

All of MiniLM's weights are fine-tuned with plain transformers until the training rows are known by
heart. The posteriors of the last layer are then fitted to held-out rows that it never saw, and
scored on test rows.

    python -m benchmarks.existing_classifier --data-dir DIR
"""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
)

import bayeslora as bl
from bayeslora.backbones.embedded import embedded_directory
from bayeslora.data.examples import encode_labels
from bayeslora.data.splits import stratified_split
from bayeslora.io import atomic_directory, atomic_file
from bayeslora.metrics.ood import detection, sorted_by_uncertainty
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.results import Results
from benchmarks.lib.tables import difference, shown
from benchmarks.lib.task_rows import TASKS, TaskRows, load_rows

EPOCHS, BATCH, LEARNING_RATE, MAX_LENGTH = 10, 16, 1e-4, 64
POSTERIORS = ("temperature", "laplace", "laplace:prior_precision=marglik", "vbll")
CHOOSING = {"laplace", "vbll"}
"""Posteriors that choose a prior or means by validation rows: half of the held-out rows."""
KEY = ("task", "seed")
BEFORE = "before"
COLUMNS = ("accuracy", "nll", "ece", "far max_probability", "far logit_variance")


def main() -> None:
    """Run the missing fits, then write the table."""
    parser = study_parser(__doc__, "reports/existing-classifier")
    parser.add_argument("--runs", type=Path, default=Path("runs/existing-classifier"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    results = Results(args.out, KEY)
    for seed, task in product(args.seeds, args.tasks):
        if results.get(task=task, seed=seed) is None:
            data = load_rows(task, args.data_dir)
            folder = args.runs / f"{task}-seed-{seed}"
            if not folder.is_dir():
                fine_tune(data, seed, folder)
            rows = [scored(data, folder, posterior) for posterior in ("mle", *POSTERIORS)]
            results.append({"task": task, "seed": seed, "rows": rows})
        write_summary(args.out)
    results.sort()


def fine_tune(data: TaskRows, seed: int, folder: Path) -> None:
    """Fine-tune all weights with plain transformers and save the model in its format."""
    torch.manual_seed(seed)
    source = str(embedded_directory("minilm"))
    tokenizer = AutoTokenizer.from_pretrained(source)
    names = dict(enumerate(data.classes))
    model = AutoModelForSequenceClassification.from_pretrained(
        source, id2label=names, label2id={name: index for index, name in names.items()}
    )
    labels = encode_labels(data.train, data.classes)
    loader = DataLoader(
        list(zip(data.train.texts, labels.tolist(), strict=True)),
        batch_size=BATCH,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=lambda rows: (
            tokenizer(
                [text for text, _ in rows],
                padding=True,
                truncation=True,
                max_length=MAX_LENGTH,
                return_tensors="pt",
            ),
            torch.tensor([label for _, label in rows]),
        ),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    steps = EPOCHS * len(loader)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    model.train()
    for _ in range(EPOCHS):
        for batch, targets in loader:
            model(**batch, labels=targets).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    with atomic_directory(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def scored(data: TaskRows, folder: Path, posterior: str) -> dict[str, float | str]:
    """Return the test scores under a posterior; `mle` leaves the classifier unchanged."""
    clf = bl.BayesianClassifier.from_transformers(
        str(folder), posterior, max_length=MAX_LENGTH, progress=False
    )
    if posterior in CHOOSING:
        labels = encode_labels(data.validation, data.classes)
        clf.calibrate(*map(data.validation.take, stratified_split(labels, 0.5, seed=0)))
    elif posterior != "mle":
        clf.calibrate(data.validation)
    test = clf.predict(data.test)
    values: dict[str, float | str] = {"method": BEFORE if posterior == "mle" else posterior}
    values |= {key: score.value for key, score in bl.evaluate(test, num_resamples=1).items()}
    for name, rows in data.ood.items():
        outside = clf.predict(rows, unknown_labels="ood")
        for score in ("max_probability", "logit_variance"):
            pair = sorted_by_uncertainty(test.uncertainty(score), outside.uncertainty(score))
            values[f"{name} {score}"] = detection(pair)[0]
    print(folder.name, values, flush=True)
    return values


def write_summary(out: Path) -> None:
    """Write the means over seeds with intervals."""
    contents = Results(out, KEY).rows()
    lines = [
        "# A classifier fine-tuned without us",
        "",
        f"MiniLM, all weights fine-tuned with plain transformers for {EPOCHS} epochs on 640 rows; "
        "every posterior of the last layer has the same 320 held-out rows. Where it chooses "
        "something by validation NLL (`laplace` its prior, `vbll` its means) one half is fitted "
        "to and the other chooses; all others are fitted to the whole. 800 test rows. Means over "
        "seeds ± half a 95 % t interval; Δ is after − before, paired by seed. The rows "
        "are the same for every seed, so the intervals reflect the fine-tuning, not the choice of "
        "rows. Before, and with a temperature, the "
        "last layer has no variance to tell far OOD examples by. Made by `python "
        "-m benchmarks.existing_classifier --data-dir DIR`.",
        "",
        "| data | method | seeds | " + " | ".join([*COLUMNS, "Δ nll", "Δ ece"]) + " |",
        "|---" * (len(COLUMNS) + 5) + "|",
    ]
    methods: dict[tuple[str, str], dict[int, dict[str, float]]] = defaultdict(dict)
    for content in contents:
        for row in content["rows"]:
            methods[content["task"], row["method"]][content["seed"]] = row
    for task, method in product(TASKS, (BEFORE, *POSTERIORS)):
        rows = methods[task, method]
        if rows:
            cells = [_cell(rows, column) for column in COLUMNS]
            cells += [difference(rows, methods[task, BEFORE], key) for key in ("nll", "ece")]
            lines.append("| " + " | ".join([task, method, str(len(rows)), *cells]) + " |")
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(rows: dict[int, dict[str, float]], column: str) -> str:
    """Return mean and interval; empty for a score that is the same for every row."""
    values = [row[column] for row in rows.values()]
    blind = column.endswith("logit_variance") and set(values) == {0.5}
    return "" if blind else shown(values)


if __name__ == "__main__":
    main()
