"""No adapter: last layers on frozen features, at the optimum of their own objective."""

import numpy as np
import pytest
import torch
from refusal import refused
from sklearn.linear_model import LogisticRegression
from tiny import toy_rows

from bayeslora.classifier import BayesianClassifier
from bayeslora.posteriors.last_layer.vbll.final import WIDE_PRIOR_SCALE, Polisher

ROWS, HELD = toy_rows(60), toy_rows(30, seed=3)


def fitted(backbone, posterior="vbll", adapter="none", validation=None, fit=None, **options):
    options = {"dtype": "float32", "progress": False, **options}
    clf = BayesianClassifier(backbone, adapter, posterior, **options)
    return clf.fit(ROWS, validation, **(fit or {}))


def test_few_rows_choose_a_wide_prior_by_cross_validation(backbones, monkeypatch):
    def scale(posterior="vbll", **options):
        results = fitted(backbones["llama"], posterior, **options).record.results
        return results["posterior"]["prior_scale"]

    assert scale() == pytest.approx(scale("vbll:prior_scale=cross-validation"))
    assert fitted(backbones["llama"]).record.posterior["prior_scale"] == "auto"
    empirical = scale("vbll:prior_scale=empirical-bayes")
    # Not with held-out rows, with an adapter or with many rows.
    monkeypatch.setattr(Polisher, "_wide_is_better", lambda _: True)
    assert scale() == pytest.approx(WIDE_PRIOR_SCALE) != pytest.approx(empirical, rel=1e-3)
    assert scale(validation=HELD) == pytest.approx(empirical)
    behind = scale(adapter="lora", fit={"epochs": 1})
    assert behind != pytest.approx(WIDE_PRIOR_SCALE, rel=1e-3)
    monkeypatch.setattr("bayeslora.posteriors.last_layer.vbll.FEW_ROWS", len(ROWS) - 1)
    assert scale() == pytest.approx(empirical)


def test_map_is_the_optimum_that_another_library_finds(backbones):
    clf = fitted(backbones["bert"], "map:prior_scale=1.5")
    network = clf.network
    texts = network.encoder.prepare([row["text"] for row in ROWS])
    features = network.scaled(network.encoder.features(texts)).values.double().numpy()
    labels = [row["label"] for row in ROWS]
    other = LogisticRegression(C=1.5**2, fit_intercept=False, tol=1e-10, max_iter=10_000)
    expected = other.fit(features, labels).predict_proba(features)
    np.testing.assert_allclose(clf.predict(ROWS).probs, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "template", "adapter", "pooling"),
    [
        ("llama", None, "none", "mean"),
        ("llama", "{text} is", "none", "last"),
        ("llama", "{text} is", "none:pooling=mean", "mean"),
        ("llama", None, "none:pooling=last", "last"),
        ("bert", "{text} is", "none", "mean"),
        ("bert", None, "none:pooling=last", "last"),
    ],
)
def test_the_feature_is_the_state_that_is_asked_for(backbones, kind, template, adapter, pooling):
    clf = fitted(backbones[kind], "map", adapter, template=template or "{text}", depth=1.0)
    encoder = clf.network.encoder
    text = "the cat" if template is None else "the cat is"
    tokens = encoder.backbone.tokenizer([text], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        states = encoder.model(input_ids=tokens).last_hidden_state[0]
    expected = states[-1] if pooling == "last" else states.mean(0)
    features = encoder.features(encoder.prepare(["the cat"]))[0]
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def test_the_backbone_runs_once_for_each_text(backbones, monkeypatch):
    from bayeslora.backbones.encoder import Encoder

    seen = []
    known = Encoder.forward

    def forward(self, batch):
        seen.append(len(batch["input_ids"]))
        return known(self, batch)

    monkeypatch.setattr(Encoder, "forward", forward)
    fitted(backbones["llama"], validation=HELD)
    # Held-out rows are predicted once more to report their scores.
    assert sum(seen) == len(ROWS) + 2 * len(HELD)


IDLE = {"epochs": 3, "batch_size": 8, "head_lr": 0.1}


@pytest.mark.parametrize("option", IDLE)
def test_options_of_training_are_refused(backbones, option):
    with refused("no-effect") as caught:
        fitted(backbones["llama"], "map", fit={option: IDLE[option]})
    assert caught.value.options[0] == option
