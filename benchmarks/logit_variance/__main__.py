"""What limits the detection of far text by logit variance: the posterior, or the features?

No adapter is trained: a variational last layer is fitted to the pre-trained model's features of the
training rows, and its logit variance is compared with the leverage φᵀ(I + Σ φφᵀ)⁻¹φ, which knows
the features alone and no labels. Where both fail, no last layer would do better on these features.

    python -m benchmarks.logit_variance --data-dir DIR
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bayeslora import VBLL
from bayeslora.adapters.polar import PoLAR
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.engine.rows import set_feature_scale
from bayeslora.io.files import atomic_file
from bayeslora.metrics.ood import detection, sorted_by_uncertainty
from bayeslora.posteriors.features import Features
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.evaluation import TEST, TRAIN, Evaluation, FitSpec, fitted_head
from benchmarks.lib.experiment_data import FAR, NEAR, ExperimentData
from benchmarks.lib.results import Results
from benchmarks.lib.task_rows import TASKS, load_experiment

KEY = ("task", "tokens")
LENGTHS = (32, 64, 128)
HEADS = {
    "Knowles-Minka, scale 0.5": VBLL(prior_scale=0.5),
    "Knowles-Minka, scale 2": VBLL(prior_scale=2.0),
    "Knowles-Minka, scale 8": VBLL(prior_scale=8.0),
    "Jensen, scale 2": VBLL(prior_scale=2.0, polish_bound="jensen"),
}


def main() -> None:
    """Compute the missing scores and write the table."""
    parser = study_parser(__doc__, "reports/logit-variance")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    args = parser.parse_args()
    results = Results(args.out, KEY)
    backbone = load_backbone("smollm2-135m", dtype="bfloat16")
    for task in args.tasks:
        data = load_experiment(task, num_test=400, num_ood=250, data_dir=args.data_dir)
        for length in LENGTHS:
            cell = {"task": task, "tokens": length}
            if results.get(**cell) is None:
                values = areas(backbone, data, length)
                results.append(cell | {"auroc": values})
                print(task, length, values, flush=True)
            backbone.prefix_states.clear()
    results.sort()
    write_table(args.out)


def areas(backbone: Backbone, data: ExperimentData, length: int) -> dict[str, dict[str, float]]:
    """Return the AUROC of each out-of-distribution set by each score."""
    spec = FitSpec(PoLAR(), VBLL(), 1, 0, length)
    lab = Evaluation(backbone, spec, data)
    set_feature_scale(lab.network, lab.texts(TRAIN).texts)
    features = lab.features(lab.network.trained_state(), [TRAIN, *lab.scored])
    scores = {"leverage": leverages(features)}
    for name, config in HEADS.items():
        head = fitted_head(config, lab.network.head, features[TRAIN], None)
        scores[name] = {key: head.predict(rows).variance.sum(1) for key, rows in features.items()}
    return {
        name: {split: auroc(values[TEST], values[split]) for split in data.ood}
        for name, values in scores.items()
    }


def leverages(features: dict[str, Features]) -> dict[str, Tensor]:
    """Return φᵀ(I + Σ φφᵀ)⁻¹φ of every row, summed over the training rows."""
    train = features[TRAIN].values.double()
    precision = torch.eye(train.shape[1], dtype=torch.float64) + train.T @ train
    factor = torch.linalg.cholesky(precision)
    return {
        key: torch.linalg.solve_triangular(factor, rows.values.double().T, upper=False)
        .square()
        .sum(0)
        for key, rows in features.items()
    }


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Return the probability that an outside row has the larger score."""
    return float(detection(sorted_by_uncertainty(np.asarray(inside), np.asarray(outside)))[0])


def write_table(out: Path) -> None:
    """Write the table of AUROCs."""
    lines = [
        "# Detection by logit variance on features before fine-tuning",
        "",
        "AUROC of 250 out-of-distribution rows against 400 test rows, SmolLM2-135M without "
        "fine-tuning, last layer fitted to 640 rows, seed 0. Leverage knows the features alone. "
        "Made by `python -m benchmarks.logit_variance --data-dir DIR`.",
        "",
        "| data | set | leverage | " + " | ".join(HEADS) + " |",
        "|---" * (3 + len(HEADS)) + "|",
    ]
    for row in Results(out, KEY).rows():
        scores = row["auroc"]
        for split in (NEAR, FAR):
            if split in scores["leverage"]:
                values = [f"{scores[name][split]:.3f}" for name in ("leverage", *HEADS)]
                lines.append(
                    "| "
                    + " | ".join([f"{row['task']}, {row['tokens']} tokens", split, *values])
                    + " |"
                )
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
