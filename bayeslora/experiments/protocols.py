"""Evaluation protocols by name: training, its length, and the reported rows.

A protocol is one object. Settings of a published protocol that `fit` cannot express are listed in
`deviations`, which are in the record of every cell and above its tables.

Sources: `blob`: Wang et al. 2024, arXiv 2406.11675 (code: Wang-ML-Lab/bayesian-peft);
`laplace-lora`: Yang et al. 2024, arXiv 2308.13111 (code: adamxyang/laplace-lora); `bag`: arXiv
2606.22188 (code: SRI-CSL/BayesAdapt).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bayeslora.metrics.calibration import NUM_BINS


@dataclass(frozen=True)
class Protocol:
    """How the cells of a grid are trained and scored.

    Attributes:
        name: The name in a grid.
        seeds: Default seeds.
        split: The reported split: `test` or `validation`.
        draws_rows: Whether the grid sets a number of labelled rows that each seed draws.
        steps: Optimiser steps; None leaves the length of the training to `fit`.
        fit: Options of `fit`.
        model: Options of `BayesianClassifier`; `format` is of questions alone.
        adapter: Options of the adapter, as far as it has them.
        num_bins: Bins of the expected calibration error.
        weight_samples: Forward passes of a posterior that draws weights; None uses its default.
        logit_samples: Draws of a posterior with Gaussian logits; None uses its default.
        num_choices: Options per question by task; rows with another number are dropped.
        ood_audit: Column with an audit's verdicts; out-of-distribution sets that have it are
            filtered to rows marked OK. None uses all rows.
        deviations: Settings of the published protocol that `fit` cannot express.
        task_deviations: Further deviation of a task, by its name.
    """

    name: str
    seeds: tuple[int, ...]
    split: str = "test"
    draws_rows: bool = False
    steps: int | None = None
    fit: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    num_bins: int = NUM_BINS
    weight_samples: int | None = None
    logit_samples: int | None = None
    num_choices: Mapping[str, int] = field(default_factory=dict)
    ood_audit: str | None = None
    deviations: tuple[str, ...] = ()
    task_deviations: Mapping[str, str] = field(default_factory=dict)

    def described(self) -> str:
        """Return the settings in one line, for tables."""
        settings = {
            "steps": self.steps,
            **self.fit,
            **self.model,
            **self.adapter,
            "draws": self.weight_samples or self.logit_samples,
            "options of questions": dict(self.num_choices) or None,
            "OOD rows": self.ood_audit and f"{self.ood_audit} is OK",
        }
        rows = "labelled rows drawn per seed" if self.draws_rows else "all training rows"
        chosen = [f"{name} = {value}" for name, value in settings.items() if value is not None]
        return ", ".join(
            [f"reported on {self.split}", rows, *chosen, f"ECE with {self.num_bins} bins"]
        )


_PUBLISHED_TRAINING = (
    "lm_head: published adapters are on q, v and lm_head; here the last layer is the posterior's "
    "and carries none",
    "learning rate: falls as a cosine after a warm-up of 3 % of the steps",
    "last layer: trained in alternation with the adapter, at its own rate",
    "batches: of rows of similar length; gradients are clipped at norm 1",
    "prompt: ours, not the published string; its hash is in the record",
)

_BATCHES = {"cv": 0, "batch_size": 4}
_ALL_LAYERS_BY_LETTER = {"max_length": 300, "depth": 1.0, "format": "letters"}
_RANK_8 = {"r": 8, "alpha": 16.0, "num_layers": None}

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "bayeslora",
            seeds=(0, 1, 2, 3, 4),
            fit={"hold_out": 0.2},
        ),
        Protocol(
            "label-budget",
            seeds=(0, 1, 2, 3, 4),
            draws_rows=True,
        ),
        Protocol(
            "blob",
            seeds=(1, 2, 3),
            split="validation",
            steps=5000,
            fit=_BATCHES,
            model=_ALL_LAYERS_BY_LETTER,
            adapter={**_RANK_8, "dropout": 0.0, "lr": 1e-4},
            weight_samples=10,
            deviations=(
                "base: weights are in bfloat16 or float32, not in 8 bits",
                *_PUBLISHED_TRAINING,
            ),
            task_deviations={
                **dict.fromkeys(
                    ("arc-challenge", "arc-easy"),
                    "ARC: 5 classes as published, but letters that a row lacks are masked",
                ),
                "boolq": "BoolQ: passages are cut to max_length tokens, not to 1,024 characters; "
                "the answers are the letters A and B, not the words True and False",
            },
        ),
        Protocol(
            "laplace-lora",
            seeds=(21, 42, 87),
            split="validation",
            steps=10_000,
            fit=_BATCHES,
            model=_ALL_LAYERS_BY_LETTER,
            adapter={**_RANK_8, "dropout": 0.1, "lr": 5e-5},
            logit_samples=100_000,
            num_choices={"arc-challenge": 4, "arc-easy": 4},
            deviations=(
                "base: weights are in bfloat16 or float32, not in 8 bits",
                *_PUBLISHED_TRAINING,
                "max_length: 300, as in blob; the published value is not known",
            ),
        ),
        Protocol(
            "bag",
            seeds=(0, 1, 2, 3),
            ood_audit="redux_error_type",
            model={"format": "letters"},
            deviations=(
                "training: published per method; here the defaults of fit",
                "OOD: published on five subjects of MMLU-redux, filtered for errors; here the "
                "sets that the grid names, or those of the task",
                "prompt: ours, not the published string; its hash is in the record",
            ),
        ),
    )
}
"""All protocols by name."""
