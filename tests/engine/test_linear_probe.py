"""Last layers on frozen features: where training starts, what a fit has to beat, which backbone."""

import logging
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from tiny import toy_rows

from bayeslora.classifier import BayesianClassifier
from bayeslora.data.read import read
from bayeslora.engine import cross_validation
from bayeslora.engine.cross_validation import Fold
from bayeslora.engine.starts import LinearProbe, LinearProbes
from bayeslora.engine.training_options import STAGES
from bayeslora.posteriors.types import Features


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


def fitted(backbone, adapter, rows, **options):
    clf = BayesianClassifier(backbone, adapter, "mle", dtype="float32", progress=False)
    return clf.fit(rows, batch_size=8, **options)


def test_features_are_computed_once_for_all_networks(backbone, monkeypatch):
    computed, begin = [], LinearProbes.begin

    def watched(self, network, **options):
        computed.append(self.features is None)
        begin(self, network, **options)

    monkeypatch.setattr(LinearProbes, "begin", watched)
    fitted(backbone, "lora:r=2", toy_rows(24), cv=3, epochs=1)
    assert computed == [True, False, False]


def test_one_stage_is_chosen_on_the_rows_of_all_folds(backbone, monkeypatch):
    """The oracle scores the stages in another way: factors on a grid, in numpy."""
    chosen, by_stage = [], cross_validation._by_stage
    rows = toy_rows(24)

    def watched(fits, network, train, folds):
        unseen = [train[0].take(fold.unseen.tolist()) for fold in folds]
        factors = np.geomspace(1 / 8, 8, 200)
        losses = []
        for stage in range(3):
            logits, labels = [], []
            for (result,), fold, examples in zip(fits, folds, unseen, strict=True):
                network.load_trained_state(result.stages[stage])
                texts = network.encoder.prepare(examples.texts)
                features = network.scaled(network.encoder.features(texts)).values
                logits.append((features @ result.stages[stage]["head.weight"].T).numpy())
                labels.append(train[1][fold.unseen].numpy())
            scaled = factors[:, None, None] * np.concatenate(logits)
            scaled -= logsumexp(scaled, axis=-1, keepdims=True)
            nll = -scaled[:, np.arange(len(rows)), np.concatenate(labels)].sum(1)
            at = (nll + 0.5 * (np.log(factors) / 0.7) ** 2).argmin()
            losses.append(nll[at])
        assert max(losses) > 1.01 * min(losses)
        chosen.append(int(np.argmin(losses)))
        return by_stage(fits, network, train, folds)

    monkeypatch.setattr(cross_validation, "_by_stage", watched)
    clf = fitted(backbone, "lora:r=2", rows, cv=2)
    epochs = clf.record.results["epochs"]
    assert [*map(int, epochs)] == [round(clf.record.training["epochs"] * s) for s in STAGES]
    assert [*epochs.values()].index(min(epochs.values())) == chosen[0]
    assert "stages" not in clf.record.results


@pytest.mark.parametrize(("probe", "words", "warns"), [(0, 0, 0), (9, 0, 1), (0, 9, 1), (9, 9, 2)])
def test_a_fit_that_is_no_better_than_cheaper_models_says_so(
    monkeypatch, caplog, probe, words, warns
):
    """`probe` and `words` are the factors of the right logits; 0 leaves a uniform answer."""
    labels = torch.tensor([0, 1] * 10)
    right = torch.nn.functional.one_hot(labels, 2).double()
    part = Fold("without-0", "", np.arange(10), np.arange(10, 20))
    probes = LinearProbes(answers={"without-0": probe * right})
    monkeypatch.setattr(cross_validation, "bag_of_words", lambda *_: words * right[10:])
    with caplog.at_level(logging.WARNING):
        scores = cross_validation.baselines((read(toy_rows(20)), labels), [part], probes, own=0.1)
    assert len(caplog.records) == warns
    assert set(scores) == {"linear_probe", "bag_of_words"}
    expected = 0.0 if probe else math.log(2)
    assert scores["linear_probe"] == pytest.approx(expected, abs=1e-3)
