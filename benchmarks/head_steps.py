"""Which bound and which head step should be the default of PoLAR-VBLL?

One fit for each (bound in the adapter's loss, head step) on each data set and seed; after every
epoch the dense Knowles-Minka polish is fitted to the training features and scored by validation
NLL. Nothing here looks at a test row.

    python benchmarks/head_steps.py --data-dir DIR --out reports/head-steps
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import torch

from bayeslora.adapters.config import PoLAR
from bayeslora.backbones.load import load_backbone
from bayeslora.experiments.data import TASKS, load_experiment
from bayeslora.experiments.fits import FitSpec, fresh_network, prepared, trajectory
from bayeslora.experiments.scoring import features_of, fitted_head, nll
from bayeslora.files import read_json, write_json
from bayeslora.posteriors.config import VBLL

VARIANTS = {
    "jensen, gradient": VBLL(bound="jensen", head_step="gradient"),
    "knowles_minka, gradient": VBLL(bound="knowles_minka", head_step="gradient"),
    "jensen, refit": VBLL(bound="jensen", head_step="refit", training_covariance="dense"),
    "knowles_minka, refit": VBLL(
        bound="knowles_minka", head_step="refit", training_covariance="dense"
    ),
}


def main() -> None:
    """Run what is not there yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("reports/head-steps"))
    parser.add_argument("--runs", type=Path, default=Path("runs/head-steps"))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone = load_backbone("smollm2-135m")
    for seed, task in product(range(args.seeds), args.tasks):
        data = load_experiment(task, data_dir=args.data_dir)
        for name in args.variants:
            posterior = VARIANTS[name]
            file = args.out / "curves" / f"{task}-{name.replace(', ', '-')}-seed-{seed}.json"
            if file.is_file():
                continue
            spec = FitSpec(PoLAR(), posterior, args.epochs, seed)
            folder = args.runs / file.stem
            states = trajectory(backbone, spec, data, folder, title=file.stem)
            network = fresh_network(backbone, spec, len(data.classes))
            splits = {
                "train": prepared(network, data.train, data.classes),
                "validation": prepared(network, data.validation, data.classes),
            }
            curve = []
            for epoch, state in states.items():
                found = features_of(network, state, splits)
                train, held = found["train"], found["validation"]
                row = {
                    "epoch": epoch,
                    "trained": nll(network.head.predict(held.values), held.labels),
                }
                for scale in (2.0, "validation", "empirical-bayes"):
                    head = fitted_head(VBLL(prior_scale=scale), network.head, train, held)
                    row[f"polished, {scale}"] = nll(head.predict(held.values), held.labels)
                    row[f"prior scale, {scale}"] = head.report()["prior_scale"]
                curve.append(row)
                print(file.stem, row, flush=True)
            write_json(file, {"spec": spec.to_json(), "curve": curve})
    write_summary(args.out)


def write_summary(out: Path) -> None:
    """Write the best and the last validation NLL of every variant."""
    lines = ["| data, seed | bound, head step | best NLL (epoch) | last NLL |", "|---|---|---|---|"]
    for file in sorted((out / "curves").glob("*.json")):
        curve = read_json(file)["curve"]
        best = min(curve, key=lambda row: row["polished, validation"])
        last = curve[-1]["polished, validation"]
        lines.append(
            f"| {file.stem} | | {best['polished, validation']:.3f} ({best['epoch']}) | {last:.3f} |"
        )
    (out / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
