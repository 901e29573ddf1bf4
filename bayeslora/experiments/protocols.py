"""Evaluation protocols by name: training, its length, and the reported rows.

A protocol is one entry of `protocols.yaml`. Settings of a published protocol that `fit` cannot
express are listed in `deviations`, which are in the record of every cell and above its tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from bayeslora.io.files import read_yaml
from bayeslora.metrics.calibration import NUM_BINS


class Protocol(BaseModel):
    """How the cells of a grid are trained and scored.

    Attributes:
        seeds: Default seeds.
        split: The reported split: `test` or `validation`.
        draws_rows: Whether the grid sets a number of labelled rows that each seed draws.
        steps: Optimiser steps; None leaves the length of the training to `fit`.
        fit: Options of `fit`.
        model: Options of `BayesianClassifier`; `format` is of questions alone.
        adapter: Options of the adapter, as far as it has them.
        weight_samples: Forward passes of a posterior that draws weights; None uses its default.
        logit_samples: Draws of a posterior with Gaussian logits; None uses its default.
        num_choices: Options per question by task; rows with another number are dropped.
        ood_audit: Column with an audit's verdicts; out-of-distribution sets that have it are
            filtered to rows marked OK. None uses all rows.
        deviations: Settings of the published protocol that `fit` cannot express.
        task_deviations: Further deviation of a task, by its name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seeds: tuple[int, ...]
    split: str = "test"
    draws_rows: bool = False
    steps: int | None = None
    fit: Mapping[str, Any] = {}
    model: Mapping[str, Any] = {}
    adapter: Mapping[str, Any] = {}
    weight_samples: int | None = None
    logit_samples: int | None = None
    num_choices: Mapping[str, int] = {}
    ood_audit: str | None = None
    deviations: tuple[str, ...] = ()
    task_deviations: Mapping[str, str] = {}

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
        return ", ".join([f"reported on {self.split}", rows, *chosen, f"ECE with {NUM_BINS} bins"])


PROTOCOLS: Mapping[str, Protocol] = TypeAdapter(dict[str, Protocol]).validate_python(
    read_yaml(Path(__file__).with_suffix(".yaml"))
)
"""All protocols by name."""
