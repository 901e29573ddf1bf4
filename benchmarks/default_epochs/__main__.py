"""How long should a fit without validation rows train, and what should its final fit do?

Adapters and last layers at the rates of `fit`, for several numbers of epochs, each a training of
its own with its rate falling to zero at its end. The validation rows play the data sets to come: a
fit does not see them, and what has the lowest NLL on them on average over data sets is meant to be
the default. Nothing here looks at a test row.

    python -m benchmarks.default_epochs --data-dir DIR
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path

from bayeslora import VBLL
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.files import atomic_file
from bayeslora.posteriors.base import Posterior
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.evaluation import TRAIN, VALIDATION, Evaluation, FitSpec, fitted_head
from benchmarks.lib.experiment_data import ExperimentData
from benchmarks.lib.results import Results
from benchmarks.lib.task_rows import TASKS, load_experiment
from benchmarks.lib.trajectories import nll, trajectory
from benchmarks.regimes.__main__ import FAMILIES, MAX_LENGTH, NUM_OOD, NUM_TEST

KEY = ("task", "family", "num_train", "epochs", "lr", "seed")
EPOCHS = (5, 10, 15)
NUM_TRAIN = 640
RATES = {"lora": (1e-3, 3e-3), "polar": (4e-3, 1e-2)}
TRAINED = "as trained"
FINAL: dict[str, Posterior | None] = {
    TRAINED: None,
    "refit, empirical Bayes": VBLL(polish_mean="refit"),
    "trained means, scale 0.5": VBLL(polish_mean="trained", prior_scale=0.5),
    "trained means, scale 1": VBLL(polish_mean="trained", prior_scale=1.0),
}


def main() -> None:
    """Run the missing fits and write the table."""
    parser = study_parser(__doc__, "reports/default-epochs")
    parser.add_argument("--runs", type=Path, default=Path("runs/regimes"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--epochs", nargs="+", type=int, default=list(EPOCHS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--num-train", type=int, default=NUM_TRAIN, help="training rows")
    args = parser.parse_args()
    backbone = load_backbone("smollm2-135m", dtype="bfloat16")
    results = Results(args.out, KEY)
    for task in args.tasks:
        data = load_experiment(
            task,
            num_train=args.num_train,
            num_test=NUM_TEST,
            num_ood=NUM_OOD,
            data_dir=args.data_dir,
        )
        for seed, family, epochs in product(args.seeds, args.families, args.epochs):
            adapter, posterior = FAMILIES[family]
            for lr in RATES[adapter.name]:
                spec = FitSpec(replace(adapter, lr=lr), posterior, epochs, seed, MAX_LENGTH)
                size = "" if args.num_train == NUM_TRAIN else f"-rows-{args.num_train}"
                name = f"{family}-{epochs}-lr-{lr:g}-seed-{seed}{size}"
                cell = {"task": task, "family": family, "num_train": args.num_train}
                cell |= {"epochs": epochs, "lr": lr, "seed": seed}
                if results.get(**cell) is None:
                    values = losses(backbone, data, spec, args.runs / task / name)
                    print(task, name, values, flush=True)
                    results.append(cell | {"nll": values})
        backbone.prefix_states.clear()
    results.sort()
    write_table(args.out)


def losses(
    backbone: Backbone, data: ExperimentData, spec: FitSpec, directory: Path
) -> dict[str, float]:
    """Return the NLL of the held-out rows for every kind of final fit, in nats."""
    state = trajectory(backbone, spec, data, directory, title=directory.name)[spec.epochs]
    lab = Evaluation(backbone, spec, data)
    rows = lab.features(state, [TRAIN, VALIDATION])
    held_out, trained = rows[VALIDATION], lab.trained_head(state)
    values = {}
    for name, config in FINAL.items():
        if config is None:
            values[name] = nll(trained.predict(held_out), held_out.targets)
        elif isinstance(spec.posterior, VBLL):
            head = fitted_head(config, trained, rows[TRAIN], None)
            values[name] = nll(head.predict(held_out), held_out.targets)
    return values


def write_table(out: Path) -> None:
    """Write the NLL of every kind of fit and its mean over data sets."""
    records = Results(out, KEY).rows()
    tasks = sorted({record["task"] for record in records})
    lines = [
        "# Epochs and final fits where nothing can be chosen",
        "",
        "NLL in nats of 320 rows that the fit has not seen: SmolLM2-135M, r = 8 in the last 6 "
        f"layers, at most {MAX_LENGTH} tokens. Means over seeds, as many as the column says. "
        "Made by `python -m benchmarks.default_epochs --data-dir DIR`, for other numbers of "
        "training rows with `--num-train`.",
        "",
        "| rows | fit | lr | epochs | final fit | seeds | " + " | ".join(tasks) + " | mean |",
        "|---" * (7 + len(tasks)) + "|",
    ]
    places: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        for final, value in record["nll"].items():
            place = (record["num_train"], record["family"], record["lr"], record["epochs"], final)
            places[place][record["task"]].append(value)
    order = list(FINAL)
    for place in sorted(places, key=lambda item: (*item[:4], order.index(item[4]))):
        by_task = places[place]
        seeds = "/".join(sorted({str(len(values)) for values in by_task.values()}))
        means = [statistics.fmean(by_task[task]) if task in by_task else None for task in tasks]
        cells = [*(f"{item:g}" if isinstance(item, float) else str(item) for item in place)]
        cells += [seeds, *("" if value is None else f"{value:.4f}" for value in means)]
        whole = [value for value in means if value is not None]
        cells.append(f"{statistics.fmean(whole):.4f}" if len(whole) == len(tasks) else "")
        lines.append(f"| {' | '.join(cells)} |")
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
