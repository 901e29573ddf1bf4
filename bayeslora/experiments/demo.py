"""The demo: one labelled file of real text, a real language model, six methods side by side.

Every method has the same 320 newsgroup posts of eight groups, and is fitted as `fit` does without
options: what a method needs in rows that it was not fitted to, it takes from these. Posts of four
unseen groups are near, newswire is far out-of-distribution data. The design was fixed before its
numbers were seen; nothing was tuned on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bayeslora.adapters.config import LoRA, PoLAR
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.checkpoint import ModelRecord, library_versions
from bayeslora.classifier import BayesianClassifier
from bayeslora.experiments.data import ExperimentData, newsgroups
from bayeslora.posteriors.config import MLE, VBLL, Ensemble, Laplace, MCDropout
from bayeslora.predictions.record import Predictions
from bayeslora.training.card import shown_value

BACKBONE = "smollm2-135m"
NUM_TRAIN, NUM_TEST, NUM_OOD = 320, 360, 180
MAX_LENGTH = 38
"""32 tokens of a text, and the template."""
NUM_MEMBERS, NUM_PASSES = 3, 5


@dataclass(frozen=True)
class Method:
    """An adapter with a posterior, and what `fit` is asked for beside them."""

    adapter: LoRA | PoLAR
    posterior: Any
    options: Mapping[str, Any] = field(default_factory=dict)


METHODS = {
    "lora-mle": Method(LoRA(), MLE()),
    # One factor of the logits by cross-validation: the inverse of a temperature.
    "lora-temperature": Method(LoRA(), MLE(), {"cv": "auto"}),
    # Without validation rows to choose its prior by.
    "lora-laplace": Method(LoRA(), Laplace(prior_precision="marglik")),
    "lora-mc-dropout": Method(LoRA(), MCDropout(num_samples=NUM_PASSES)),
    "lora-ensemble": Method(LoRA(), Ensemble(num_members=NUM_MEMBERS)),
    "polar-vbll": Method(PoLAR(), VBLL()),
}


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


def run_demo(
    *, seed: int = 0, progress: bool = True, say: Callable[[str], None] = print
) -> DemoRun:
    """Fit and predict with every method; four to six minutes on two idle cores.

    Args:
        seed: Decides starts, order and draws.
        progress: Whether to show bars on stderr.
        say: Called with the name of each method before it is fitted.

    Raises:
        MissingAssetError: The embedded model or the data is not installed.
    """
    began = time.monotonic()
    data = newsgroups(num_train=NUM_TRAIN, num_validation=0, num_test=NUM_TEST, num_ood=NUM_OOD)
    backbone = load_backbone(BACKBONE)
    test: list[Predictions] = []
    ood: dict[str, dict[str, Predictions]] = {}
    records: dict[str, ModelRecord] = {}
    for name, method in METHODS.items():
        say(name)
        clf = BayesianClassifier(
            backbone,
            method.adapter,
            method.posterior,
            seed=seed,
            max_length=MAX_LENGTH,
            progress=progress,
        )
        clf.fit(data.train, **method.options)
        # The texts are public, and the report shows those that were answered most wrongly.
        test.append(clf.predict(data.test).replace(name=name, columns={"text": data.test.texts}))
        ood[name] = {
            kind: clf.predict(rows, unknown_labels="ood").replace(name=name)
            for kind, rows in data.ood.items()
        }
        records[name] = clf.record
    seconds = time.monotonic() - began
    return DemoRun(test, ood, _provenance(data, records, backbone, seed, seconds))


def _provenance(
    data: ExperimentData,
    records: Mapping[str, ModelRecord],
    backbone: Backbone,
    seed: int,
    seconds: float,
) -> dict[str, str | Mapping[str, str]]:
    rows = {
        "training rows": data.train,
        "test rows": data.test,
        **{f"{name} OOD rows": item for name, item in data.ood.items()},
    }
    one = next(iter(records.values()))
    reading = {name: one.backbone[name] for name in ("depth", "template") if name in one.backbone}
    return {
        "data": {
            "in distribution": f"20 Newsgroups, {len(data.classes)} groups",
            **data.about,
            **{name: str(len(item)) for name, item in rows.items()},
        },
        "model": {
            "backbone": backbone.name,
            **{name: str(value) for name, value in reading.items()},
            "adapters": f"LoRA and PoLAR, r = {LoRA().r}, on the last {LoRA().num_layers} layers",
            "tokens": f"at most {MAX_LENGTH} a text",
            "options": "those of `fit` by default",
            "MC dropout": f"{NUM_PASSES} passes",
            "ensemble": f"{NUM_MEMBERS} members",
        },
        "fits": {name: _fits(record) for name, record in records.items()},
        "versions": library_versions(),
        "seed": str(seed),
        "seconds": f"{seconds:.0f}",
    }


def _fits(record: ModelRecord) -> str:
    """Return how a method was fitted, and what it chose."""
    scale: Mapping[str, Any] = record.results.get("logit_scale", {})
    count = record.num_members + scale.get("num_fits", 0)
    found = {"epochs": record.training["epochs"], **record.results["posterior"]}
    if scale:
        found["logits times"] = scale["factor"]
    chosen = ", ".join(
        f"{key.replace('_', ' ')} {shown_value(value)}" for key, value in found.items()
    )
    return f"{count} fit{'s' * (count > 1)}, {chosen}"
