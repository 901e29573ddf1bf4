"""Last layers on frozen features: where training starts, what a fit has to beat, which backbone."""

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tiny import tiny_llama, toy_rows

from bayeslora.backbones import embedded
from bayeslora.backbones.load import load_backbone
from bayeslora.classifier import BayesianClassifier
from bayeslora.data.read import read
from bayeslora.engine import baselines, choose_backbone, cross_validation
from bayeslora.engine.ensemble import Part
from bayeslora.engine.training.starts import (
    SCALES,
    LinearProbe,
    LinearProbes,
    best_prior_scale,
)
from bayeslora.engine.training_options import STAGES
from bayeslora.errors import InputError, MissingAssetError
from bayeslora.posteriors.features import Features


def blobs(classes, per_class, spread, size=12, seed=0):
    """Return rows around a random mean for each class."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(classes, size, generator=generator)
    labels = torch.arange(classes).repeat_interleave(per_class)
    noise = spread * torch.randn(len(labels), size, generator=generator)
    values = means[labels] + noise
    return Features(values / values.square().sum(1).mean().sqrt(), labels)


def nll(rows, weight):
    return float(torch.nn.functional.cross_entropy(rows.double().logits(weight), rows.targets))


@pytest.mark.parametrize(("classes", "per_class"), [(2, 40), (6, 8), (20, 8), (77, 8)])
def test_training_starts_at_half_the_entropy_however_many_the_classes(classes, per_class):
    rows = blobs(classes, per_class, 0.3)
    head = LinearProbe.fitted(rows, classes, seed=0)
    # Three bisections leave a factor of 2^(1/8) in τ.
    assert 0.5 <= nll(rows, head.start) / math.log(classes) <= 0.62
    assert nll(rows, head.weight) < nll(rows, head.start)


def test_labels_that_cannot_be_told_apart_start_near_zero():
    """Held-out rows keep τ small, although the features could memorise the training rows."""
    rows = blobs(2, 60, 0.3, size=80)
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(rows.targets.numpy()))
    head = LinearProbe.fitted(Features(rows.values, shuffled), 2, seed=0)
    assert head.prior_scale <= 0.5
    assert nll(Features(rows.values, shuffled), head.start) > 0.6


def test_the_weights_are_those_of_another_optimiser():
    rows = blobs(3, 15, 0.8, size=4)
    head = LinearProbe.fitted(rows, 3, seed=0)
    values, labels = rows.values.double().numpy(), rows.targets.numpy()
    precision = float((values**2).sum(1).mean()) / head.prior_scale**2

    def loss(flat):
        weight = flat.reshape(3, 4)
        logits = values @ weight.T
        fit = logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]
        return fit.sum() + 0.5 * precision * (weight**2).sum()

    expected = minimize(loss, np.zeros(12), method="BFGS", options={"gtol": 1e-8}).x
    # L-BFGS stops at a gradient of 1e-7 per row.
    np.testing.assert_allclose(head.weight.numpy().ravel(), expected, atol=1e-4)


def test_a_prior_mean_is_where_a_narrow_prior_stays():
    rows = blobs(3, 4, 3.0)
    centre = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    centred = LinearProbe.fitted(rows, 3, seed=0, prior_mean=100 * centre)
    assert float((centred.start - 100 * centre).norm()) < 0.2 * float(centred.start.norm())


@given(st.integers(2, 5), st.integers(1, 12), st.integers(0, 5))
def test_any_rows_have_a_start(classes, count, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    rows = Features(torch.randn(count, 6, generator=generator), labels)
    head = LinearProbe.fitted(rows, classes, seed)
    assert head.prior_scale in SCALES
    assert bool(head.start.isfinite().all())
    assert nll(rows, head.start) <= math.log(classes) + 1e-9


def test_more_folds_hold_out_all_rows():
    rows = blobs(4, 20, 0.5).double()
    losses = [best_prior_scale(rows, 4, seed, folds=5)[1] for seed in range(3)]
    assert max(losses) - min(losses) < 0.1
    assert max(losses) < math.log(4)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("frozen") / "llama"))


def fitted(backbone, adapter, rows, **options):
    clf = BayesianClassifier(backbone, adapter, "mle", dtype="float32", progress=False)
    return clf.fit(rows, batch_size=8, **options)


def test_features_are_computed_once_for_all_networks(world, monkeypatch):
    computed, begin = [], LinearProbes.begin

    def watched(self, network, **options):
        computed.append(self.features is None)
        begin(self, network, **options)

    monkeypatch.setattr(LinearProbes, "begin", watched)
    fitted(world, "lora:r=2", toy_rows(24), cv=3, epochs=1)
    assert computed == [True, False, False]


def test_one_stage_is_chosen_on_the_rows_of_all_folds(world, monkeypatch):
    """The oracle scores the stages in another way: factors on a grid, in numpy."""
    chosen, by_stage = [], cross_validation._by_stage
    rows = toy_rows(24)

    def watched(fits, network, train, parts):
        unseen = [train[0].take(part.unseen.tolist()) for part in parts]
        factors = np.geomspace(1 / 8, 8, 200)
        losses = []
        for stage in range(3):
            logits, labels = [], []
            for (result,), part, examples in zip(fits, parts, unseen, strict=True):
                network.load_trained_state(result.stages[stage])
                texts = network.encoder.prepare(examples.texts)
                features = network.scaled(network.encoder.features(texts)).values
                logits.append((features @ result.stages[stage]["head.weight"].T).numpy())
                labels.append(train[1][part.unseen].numpy())
            scaled = factors[:, None, None] * np.concatenate(logits)
            scaled -= logsumexp(scaled, axis=-1, keepdims=True)
            nll = -scaled[:, np.arange(len(rows)), np.concatenate(labels)].sum(1)
            at = (nll + 0.5 * (np.log(factors) / 0.7) ** 2).argmin()
            losses.append(nll[at])
        assert max(losses) > 1.01 * min(losses)
        chosen.append(int(np.argmin(losses)))
        return by_stage(fits, network, train, parts)

    monkeypatch.setattr(cross_validation, "_by_stage", watched)
    clf = fitted(world, "lora:r=2", rows, cv=2)
    epochs = clf.record.results["epochs"]
    assert [*map(int, epochs)] == [round(clf.record.training["epochs"] * s) for s in STAGES]
    assert [*epochs.values()].index(min(epochs.values())) == chosen[0]
    assert "stages" not in clf.record.results


@pytest.mark.parametrize(("probe", "words", "warns"), [(0, 0, 0), (9, 0, 1), (0, 9, 1), (9, 9, 1)])
def test_a_fit_that_is_no_better_than_cheaper_models_says_so(
    monkeypatch, caplog, probe, words, warns
):
    """`probe` and `words` are the factors of the right logits; 0 leaves a uniform answer."""
    labels = torch.tensor([0, 1] * 10)
    right = torch.nn.functional.one_hot(labels, 2).double()
    part = Part(np.arange(10), "without-0", "", np.arange(10, 20))
    probes = LinearProbes(answers={"without-0": probe * right})
    monkeypatch.setattr(baselines, "bag_of_words", lambda *_: words * right[10:])
    with caplog.at_level(logging.WARNING):
        scores = baselines.baselines((None, labels), [part], probes, own=0.1)
    assert len(caplog.records) == warns
    assert set(scores) == {"linear_probe", "bag_of_words"}
    expected = 0.0 if probe else math.log(2)
    assert scores["linear_probe"] == pytest.approx(expected, abs=1e-3)


def test_a_bag_of_words_has_seen_the_rows_of_its_part_alone():
    """The oracle is scikit-learn on these rows; a class that they lack is very unlikely."""
    rows = read(
        [{"text": row["text"], "label": row["label"]} for row in toy_rows(40)]
        + [{"text": "alone here", "label": "zebra"}]
    )
    names = sorted({*rows.labels})
    labels = torch.tensor([names.index(label) for label in rows.labels])
    part = Part(np.arange(30), "", "", np.arange(30, 41))
    logits = baselines.bag_of_words((rows, labels), part)
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    model = LogisticRegression(C=10.0, max_iter=200).fit(
        words.fit_transform(rows.texts[:30]), labels[:30]
    )
    expected = model.predict_proba(words.transform(rows.texts[30:]))
    np.testing.assert_allclose(logits[:, :-1].exp(), expected, atol=1e-9)
    assert bool((logits[:, -1].exp() < 1e-5).all())


def test_no_bag_of_words_for_texts_without_words():
    rows = read([{"text": f"{n} !", "label": "ab"[n % 2]} for n in range(8)])
    part = Part(np.arange(6), "", "", np.arange(6, 8))
    assert baselines.bag_of_words((rows, torch.tensor([0, 1] * 4)), part) is None


def test_scores_of_cheaper_models_are_recorded_and_travel_with_predictions(world):
    rows = [
        {"text": f"{row['text']} {number}", "label": row["label"]}
        for number, row in enumerate(toy_rows(24))
    ]
    clf = fitted(world, "lora:r=2", rows, cv=2, epochs=1)
    cheaper = clf.record.results["baselines"]
    assert set(cheaper) == {"linear_probe", "bag_of_words"}
    shown = clf.predict(toy_rows(3)).metadata["held_out_nll"]
    for value in (*cheaper.values(), clf.record.results["logit_scale"]["nll"]):
        assert f"{value:.3f}" in shown


def test_auto_takes_the_backbone_whose_features_tell_classes_apart(world, monkeypatch):
    """Two tiny backbones; the features of one carry no label."""
    models = {
        name: embedded.EmbeddedModel("none", "none", "file", "", name, kind)
        for name, kind in (("good", "decoder"), ("blind", "decoder"), ("eyes", "vision"))
    }
    monkeypatch.setattr(choose_backbone, "EMBEDDED_MODELS", models)
    monkeypatch.setattr(choose_backbone, "installed_file", lambda name: name)
    features = choose_backbone.feature_rows

    def load(self, name=None):
        assert name in {"good", "blind"}
        return replace(load_backbone(world, dtype="float32"), name=name)

    def seen(network, texts):
        rows = features(network, texts)
        if network.encoder.backbone.name != "blind":
            return rows
        return Features(torch.ones_like(rows.values), rows.labels)

    monkeypatch.setattr(BayesianClassifier, "_load_backbone", load)
    monkeypatch.setattr(choose_backbone, "feature_rows", seen)
    clf = BayesianClassifier("auto", "lora:r=2", "mle", dtype="float32", progress=False)
    clf.fit(toy_rows(30), epochs=1, cv=0)
    assert clf.record.backbone["name"] == "good"


def test_auto_leaves_out_what_cannot_read_the_rows(world, monkeypatch, caplog):
    """A package without a reader of its format, and an encoder where words are asked for."""
    models = {
        name: embedded.EmbeddedModel("none", "none", "file", "", name, kind)
        for name, kind in (("good", "decoder"), ("unreadable", "decoder"), ("encoder", "encoder"))
    }
    monkeypatch.setattr(choose_backbone, "EMBEDDED_MODELS", models)
    monkeypatch.setattr(choose_backbone, "installed_file", lambda name: name)

    def load(self, name=None):
        if name == "unreadable":
            raise MissingAssetError("no reader")
        assert name == "good"
        return load_backbone(world, dtype="float32")

    monkeypatch.setattr(BayesianClassifier, "_load_backbone", load)
    clf = BayesianClassifier(
        "auto", "none", "mle", verbaliser="names", dtype="float32", progress=False
    )
    clf.fit(toy_rows(30))
    assert clf.record.backbone["name"] == world
    assert any("unreadable" in record.getMessage() for record in caplog.records)


def test_where_no_row_can_be_held_out_the_epochs_are_those_without_folds(world):
    rows = [{"text": row["text"], "label": str(n)} for n, row in enumerate(toy_rows(8))]
    clf = fitted(world, "lora:r=2", rows, cv="auto")
    plain = fitted(world, "lora:r=2", rows)
    assert clf.record.training["epochs"] == plain.record.training["epochs"]
    assert not clf.record.training["choose_epochs"]


def test_auto_needs_rows_and_something_installed(monkeypatch):
    monkeypatch.setattr(choose_backbone, "installed_file", lambda name: None)
    with pytest.raises(MissingAssetError):
        BayesianClassifier("auto", progress=False).fit(toy_rows(24))
    with pytest.raises(InputError):
        BayesianClassifier("auto", progress=False).zero_shot(["good", "bad"])
