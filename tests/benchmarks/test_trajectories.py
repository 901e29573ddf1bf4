"""Fits that store every epoch, and results computed from the stored states."""

import dataclasses

import numpy as np
import pytest
import torch
from refusal import refused

from bayeslora import MAP, VBLL, Laplace, MCDropout, TemperatureScaling
from bayeslora.engine.predict import Answer, to_predictions
from bayeslora.engine.training.final_fit import LastFit
from bayeslora.engine.training.loop import Training, train_network
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.logits import GaussianLogits, SampledLogits
from bayeslora.metrics.evaluate import evaluate
from benchmarks.lib import trajectories
from benchmarks.lib.evaluation import (
    TEST,
    TRAIN,
    VALIDATION,
    Evaluation,
    fitted_head,
    fresh_network,
)
from benchmarks.lib.experiment_data import FAR


@pytest.fixture(scope="module")
def states(backbone, data, spec, tmp_path_factory):
    return trajectories.trajectory(backbone, spec, data, tmp_path_factory.mktemp("fits") / "vbll")


@pytest.fixture(scope="module")
def lab(backbone, data, spec):
    return Evaluation(backbone, spec, data)


def equal(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def test_every_epoch_is_kept(backbone, lab, spec, states, tmp_path):
    assert list(states) == [1, 2]
    assert not equal(states[1], states[2])
    # The last state is the result of a plain fit without validation.
    network = fresh_network(backbone, spec, 3)
    training = Training(
        network,
        lab.texts(TRAIN),
        None,
        spec.adapter,
        LastFit(spec.posterior),
        TrainingSettings(epochs=2, seed=spec.seed),
        directory=tmp_path,
        title=None,
    )
    train_network(training, fit_last=False)
    assert equal(states[2], network.trained_state())


def test_a_stored_trajectory_is_not_trained_again(backbone, data, spec, tmp_path, monkeypatch):
    folder = tmp_path / "fit"
    first = trajectories.trajectory(backbone, dataclasses.replace(spec, epochs=1), data, folder)
    runs = []
    monkeypatch.setattr(
        trajectories, "_train", lambda *_: runs.append(1) or {1: first[1], 2: first[1]}
    )
    again = trajectories.trajectory(backbone, dataclasses.replace(spec, epochs=1), data, folder)
    assert equal(first[1], again[1])
    assert runs == []
    # Another specification replaces it.
    assert list(trajectories.trajectory(backbone, spec, data, folder)) == [1, 2]
    assert runs == [1]
    assert sorted(path.name for path in folder.iterdir()) == [
        "epoch-01.safetensors",
        "epoch-02.safetensors",
        "spec.json",
    ]


def test_an_unlabelled_or_unknown_row_has_no_class(backbone, data, spec):
    labels = (None, data.classes[1], "x") * 5
    rows = dataclasses.replace(data.test, labels=labels)
    lab = Evaluation(backbone, spec, dataclasses.replace(data, test=rows))
    assert lab.texts(TEST).labels.tolist() == [-1, 1, -1] * 5


def test_out_of_distribution_rows_have_no_class_even_with_a_familiar_label(lab):
    assert set(lab.texts(FAR).labels.tolist()) == {-1}
    assert lab.scored == [TEST, FAR]


def test_splits_are_prepared_once(lab):
    seen = []
    lab.texts(TEST, seen.append)
    seen.clear()
    assert lab.texts(TEST, seen.append) is lab.texts(TEST)
    assert seen == []


@pytest.mark.parametrize("config", [VBLL(), Laplace(), MAP(), TemperatureScaling(), None])
def test_last_layers_on_stored_states(lab, states, config):
    features = lab.features(states[2], [TRAIN, VALIDATION, *lab.scored])
    outcome = lab.last_layer("method", states[2], features, config)
    assert set(outcome.predictions) == {TEST, FAR}
    predictions = outcome.predictions[TEST]
    assert predictions.name == "method"
    assert predictions.ids == lab.data.test.ids
    assert predictions.labels.tolist() == [0, 1, 2] * 5
    assert not outcome.predictions[FAR].labelled.any()
    assert bool(outcome.report) == (config is not None)
    again = lab.last_layer("method", states[2], features, config)
    assert np.array_equal(again.predictions[TEST].probs, predictions.probs)


def test_features_are_those_of_the_state(lab, states):
    first, second = (lab.features(states[epoch], [TEST])[TEST].values for epoch in (1, 2))
    assert not torch.allclose(first, second)
    assert torch.equal(lab.features(states[1], [TEST])[TEST].values, first)


def test_validation_rows_are_seen_only_where_they_may_be(lab, states):
    features = lab.features(states[2], [TRAIN, VALIDATION, TEST])
    head = lab.trained_head(states[2])
    rows = features[VALIDATION]

    def score(config, validation):
        fitted = fitted_head(config, head, features[TRAIN], validation)
        return trajectories.nll(fitted.predict(rows), rows.targets)

    chosen = VBLL()
    tuned = score(chosen, rows)
    fixed = [score(VBLL(polish_mean=means), None) for means in ("refit", "trained")]
    assert tuned == pytest.approx(min(fixed), rel=1e-4)
    blind = trajectories.validation_nll(lab, states[2], features, chosen)
    assert blind == pytest.approx(score(chosen, None), rel=1e-9)
    assert trajectories.validation_nll(lab, states[2], features, chosen, tuned=True) == tuned


def test_options_of_the_final_fit_do_not_ask_for_another_trajectory(spec):
    spec = dataclasses.replace(spec, posterior=VBLL())
    for options in (
        {"polish_mean": "refit"},
        {"covariance": "diagonal"},
        {"prior_scale": "empirical-bayes"},
        {"num_samples": 7},
    ):
        other = dataclasses.replace(spec, posterior=VBLL(**options))
        assert trajectories.training_options(other) == trajectories.training_options(spec)
    for options in ({"prior_scale": 3.0}, {"head_lr": 0.1}, {"training_prior_scale": 1.0}):
        other = dataclasses.replace(spec, posterior=VBLL(**options))
        assert trajectories.training_options(other) != trajectories.training_options(spec)


def test_a_fitted_head_leaves_the_trained_one_alone(lab, states):
    features = lab.features(states[2], [TRAIN, TEST])
    head = lab.trained_head(states[2])
    before = head.predict(features[TEST])
    fitted_head(VBLL(), head, features[TRAIN], None)
    assert torch.equal(head.predict(features[TEST]).mean, before.mean)


def test_an_ensemble_averages_probabilities(lab, states):
    members = [(state, lab.features(state, lab.scored)) for state in states.values()]
    predictions = lab.ensemble("ensemble", members).predictions[TEST]
    logits = [lab.trained_head(state).predict(rows[TEST]).mean for state, rows in members]
    expected = torch.stack(logits).softmax(-1).mean(0)
    np.testing.assert_allclose(predictions.probs, expected.numpy(), atol=1e-12)


def test_dropout_needs_a_network_that_drops_something(lab, states):

    with refused("no-dropout", "dropout"):
        lab.dropout("dropout", states[2], MCDropout())


def test_predictions_can_be_scored(lab, states):
    features = lab.features(states[2], [TRAIN, *lab.scored])
    outcome = lab.last_layer("vbll", states[2], features, VBLL())
    scores = evaluate(outcome.predictions[TEST], ood={FAR: outcome.predictions[FAR]})
    expected = trajectories.nll(
        fitted_head(VBLL(), lab.trained_head(states[2]), features[TRAIN], None).predict(
            features[TEST]
        ),
        features[TEST].targets,
    )
    assert scores["nll"].value == pytest.approx(expected, rel=1e-9)


def test_nll_by_hand():
    """Two rows with probabilities 3/4 and 1/4 of their labels."""
    certain = torch.log(torch.tensor([[3.0, 1.0], [3.0, 1.0]], dtype=torch.float64))
    logits = GaussianLogits(certain, torch.zeros_like(certain))
    expected = -(np.log(3 / 4) + np.log(1 / 4)) / 2
    assert trajectories.nll(logits, torch.tensor([0, 1])) == pytest.approx(expected, rel=1e-12)


def test_a_row_without_class_has_no_nll():
    logits = GaussianLogits(torch.zeros(2, 2), torch.zeros(2, 2))
    with pytest.raises(RuntimeError, match="out of bounds"):
        trajectories.nll(logits, torch.tensor([0, -1]))


def test_predictions_hold_what_the_logits_say(data):
    samples = torch.randn(4, len(data.test), 3, dtype=torch.float64)
    labels = np.full(len(data.test), -1)
    predictions = to_predictions(
        [Answer(SampledLogits(samples))], data.classes, labels=labels, name="x"
    )
    assert predictions.name == "x"
    assert (predictions.metadata["link"], predictions.metadata["num_samples"]) == ("softmax", "4")
    np.testing.assert_allclose(predictions.probs, samples.softmax(-1).mean(0).numpy(), atol=1e-12)
    centred = samples - samples.mean(-1, keepdim=True)
    spread = centred.var(0, correction=0).sum(1)
    np.testing.assert_allclose(predictions.scores["logit_variance"], spread.numpy(), atol=1e-12)
    assert not predictions.labelled.any()
