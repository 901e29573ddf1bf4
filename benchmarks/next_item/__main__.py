"""Does a gate that sees a user's history make LoRA better at naming the next film?

iLoRA against LoRA of equal rank, and against itself with the contexts of other users, which is the
decisive control: it has the same parameters and the same gate, without the information. A third
rival is given the context without a gate. What needs no model stands beside them. The rule, set
beforehand: the published gain is reproduced if the 95 % t intervals over seeds of the differences
in HR@1 to both LoRA and the permuted arm lie above 0.

The learning rate is chosen for LoRA by NLL on validation rows. Needs `recbole` (`pip install
--no-deps recbole==1.2.1`), for its copy of MovieLens-100K. Every fit is stored at once; the same
command goes on where it was interrupted.

    python -m benchmarks.next_item
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch

import bayeslora as bl
from bayeslora.backbones.load import load_backbone
from bayeslora.data.movielens import load_movielens
from bayeslora.predictions.record import Predictions
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.results import Results
from benchmarks.next_item import groups
from benchmarks.next_item.bi_encoder import ARMS, Fitted, Study, fit
from benchmarks.next_item.rows import Items, hit_rate, windows
from benchmarks.next_item.summary import (
    ARM,
    BASELINES,
    CONTROL,
    CONTROL_ARMS,
    KEY,
    OUT,
    RATE,
    write_summary,
)

RATES = (1e-3, 3e-3)
RATE_SEED = 1000


def main() -> None:
    """Run the missing fits, then write the tables."""
    parser = study_parser(__doc__, OUT, data_dir=False, threads=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--num-train", type=int, default=2500)
    parser.add_argument("--epochs", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(args.out, KEY)
    test = load_movielens("test")
    items = Items.before(1)
    for name, scores in (
        ("popularity", items.popularity(test)),
        ("co-occurrence", items.co_occurrence(test)),
    ):
        results.append({"part": BASELINES, "arm": name, "accuracy": hit_rate(scores, test)})
    run_control(results)
    study = Study.of(load_backbone("minilm"), items, lr=RATES[0], epochs=args.epochs)
    best = _chosen(results, study, args.num_train)
    # Run the arms of the rule first.
    for arms, seed in product((ARMS[:3], ARMS[3:]), args.seeds):
        for arm in arms:
            if results.get(part=ARM, arm=arm, lr=best, seed=seed) is None:
                row = {"part": ARM, "arm": arm, "lr": best, "seed": seed}
                chosen = replace(study, lr=best)
                results.append(row | _fitted(chosen, arm, seed, args.num_train, "test"))
                write_summary(args.out)
    results.sort()
    write_summary(args.out)


def run_control(results: Results) -> None:
    """Run the missing fits of the positive control."""
    for arm, seed in product(CONTROL_ARMS, range(3)):
        cell = {"part": CONTROL, "arm": arm, "lr": groups.LR, "seed": seed}
        if results.get(**cell) is None:
            results.append(cell | {"error": groups.test_error(arm, seed)})


def _chosen(results: Results, study: Study, num_train: int) -> float:
    """Return the learning rate with the lowest validation NLL of LoRA."""
    nll = {}
    for lr in RATES:
        cell = {"part": RATE, "arm": "lora", "lr": lr, "seed": RATE_SEED}
        row = results.get(**cell)
        if row is None:
            result = _fitted(replace(study, lr=lr), "lora", RATE_SEED, num_train, "validation")
            row = cell | result
            results.append(row)
        nll[lr] = row["nll"]
    return min(nll, key=nll.__getitem__)


def _fitted(study: Study, arm: str, seed: int, num_train: int, split: str) -> Mapping[str, Any]:
    start = time.process_time()
    fitted: Fitted = fit(study, arm, windows(num_train, seed), seed)
    seconds = time.process_time() - start
    return {
        "num_train": num_train,
        "epochs": study.epochs,
        **_scores(fitted.predict(load_movielens(split))),
        **fitted.figures,
        "seconds": seconds,
    }


def _scores(predictions: Predictions) -> dict[str, float]:
    result = bl.evaluate(predictions, num_resamples=1)
    confidence = predictions.probs.max(1)
    right = predictions.probs.argmax(1) == predictions.labels
    surest = np.argsort(-confidence, kind="stable")[: (len(right) + 1) // 2]
    scores = {name: float(result[name].value) for name in ("accuracy", "nll", "ece")}
    return scores | {"risk_at_50": 1 - float(right[surest].mean())}


if __name__ == "__main__":
    main()
