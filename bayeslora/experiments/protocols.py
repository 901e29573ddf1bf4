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
        hold_out: Share of the training rows that select epoch, prior and scale; 0 for none.
        draws_rows: Whether the grid sets a number of labelled rows that each seed draws.
        steps: Optimiser steps; None leaves the length of the training to `fit`.
        batch_size: Rows per step; None uses the default of `fit`.
        max_length: Maximum tokens per text; None uses the default.
        adapter: Options of the adapter, as far as it has them.
        all_layers: Whether every layer of the backbone is used and adapted.
        num_bins: Bins of the expected calibration error.
        weight_samples: Forward passes of a posterior that draws weights; None uses its default.
        logit_samples: Draws of a posterior with Gaussian logits; None uses its default.
        num_choices: Options per question by task; rows with another number are dropped.
        ood_audit: Column with an audit's verdicts; out-of-distribution sets that have it are
            filtered to rows marked OK. None uses all rows.
        format: Format of multiple-choice questions; None uses the default of `fit`.
        deviations: Settings of the published protocol that `fit` cannot express.
        task_deviations: Further deviation of a task, by its name.
    """

    name: str
    seeds: tuple[int, ...]
    split: str = "test"
    hold_out: float = 0.0
    draws_rows: bool = False
    steps: int | None = None
    batch_size: int | None = None
    max_length: int | None = None
    adapter: Mapping[str, Any] = field(default_factory=dict)
    all_layers: bool = False
    num_bins: int = NUM_BINS
    weight_samples: int | None = None
    logit_samples: int | None = None
    num_choices: Mapping[str, int] = field(default_factory=dict)
    ood_audit: str | None = None
    format: str | None = None
    deviations: tuple[str, ...] = ()
    task_deviations: Mapping[str, str] = field(default_factory=dict)

    def described(self) -> str:
        """Return the settings in one line, for tables."""
        held_out = f"{self.hold_out:.0%} of train" if self.hold_out else "nothing"
        settings = {
            "steps": self.steps,
            "batch size": self.batch_size,
            "max_length": self.max_length,
            **self.adapter,
            "draws of weights": self.weight_samples,
            "draws of logits": self.logit_samples,
            "format": self.format,
            **{f"options of {task}": count for task, count in self.num_choices.items()},
            "OOD rows": self.ood_audit and f"{self.ood_audit} is OK",
        }
        return ", ".join(
            [
                f"reported on {self.split}",
                f"{held_out} held out for selection",
                "labelled rows drawn per seed" if self.draws_rows else "all training rows",
                *(f"{name} = {value}" for name, value in settings.items() if value is not None),
                *(["query and value projections of all layers"] if self.all_layers else []),
                f"ECE with {self.num_bins} bins",
            ]
        )


_PUBLISHED_TRAINING = (
    "lm_head: published adapters are on q, v and lm_head; here the last layer is the posterior's "
    "and carries none",
    "learning rate: falls as a cosine after a warm-up of 3 % of the steps",
    "last layer: trained in alternation with the adapter, at its own rate",
    "batches: of rows of similar length; gradients are clipped at norm 1",
    "prompt: ours, not the published string; its hash is in the record",
)

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "bayeslora",
            seeds=(0, 1, 2, 3, 4),
            hold_out=0.2,
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
            batch_size=4,
            max_length=300,
            adapter={"r": 8, "alpha": 16.0, "dropout": 0.0, "lr": 1e-4},
            all_layers=True,
            weight_samples=10,
            format="letters",
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
            batch_size=4,
            max_length=300,
            adapter={"r": 8, "alpha": 16.0, "dropout": 0.1, "lr": 5e-5},
            all_layers=True,
            logit_samples=100_000,
            num_choices={"arc-challenge": 4, "arc-easy": 4},
            format="letters",
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
            format="letters",
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
