"""The demo: a real language model on real text, six methods side by side.

SmolLM2-135M sorts newsgroup posts into eight groups after fine-tuning on 640 of them. Posts of four
unseen groups are near, newswire is far out-of-distribution data.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from bayeslora.adapters.config import LoRA, PoLAR
from bayeslora.backbones.depth import read_as_asked, recorded_reading
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.checkpoint import library_versions
from bayeslora.experiments.data import ExperimentData, newsgroups
from bayeslora.experiments.evaluation import TEST, TRAIN, VALIDATION, Evaluation, Outcome
from bayeslora.experiments.fits import FitSpec, fresh_network
from bayeslora.posteriors.config import (
    MLE,
    VBLL,
    Ensemble,
    Laplace,
    MCDropout,
    TemperatureScaling,
)
from bayeslora.predictions.record import Predictions
from bayeslora.training.card import shown_value
from bayeslora.training.fit import train_network
from bayeslora.training.members import member_seeds
from bayeslora.training.progress import progress_bar, quiet_transformers
from bayeslora.training.settings import TrainingSettings

BACKBONE = "smollm2-135m"
MAX_LENGTH = 38  # 32 of the text and the template
BATCH_SIZE = 8
# Chosen on the validation rows by `benchmarks/demo_rates.py`, for both adapters alike.
LORA_LR, LORA_HEAD_LR = 3e-3, 0.1
POLAR_LR = 4e-3
# In so few steps a head that is refitted keeps up better than one that takes gradient steps.
POLAR_HEAD = VBLL(bound="knowles_minka", head_step="refit", training_covariance="dense")
EPOCHS = 3
DROPOUT = 0.1
NUM_MEMBERS = 3
NUM_PASSES = 5

State = dict[str, Tensor]


@dataclass(frozen=True)
class DemoRun:
    """What the demo measured.

    Attributes:
        test: Predictions of the in-distribution test rows, one item a method.
        ood: By method, then by name of the out-of-distribution set.
        provenance: What was run: data, sizes, versions, settings.
    """

    test: list[Predictions]
    ood: dict[str, dict[str, Predictions]]
    provenance: dict[str, str | Mapping[str, str]]


def run_demo(*, seed: int = 0, progress: bool = True) -> DemoRun:
    """Fit and predict with every method; three to five minutes on two idle cores.

    Args:
        seed: Decides starts, order and draws.
        progress: Whether to show bars on stderr.

    Raises:
        MissingAssetError: The embedded model or the data is not installed.
    """
    began = time.monotonic()
    data = demo_data()
    with quiet_transformers():
        backbone = demo_backbone()
        outcomes = {
            **_lora_methods(backbone, data, seed, progress),
            **_polar_vbll(backbone, data, seed, progress),
        }
    return DemoRun(
        # The texts are public, and the report shows those that were answered most wrongly.
        [
            outcome.predictions[TEST].replace(columns={"text": data.test.texts})
            for outcome in outcomes.values()
        ],
        {
            name: {split: outcome.predictions[split] for split in data.ood}
            for name, outcome in outcomes.items()
        },
        _provenance(data, outcomes, backbone, seed, time.monotonic() - began),
    )


def demo_backbone() -> Backbone:
    """Return the backbone, which reads texts as `fit` lets it by default.

    Raises:
        MissingAssetError: The embedded model is not installed.
    """
    _, backbone = read_as_asked(load_backbone(BACKBONE), None, None, max_length=MAX_LENGTH)
    return backbone


def demo_data() -> ExperimentData:
    """Return the demo's rows."""
    return newsgroups(num_validation=200, num_test=360, num_ood=180)


def lora_spec(seed: int) -> FitSpec:
    """Return the fit behind the LoRA methods."""
    adapter = LoRA(dropout=DROPOUT, lr=LORA_LR)
    return FitSpec(adapter, MLE(), EPOCHS, seed, MAX_LENGTH, LORA_HEAD_LR)


def polar_spec(seed: int) -> FitSpec:
    """Return the fit of PoLAR-VBLL."""
    return FitSpec(PoLAR(lr=POLAR_LR), POLAR_HEAD, EPOCHS, seed, MAX_LENGTH)


