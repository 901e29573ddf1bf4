"""How should validation rows choose the epoch, the prior scale and the means of a VBLL's final fit?

PoLAR trained with a variational last layer, 15 epochs. Validation rows are split at random again
and again: a rule chooses on one part, and the NLL of its choice is taken on the other. No test row
is looked at.

    python benchmarks/final_choices.py --data-dir DIR
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from regimes import MAX_LENGTH, NUM_OOD, NUM_TEST
from task_rows import TASKS, load_experiment
from torch import Tensor
from trajectories import trajectory

from bayeslora import VBLL
from bayeslora.adapters.config import PoLAR
from bayeslora.backbones.load import load_backbone
from bayeslora.experiments.evaluation import TRAIN, VALIDATION, Evaluation, fitted_head
from bayeslora.experiments.fits import FitSpec
from bayeslora.files import atomic_file, read_json, write_json
from bayeslora.links import link_probabilities
from bayeslora.logits import Logits
from bayeslora.posteriors.base import DEFAULT_PRIOR_SCALE
from bayeslora.posteriors.config import PRIOR_SCALE_GRID

EPOCHS, LR = 15, 1e-2
SHOWN = (3, 6, 10, 15)
NUM_CHOOSING = (32, 80, 160)
NUM_SPLITS = 60
UNPOLISHED = "unpolished"
SCALES = (*(f"{scale:g}" for scale in PRIOR_SCALE_GRID), "empirical-bayes")
MEANS = ("refit", "trained")
FIXED = f"{DEFAULT_PRIOR_SCALE:g}"


class Fit(NamedTuple):
    """One candidate.

    Attributes:
        epoch: Of the adapter.
        means: `refit`, `trained`, or `unpolished` for the head as training left it.
        scale: Prior scale, as options write it; empty where unpolished.
    """

    epoch: int
    means: str
    scale: str = ""


Best = Callable[[Iterable[Fit]], Fit]


def grid_of(
    means: Iterable[str], scales: Iterable[str], epochs: Iterable[int] = SHOWN
) -> list[Fit]:
    """Return all combinations."""
    return [Fit(*place) for place in product(epochs, means, scales)]


def by_fixed(best: Best, means: tuple[str, ...], scales: Iterable[str]) -> Fit:
    """Choose the epoch under the fixed scale, then scale and means at that epoch."""
    epoch = best(grid_of(means, (FIXED,))).epoch
    return best(grid_of(means, scales, (epoch,)))


EB = ("empirical-bayes",)
NUMBERS = SCALES[:-1]
RULES: dict[str, Callable[[Best], Fit]] = {
    "unpolished; epoch": lambda best: best(Fit(epoch, UNPOLISHED) for epoch in SHOWN),
    "refit; epoch at scale 2, scale of the grid": lambda best: by_fixed(best, ("refit",), NUMBERS),
    "refit; epoch at scale 2, empirical Bayes": lambda best: by_fixed(best, ("refit",), EB),
    "refit; epoch and scale at once": lambda best: best(grid_of(("refit",), NUMBERS)),
    "trained; epoch at scale 2, empirical Bayes": lambda best: by_fixed(best, ("trained",), EB),
    "either; epoch at scale 2, scale of the grid": lambda best: by_fixed(best, MEANS, NUMBERS),
    "either; epoch and scale at once": lambda best: best(grid_of(MEANS, NUMBERS)),
    "either; epoch under empirical Bayes": lambda best: best(grid_of(MEANS, EB)),
    "either; epoch at scale 2, empirical Bayes": lambda best: by_fixed(best, MEANS, EB),
}


def main() -> None:
    """Score what is not there yet and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("reports/final-choices"))
    parser.add_argument("--runs", type=Path, default=Path("runs/regimes"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone = load_backbone("smollm2-135m", dtype="bfloat16")
    for task in args.tasks:
        data = load_experiment(task, num_test=NUM_TEST, num_ood=NUM_OOD, data_dir=args.data_dir)
        for seed in args.seeds:
            file = args.out / "scores" / f"{task}-seed-{seed}.json"
            if file.is_file():
                continue
            spec = FitSpec(PoLAR(lr=LR), VBLL(), EPOCHS, seed, MAX_LENGTH)
            folder = args.runs / task / f"polar-vbll-{EPOCHS}-lr-{LR:g}-seed-{seed}"
            states = trajectory(backbone, spec, data, folder, title=f"{task} seed {seed}")
            losses = candidate_losses(Evaluation(backbone, spec, data), states)
            found = {str(size): outcomes(losses, size, seed) for size in NUM_CHOOSING}
            write_json(file, {"task": task, "seed": seed, "nll": found})
            print(task, seed, found, flush=True)
        backbone.prefix_states.clear()
    write_table(args.out)


def candidate_losses(lab: Evaluation, states: dict[int, dict[str, Tensor]]) -> dict[Fit, Tensor]:
    """Return the NLL in nats of each validation row, [M], under every candidate."""
    losses = {}
    for epoch in SHOWN:
        rows = lab.features(states[epoch], [TRAIN, VALIDATION])
        held = rows[VALIDATION]
        trained = lab.trained_head(states[epoch])
        losses[Fit(epoch, UNPOLISHED)] = row_nll(trained.predict(held.features), held.labels)
        for means, scale in product(MEANS, SCALES):
            prior = scale if scale == "empirical-bayes" else float(scale)
            config = VBLL(polish_mean=means, prior_scale=prior)
            head = fitted_head(config, trained, rows[TRAIN], None)
            losses[Fit(epoch, means, scale)] = row_nll(head.predict(held.features), held.labels)
    return losses


def row_nll(logits: Logits, labels: Tensor) -> Tensor:
    """Return −log p(y) of each row, by the `mc` link."""
    probs = link_probabilities(logits).probs
    return -probs.gather(1, labels[:, None]).squeeze(1).log()


def outcomes(losses: dict[Fit, Tensor], size: int, seed: int) -> dict[str, float]:
    """Return for every rule the mean NLL, over splits, of rows that it did not choose by."""
    total: dict[str, float] = defaultdict(float)
    rows = len(next(iter(losses.values())))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(NUM_SPLITS):
        order = torch.randperm(rows, generator=generator)
        seen = {fit: float(values[order[:size]].mean()) for fit, values in losses.items()}
        best = partial(min, key=seen.__getitem__)
        for name, rule in RULES.items():
            chosen = rule(best)
            total[name] += float(losses[chosen][order[size:]].mean()) / NUM_SPLITS
    return dict(total)


def write_table(out: Path) -> None:
    """Write the mean over seeds for each data set, and over data sets."""
    records = [read_json(file) for file in sorted((out / "scores").glob("*.json"))]
    tasks = sorted({record["task"] for record in records})
    lines = [
        "# Rules for choosing the epoch, the prior scale and the means of the final fit",
        "",
        "NLL in nats of validation rows that a rule did not choose by; PoLAR-VBLL on SmolLM2-135M, "
        f"640 training rows, {EPOCHS} epochs at {LR:g}, epochs {', '.join(map(str, SHOWN))} to "
        f"choose from, mean over {NUM_SPLITS} splits of 320 rows and "
        f"{len({record['seed'] for record in records})} seeds. Rows are the same for all seeds. "
        "`refit`: means fitted in closed form with the covariances; `trained`: held as training "
        "left them, where empirical Bayes stands for the scale 0.5; `either`: whichever scores "
        "better. "
        "Made by `python benchmarks/final_choices.py --data-dir DIR`.",
    ]
    for size in map(str, NUM_CHOOSING):
        lines += ["", f"## {size} rows to choose by", "", f"| rule | {' | '.join(tasks)} | mean |"]
        lines.append("|---" * (2 + len(tasks)) + "|")
        for name in RULES:
            means = [
                mean(record["nll"][size][name] for record in records if record["task"] == task)
                for task in tasks
            ]
            cells = [f"{value:.3f}" for value in (*means, mean(means))]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    with atomic_file(out / "summary.md") as aside:
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")


def mean(values: Iterable[float]) -> float:
    """Return the arithmetic mean."""
    found = list(values)
    return sum(found) / len(found)


if __name__ == "__main__":
    main()
