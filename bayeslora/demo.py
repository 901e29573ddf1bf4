"""The demo: one labelled file of real text, a real language model, six methods side by side.

Every method uses the same 320 newsgroup posts of eight groups and the defaults of `fit`; a method
that needs held-out rows takes them from these posts. A bag of words of the same tokens shows what a
language model adds. Posts of four unseen groups are near, newswire
is far out-of-distribution data. The design was fixed before any result was seen; nothing was tuned
on the results.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.polar import PoLAR
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.checkpoint import library_versions
from bayeslora.classifier import BayesianClassifier
from bayeslora.data.examples import Examples
from bayeslora.data.newsgroups import IN_DISTRIBUTION, NEAR, NewsgroupsDemo, load_newsgroups
from bayeslora.engine.cross_validation import tfidf
from bayeslora.engine.progress import each_note_once
from bayeslora.posteriors.last_layer.laplace import Laplace
from bayeslora.posteriors.last_layer.vbll import VBLL
from bayeslora.posteriors.point import MLE, Ensemble
from bayeslora.posteriors.weights.mc_dropout import MCDropout
from bayeslora.predictions.record import Predictions

logger = logging.getLogger(__name__)

BACKBONE = "minilm"
NUM_TRAIN, NUM_TEST, NUM_OOD = 320, 360, 180
MAX_LENGTH = 34
"""32 tokens per text, and two that mark its ends."""
NUM_MEMBERS, NUM_PASSES = 3, 5


METHODS: Mapping[str, tuple[LoRA | PoLAR, Any, dict[str, Any]]] = {
    "lora-mle": (LoRA(), MLE(), {}),
    # A scale of the logits, the inverse of a temperature, by cross-validation.
    "lora-temperature": (LoRA(), MLE(), {"cv": "auto"}),
    # There are no validation rows for choosing the prior.
    "lora-laplace": (LoRA(), Laplace(prior_precision="marglik"), {}),
    "lora-mc-dropout": (LoRA(), MCDropout(num_samples=NUM_PASSES), {}),
    "lora-ensemble": (LoRA(), Ensemble(num_members=NUM_MEMBERS), {}),
    "polar-vbll": (PoLAR(), VBLL(), {}),
}
"""Adapter, posterior and options of `fit` by name."""
BASELINE = "bag-of-words"


Provenance = dict[str, str | Mapping[str, str]]


def run_demo(
    *, seed: int = 0, progress: bool = True
) -> tuple[list[Predictions], dict[str, dict[str, Predictions]], Provenance]:
    """Fit and predict with every method; about three minutes on two idle cores.

    Args:
        seed: Seed of initialisation, row order and draws.
        progress: Whether to show progress bars on stderr.

    Returns:
        Predictions on the in-distribution test rows, one per method; predictions by method, then by
        name of the out-of-distribution set; and data, sizes, versions and settings of the run.

    Raises:
        MissingAssetError: The embedded model or the data is not installed.
    """
    began = time.monotonic()
    posts = load_newsgroups(
        num_train=NUM_TRAIN, num_validation=0, num_test=NUM_TEST, num_near=NUM_OOD, num_far=NUM_OOD
    )
    backbone = load_backbone(BACKBONE)
    test: list[Predictions] = []
    ood: dict[str, dict[str, Predictions]] = {}
    with each_note_once("bayeslora.engine.data", "bayeslora.engine.network"):
        for index, (name, (adapter, posterior, options)) in enumerate(METHODS.items(), 1):
            logger.info("%d of %d: %s", index, len(METHODS), name)
            common: Any = {"seed": seed, "max_length": MAX_LENGTH, "progress": progress}
            clf = BayesianClassifier(backbone, adapter, posterior, **common)
            clf.fit(posts.train, **options)
            # The report shows the texts with the largest errors; all of them are public.
            test.append(
                clf.predict(posts.test).replace(name=name, columns={"text": posts.test.texts})
            )
            ood[name] = {
                kind: clf.predict(list(rows.texts)).replace(name=name)
                for kind, rows in (("near", posts.near), ("far", posts.far))
            }
    baseline, near, far = _bag_of_words(posts, backbone)
    test.append(baseline)
    ood[BASELINE] = {"near": near, "far": far}
    seconds = time.monotonic() - began
    return test, ood, _provenance(posts, seed, seconds)


def _bag_of_words(posts: NewsgroupsDemo, backbone: Backbone) -> Iterator[Predictions]:
    """Yield what a bag of words of the same tokens predicts for the test, near and far posts."""
    from sklearn.model_selection import GridSearchCV

    def cut(rows: Examples) -> Any:
        read = backbone.tokenizer(list(rows.texts), truncation=True, max_length=MAX_LENGTH)
        return backbone.tokenizer.batch_decode(read.input_ids, skip_special_tokens=True)

    grid = {"logisticregression__C": [1.0, 10.0, 100.0, 1000.0]}
    model = GridSearchCV(tfidf(), grid, scoring="neg_log_loss")
    model.fit(cut(posts.train), posts.train.labels)
    for rows in (posts.test, posts.near, posts.far):
        labels = rows.labels if rows is posts.test else None
        probs, classes = model.predict_proba(cut(rows)), model.classes_
        made = Predictions.from_arrays(probs, labels, classes=classes, ids=rows.ids, name=BASELINE)
        yield made.replace(columns={"text": rows.texts})


def _provenance(posts: NewsgroupsDemo, seed: int, seconds: float) -> Provenance:
    return {
        "data": {
            "in distribution": f"20 Newsgroups, {len(IN_DISTRIBUTION)} groups",
            "near": f"posts of unseen groups: {', '.join(NEAR)}",
            "far": "Reuters newswire",
            "training rows": str(len(posts.train)),
            "test rows": str(len(posts.test)),
            "near OOD rows": str(len(posts.near)),
            "far OOD rows": str(len(posts.far)),
        },
        "model": {
            "backbone": BACKBONE,
            "tokens": f"at most {MAX_LENGTH} per text",
            "options": "defaults of `fit`",
            "MC dropout": f"{NUM_PASSES} passes",
            "ensemble": f"{NUM_MEMBERS} members",
            BASELINE: "logistic regression on TF-IDF of the same tokens, C by cross-validation",
        },
        "versions": library_versions(),
        "seed": str(seed),
        "seconds": f"{seconds:.0f}",
    }