def _lora_methods(
    backbone: Backbone, data: ExperimentData, seed: int, progress: bool
) -> dict[str, Outcome]:
    """Return all methods that are built on plain LoRA fits."""
    spec = lora_spec(seed)
    lab = Evaluation(backbone, spec, data)
    lab.prepare(progress=progress)
    seeds = member_seeds(Ensemble(num_members=NUM_MEMBERS), seed)
    states = [
        fit_best_epoch(
            lab,
            backbone,
            replace(spec, seed=one),
            title=f"fit LoRA {place} of {NUM_MEMBERS}" if progress else None,
        )
        for place, one in enumerate(seeds, 1)
    ]
    splits = [TRAIN, VALIDATION, *lab.scored]
    found = [lab.features(state, splits) for state in states]
    first, rows = states[0], found[0]
    outcomes = {
        "lora-mle": lab.last_layer("lora-mle", first, rows, None),
        "lora-temperature": lab.last_layer("lora-temperature", first, rows, TemperatureScaling()),
        "lora-laplace": lab.last_layer("lora-laplace", first, rows, Laplace()),
    }
    config = MCDropout(p=DROPOUT, num_samples=NUM_PASSES)
    total = config.num_samples * sum(len(lab.rows[split]) for split in lab.scored)
    with progress_bar("MC dropout", total, shown=progress, unit="text") as advance:
        outcomes["lora-mc-dropout"] = lab.dropout("lora-mc-dropout", first, config, advance)
    members = list(zip(states, found, strict=True))
    outcomes["lora-ensemble"] = lab.ensemble("lora-ensemble", members)
    return outcomes


def _polar_vbll(
    backbone: Backbone, data: ExperimentData, seed: int, progress: bool
) -> dict[str, Outcome]:
    """Return PoLAR with the variational last layer."""
    name = "polar-vbll"
    spec = polar_spec(seed)
    lab = Evaluation(backbone, spec, data)
    state = fit_best_epoch(lab, backbone, spec, title=f"fit {name}" if progress else None)
    found = lab.features(state, [TRAIN, VALIDATION, *lab.scored])
    return {name: lab.last_layer(name, state, found, VBLL())}


def fit_best_epoch(
    lab: Evaluation, backbone: Backbone, spec: FitSpec, *, title: str | None = None
) -> State:
    """Return the tensors of the epoch with the best validation NLL.

    Args:
        lab: Holds the rows.
        backbone: Loaded.
        spec: What to fit.
        title: Of a progress bar; None shows none.
    """
    network = fresh_network(backbone, spec, len(lab.data.classes))
    with tempfile.TemporaryDirectory(prefix="bayeslora-demo-") as folder:
        train_network(
            network,
            lab.texts(TRAIN),
            lab.texts(VALIDATION),
            adapter=spec.adapter,
            posterior=spec.posterior,
            settings=TrainingSettings(
                epochs=spec.epochs,
                batch_size=BATCH_SIZE,
                head_lr=spec.head_lr,
                seed=spec.seed,
            ),
            directory=Path(folder),
            fit_last=False,
            description=title,
        )
    return network.trained_state()


def _provenance(
    data: ExperimentData,
    outcomes: Mapping[str, Outcome],
    backbone: Backbone,
    seed: int,
    seconds: float,
) -> dict[str, str | Mapping[str, str]]:
    rows = {
        "training rows": data.train,
        "validation rows": data.validation,
        "test rows": data.test,
        **{f"{name} OOD rows": item for name, item in data.ood.items()},
    }
    chosen = {
        name: ", ".join(
            f"{key.replace('_', ' ')} {shown_value(value)}" for key, value in outcome.report.items()
        )
        for name, outcome in outcomes.items()
        if outcome.report
    }
    return {
        "data": {
            "in distribution": f"20 Newsgroups, {len(data.classes)} groups",
            **data.about,
            **{name: str(len(item)) for name, item in rows.items()},
        },
        "model": {
            "backbone": BACKBONE,
            **{name: str(value) for name, value in recorded_reading(backbone).items()},
            "adapters": f"LoRA and PoLAR, r = 8, on the last {LoRA().num_layers} layers",
            "tokens": f"at most {MAX_LENGTH} a text",
            "epochs": f"at most {EPOCHS} of batches of {BATCH_SIZE}, the best by validation NLL",
            "learning rates": f"LoRA {LORA_LR:g}, its head {LORA_HEAD_LR:g}; PoLAR {POLAR_LR:g}, "
            f"its head refitted {POLAR_HEAD.refits_per_epoch} times an epoch; "
            "chosen on the validation rows",
            "LoRA dropout": f"{DROPOUT:g}; MC dropout {NUM_PASSES} passes",
            "ensemble": f"{NUM_MEMBERS} members",
        },
        "chosen by the posteriors": chosen,
        "versions": library_versions(),
        "seed": str(seed),
        "seconds": f"{seconds:.0f}",
    }
