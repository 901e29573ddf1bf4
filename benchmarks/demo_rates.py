"""Which learning rates should the demo's short schedule have?

Each adapter gets a grid of the same size over its own rate and its head's steps; the pair with the
lowest validation NLL is meant to stand in `bayeslora/experiments/demo.py`. Nothing here looks at a
test row.

    python benchmarks/demo_rates.py
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from trajectories import validation_nll

from bayeslora.adapters.config import LoRA, PoLAR
from bayeslora.backbones.load import Backbone
from bayeslora.experiments.data import ExperimentData
from bayeslora.experiments.demo import (
    DROPOUT,
    demo_backbone,
    demo_data,
    fit_best_epoch,
    lora_spec,
    polar_spec,
)
from bayeslora.experiments.evaluation import TRAIN, VALIDATION, Evaluation
from bayeslora.experiments.fits import FitSpec
from bayeslora.files import read_json, write_json
from bayeslora.posteriors.config import VBLL

LORA_RATES = (3e-3, 1e-2)
LORA_HEAD_RATES = (2e-2, 1e-1, 3e-1)
POLAR_RATES = (4e-3, 1e-2)
POLAR_HEADS = {
    "head 0.02": VBLL(head_lr=2e-2),
    "head 0.1": VBLL(head_lr=1e-1),
    "refits": VBLL(bound="knowles_minka", head_step="refit", training_covariance="dense"),
}


def main() -> None:
    """Fit what is not there yet and print the validation NLL of every pair of rates."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("reports/demo-rates/scores.json"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = read_json(args.out) if args.out.is_file() else {}
    backbone, data = demo_backbone(), demo_data()
    for lr, head_lr in product(LORA_RATES, LORA_HEAD_RATES):
        key = f"lora-mle, adapter {lr:g}, head {head_lr:g}"
        if key not in found:
            adapter = LoRA(dropout=DROPOUT, lr=lr)
            spec = replace(lora_spec(seed=0), adapter=adapter, head_lr=head_lr)
            found[key] = best_nll(backbone, data, spec, key)
            write_json(args.out, found)
    for lr, (head, posterior) in product(POLAR_RATES, POLAR_HEADS.items()):
        key = f"polar-vbll, adapter {lr:g}, {head}"
        if key not in found:
            spec = replace(polar_spec(seed=0), adapter=PoLAR(lr=lr), posterior=posterior)
            found[key] = best_nll(backbone, data, spec, key)
            write_json(args.out, found)
    for key, value in sorted(found.items(), key=lambda item: item[1]):
        print(f"{value:.4f}  {key}")


def best_nll(backbone: Backbone, data: ExperimentData, spec: FitSpec, title: str) -> float:
    """Return the validation NLL in nats of the best epoch, a VBLL's means chosen there."""
    lab = Evaluation(backbone, spec, data)
    state = fit_best_epoch(lab, backbone, spec, title=title)
    rows = lab.features(state, [TRAIN, VALIDATION])
    last = spec.posterior if isinstance(spec.posterior, VBLL) else None
    return validation_nll(lab, state, rows, last, tuned=last is not None)


if __name__ == "__main__":
    main()
