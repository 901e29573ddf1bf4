"""Which learning rates should the demo's short schedule have?

Each adapter gets a grid of the same size over its own rate and its head's; the pair with the lowest
validation NLL is meant to stand in `bayeslora/experiments/demo.py`. Nothing here looks at a test
row.

    python benchmarks/demo_rates.py
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import torch

from bayeslora.backbones.load import load_backbone
from bayeslora.experiments.demo import (
    BACKBONE,
    demo_data,
    fit_best_epoch,
    lora_spec,
    polar_spec,
)
from bayeslora.experiments.evaluation import TRAIN, VALIDATION, Evaluation
from bayeslora.files import read_json, write_json
from bayeslora.posteriors.config import VBLL

LORA_RATES, LORA_HEAD_RATES = (1e-3, 3e-3, 1e-2), (2e-2, 1e-1)
POLAR_RATES, POLAR_HEAD_RATES = (4e-3, 1e-2, 2e-2), (5e-3, 2e-2)


def main() -> None:
    """Fit what is not there yet and print the validation NLL of every pair of rates."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("reports/demo-rates/scores.json"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = read_json(args.out) if args.out.is_file() else {}
    backbone, data = load_backbone(BACKBONE), demo_data()
    pairs = [
        *(("lora-mle", *pair) for pair in product(LORA_RATES, LORA_HEAD_RATES)),
        *(("polar-vbll", *pair) for pair in product(POLAR_RATES, POLAR_HEAD_RATES)),
    ]
    for name, lr, head_lr in pairs:
        key = f"{name}, adapter {lr:g}, head {head_lr:g}"
        if key in found:
            continue
        polar = name == "polar-vbll"
        spec = polar_spec(lr=lr, head_lr=head_lr) if polar else lora_spec(lr=lr)
        lab = Evaluation(backbone, spec, data)
        state = fit_best_epoch(lab, backbone, spec, head_lr=head_lr, title=key)
        rows = lab.features(state, [TRAIN, VALIDATION])
        found[key] = lab.validation_nll(state, rows, VBLL() if polar else None, tuned=polar)
        write_json(args.out, found)
    for key, value in sorted(found.items(), key=lambda item: item[1]):
        print(f"{value:.4f}  {key}")


if __name__ == "__main__":
    main()
