"""The scale of the logits from held-out rows: the parts, the factor, and fits with it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused
from scipy.special import log_softmax, softmax
from tiny import QUICK_VBLL, toy_rows

from bayeslora.classifier import BayesianClassifier
from bayeslora.data.examples import Examples
from bayeslora.engine import cross_validation as members
from bayeslora.engine.cross_validation import held_out_parts
from bayeslora.engine.loop import Loop
from bayeslora.links import best_scale, link_probabilities
from bayeslora.logits import GaussianLogits

ROWS, TEST = toy_rows(24), toy_rows(15, seed=8)


def texts(names):
    names = tuple(map(str, names))
    return Examples(names, names, None, names, tuple(range(len(names))), "rows")


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=200),
    st.one_of(st.just("auto"), st.integers(2, 7)),
    st.integers(0, 9),
)
def test_parts_are_apart_and_leave_every_class_a_row(classes, cv, seed):
    labels = np.unique(classes, return_inverse=True)[1]
    if cv != "auto" and cv > len(labels):
        with refused("input", "cv", len(labels)):
            held_out_parts(texts(range(len(labels))), labels, cv, seed)
        return
    parts = held_out_parts(texts(range(len(labels))), labels, cv, seed)
    held_out = np.concatenate([*parts, []]).astype(int)
    assert len(set(held_out)) == len(held_out)
    for part in parts:
        assert set(np.delete(labels, part)) == set(labels)
    if cv != "auto":
        # Only the single row of a class is in no part.
        assert sorted(held_out) == np.flatnonzero(np.bincount(labels)[labels] > 1).tolist()


@pytest.mark.parametrize(("rows", "parts"), [(40, 5), (128, 5), (160, 4), (320, 2), (640, 1)])
def test_by_default_as_many_parts_as_bring_128_rows(rows, parts):
    held_out = held_out_parts(texts(range(rows)), np.arange(rows) % 4, "auto", 0)
    assert len(held_out) == parts
    assert sum(map(len, held_out)) >= min(rows, 128)
    assert held_out_parts(texts(range(rows)), np.arange(rows) % 4, 0, 0) == []


@given(st.lists(st.integers(0, 9), min_size=5), st.integers(0, 9))
def test_equal_texts_are_held_out_together(numbers, seed):
    names = np.array(numbers)
    labels = np.unique(names % 3, return_inverse=True)[1]
    for part in held_out_parts(texts(names), labels, 5, seed):
        others = np.setdiff1d(np.arange(len(labels)), part)
        assert set(labels[others]) == set(labels)
        assert not {*names[part]} & {*names[others]}


def test_rows_that_are_there_twice_are_held_out_as_without_it():
    labels = np.arange(40) % 4
    once = held_out_parts(texts(range(40)), labels, 5, 0)
    twice = held_out_parts(texts([*range(40)] * 2), np.tile(labels, 2), 5, 0)
    for part, both in zip(once, twice, strict=True):
        assert both.tolist() == [*part, *(part + 40)]


def drawn(scale, rows, classes=3, seed=0):
    """Return logits [N, C] that are `scale` times too small, and labels of the true logits."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=2, size=(rows, classes))
    true = softmax(logits, axis=1).cumsum(1)
    labels = (true < generator.random((rows, 1))).sum(1).clip(0, classes - 1)
    return logits / scale, labels


def answers(logits, labels, variance=0.0):
    mean = torch.from_numpy(logits)
    return GaussianLogits(mean, torch.full_like(mean, variance)), torch.from_numpy(labels)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.3, 3.0), st.integers(1, 60), st.integers(0, 99))
def test_the_factor_has_the_highest_posterior_density(scale, rows, seed):
    logits, labels = drawn(scale, rows, seed=seed)
    factor, before, after = best_scale([answers(logits, labels)])
    grid = np.exp(np.linspace(-np.log(8), np.log(8), 4001))
    places = np.arange(rows)
    nll = [-log_softmax(factor * logits, axis=1)[places, labels].sum() for factor in grid]
    best = np.argmin(nll + 0.5 * (np.log(grid) / 0.7) ** 2)
    # The search stops at 1e-3 of the logarithm; the grid has about the same step.
    assert np.log(factor) == pytest.approx(np.log(grid[best]), abs=3e-3)
    unscaled = -log_softmax(logits, axis=1)[places, labels].mean()
    assert before == pytest.approx(unscaled, rel=1e-6)
    assert after <= before + 1e-9


def test_logits_that_vary_more_than_they_differ_need_a_factor_of_their_means_alone():
    logits, labels = drawn(1.0, 400)
    unsure = [answers(logits / 3, labels, 1.0)]
    _, before, joint = best_scale(unsure, num_samples=400)
    factor, _, means = best_scale(unsure, means_alone=True, num_samples=400)
    assert means < joint - 0.03
    assert joint <= before
    # by brute force
    grid = np.exp(np.linspace(-2, 2, 81))
    values = [
        best_scale_loss(unsure[0], factor, num_samples=400) + 0.5 * (np.log(factor) / 0.7) ** 2
        for factor in grid
    ]
    assert np.log(factor) == pytest.approx(np.log(grid[np.argmin(values)]), abs=0.05)


def best_scale_loss(answer, factor, num_samples):
    gaussian, labels = answer
    scaled = GaussianLogits(gaussian.mean * factor, gaussian.covariance)
    probs = link_probabilities(scaled, num_samples=min(num_samples, 200)).probs
    return -probs[torch.arange(len(labels)), labels].log().sum().item()


def fitted(backbone, cv, adapter="lora:r=2", posterior="mle", **options):
    clf = BayesianClassifier(backbone, adapter, posterior, dtype="float32", progress=False)
    length = {} if adapter == "none" else {"epochs": 2, "batch_size": 8}
    return clf.fit(ROWS, cv=cv, **length, **options)


def test_texts_that_are_there_twice_are_held_out(backbone):
    def num_rows(rows):
        clf = BayesianClassifier(backbone, "none", QUICK_VBLL, dtype="float32", progress=False)
        return clf.fit(rows, cv=2).record.results["logit_scale"]["num_rows"]

    rows = [
        {"text": f"{row['text']} {number}", "label": row["label"]}
        for number, row in enumerate(ROWS)
    ]
    assert num_rows(rows) == len(rows)
    assert num_rows([*rows, *rows[:20]]) == len(rows) + 20


@pytest.mark.parametrize("posterior", ["mle", f"{QUICK_VBLL},link=probit", "laplace:link=probit"])
def test_without_an_adapter_the_fit_is_as_without_folds_but_for_the_factor(backbone, posterior):
    adapter = "none"
    scores = {"feature_scores": ("mahalanobis", "knn")}
    plain = fitted(backbone, 0, adapter, posterior, **scores)
    scaled = fitted(backbone, 3, adapter, posterior, **scores)
    logit_scale = scaled.record.results["logit_scale"]
    assert (logit_scale["num_rows"], logit_scale["num_fits"]) == (len(ROWS), 3)
    assert logit_scale["nll"] <= logit_scale["nll_before"]
    assert plain.record.results.get("logit_scale") is None
    factor = logit_scale["factor"]
    before, after = (clf.predict(TEST, num_samples=0) for clf in (plain, scaled))
    if posterior == "mle":
        expected = softmax(factor * np.log(before.probs), axis=1)
        np.testing.assert_allclose(after.probs, expected, atol=1e-5)
    # Variances of logits grow with the square of the factor, except for a variational layer, where
    # only the means are multiplied; distances do not depend on the scale.
    square = 0 if posterior.startswith("vbll") else 2
    for name, power in (("logit_variance", square), ("mahalanobis", 0), ("knn", 0)):
        expected = before.scores[name] * factor**power
        np.testing.assert_allclose(after.scores[name], expected, rtol=2e-4, atol=1e-6)


def test_a_scaled_model_saves_loads_and_exports(backbone, tmp_path):
    clf = fitted(backbone, 2, out=tmp_path / "model")
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    expected = clf.predict(TEST).probs
    assert np.array_equal(again.predict(TEST).probs, expected)
    assert again.record.results["logit_scale"]["num_fits"] == 2
    assert again.record.training["cv"] == 2
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"logit scale {again.record.results['logit_scale']['factor']:.3g}" in card
    clf.export_merged(tmp_path / "merged")
    merged = BayesianClassifier.from_transformers(str(tmp_path / "merged"), "mle", progress=False)
    template = clf.record.backbone["template"]
    filled = [{**row, "text": template.replace("{text}", row["text"])} for row in TEST]
    np.testing.assert_allclose(merged.predict(filled).probs, expected, atol=1e-5)


def test_parts_that_are_done_are_not_trained_again(backbone, tmp_path, monkeypatch):
    expected = fitted(backbone, 2).predict(TEST).probs
    end, rows = Loop.end_epoch, []

    def watched(loop, loss):
        rows.append((loop.fit.num_train, loop.epoch + 1))
        if len(rows) == 6:
            raise KeyboardInterrupt
        return end(loop, loss)

    monkeypatch.setattr(Loop, "end_epoch", watched)
    with pytest.raises(KeyboardInterrupt):
        fitted(backbone, 2, out=tmp_path / "model")
    resumed = fitted(backbone, 2, out=tmp_path / "model")
    half = len(ROWS) // 2
    # Half of the rows take the same number of steps in twice the epochs. One epoch was interrupted
    # before its checkpoint.
    first = [(half, 1), (half, 2), (half, 3), (half, 4), (half, 1), (half, 2)]
    assert rows == [*first, (half, 2), (half, 3), (half, 4)]
    assert np.array_equal(resumed.predict(TEST).probs, expected)
    assert sorted(path.name for path in (tmp_path / "model").iterdir() if path.is_dir()) == []


@pytest.mark.parametrize("adapter", ["polar:r=2", "pissa:r=2"])
def test_last_epochs_on_all_rows_go_on_where_they_were_interrupted(
    backbone, adapter, tmp_path, monkeypatch
):
    monkeypatch.setattr("bayeslora.engine.cross_validation._ENOUGH_ROWS", 1)
    expected = fitted(backbone, "auto", adapter).predict(TEST).probs
    end = Loop.end_epoch

    def interrupted(loop, loss):
        if (loop.fit.num_train, loop.epoch + 1) == (len(ROWS), 2):
            raise KeyboardInterrupt
        return end(loop, loss)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "end_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fitted(backbone, "auto", adapter, out=tmp_path / "model")
    resumed = fitted(backbone, "auto", adapter, out=tmp_path / "model")
    assert np.array_equal(resumed.predict(TEST).probs, expected)


def test_a_variational_layer_beside_an_adapter_is_scaled_by_default(backbone):
    assert fitted(backbone, None, "polar:r=2", QUICK_VBLL).record.training["cv"] == "auto"
    assert fitted(backbone, None, "polar:r=2", "mle").record.training["cv"] == 0
    assert fitted(backbone, None, "none", QUICK_VBLL).record.training["cv"] == 0
    clf = BayesianClassifier(backbone, "polar:r=2", dtype="float32", progress=False)
    assert clf.fit(ROWS, TEST, epochs=1).record.training["cv"] == 0


@pytest.mark.parametrize("adapter", ["polar:r=2", "none"])
def test_validation_rows_choose_the_scale_of_a_variational_layer(backbone, adapter, tmp_path):
    clf = BayesianClassifier(backbone, adapter, "vbll:link=probit", dtype="float32", progress=False)
    clf.fit(ROWS, TEST, out=tmp_path / "m", **({} if adapter == "none" else {"epochs": 2}))
    factor = clf.record.results["posterior"]["logit_scale"]
    network = clf.network
    head, features = network.head, network.encoder.features
    labels = torch.tensor([clf.classes.index(row["label"]) for row in TEST])
    logits = head.predict(
        network.scaled(features(network.encoder.prepare([row["text"] for row in TEST])))
    )
    # The means already include the factor.
    before = [(logits.sharpened(1 / factor), labels)]
    scale = best_scale(before, means_alone=True, link="probit")[0]
    assert scale == pytest.approx(factor, rel=1e-3)
    again = BayesianClassifier.from_pretrained(tmp_path / "m", progress=False)
    assert np.array_equal(again.predict(TEST).probs, clf.predict(TEST).probs)


@pytest.mark.parametrize(("cv", "code"), [(1, "input"), (25, "input"), ("five", "option")])
def test_what_are_no_parts_is_refused(backbone, cv, code):
    with refused(code, "cv", cv):
        fitted(backbone, cv)


@pytest.mark.parametrize("posterior", ["mle", "vbll:num_samples=60"])
def test_kept_folds_answer_with_the_mean_of_their_probabilities(backbone, posterior, tmp_path):
    clf = fitted(backbone, 3, "polar:r=2", posterior, keep_folds=True, out=tmp_path / "model")
    predictions, network = clf.predict(TEST), clf.network
    assert len(clf.network.members) == clf.record.num_members == 3
    texts = network.encoder.prepare([row["text"] for row in TEST])
    alone = []
    for state in clf.network.members:
        network.load_trained_state(state)
        with torch.no_grad():
            features = network.scaled(network.encoder.features(texts, batch_size=64))
            alone.append(link_probabilities(network.head.predict(features), num_samples=60))
    network.load_trained_state(clf.network.members[0])
    assert not torch.equal(alone[0].probs, alone[1].probs)
    mean = torch.stack([prediction.probs for prediction in alone]).mean(0)
    aleatoric = torch.stack([prediction.aleatoric for prediction in alone]).mean(0)
    np.testing.assert_allclose(predictions.probs, mean, atol=1e-9)
    np.testing.assert_allclose(predictions.aleatoric, aleatoric, atol=1e-9)
    np.testing.assert_allclose(predictions.total, -(mean * mean.log()).sum(1), atol=1e-9)
    assert predictions.metadata["passes"] == "3"
    assert set(predictions.scores) == {"logit_variance", "energy", "max_logit"}
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    assert np.array_equal(again.predict(TEST).probs, predictions.probs)
    assert again.record.training["keep_folds"] is True


def test_each_kept_fold_has_the_factor_and_none_has_all_rows(backbone, monkeypatch):
    train, sizes = members.train_network, []

    def watched(fit, **options):
        sizes.append(fit.num_train)
        return train(fit, **options)

    monkeypatch.setattr(members, "train_network", watched)
    plain = fitted(backbone, 3)
    with_folds = fitted(backbone, 3, keep_folds=True)
    assert sizes == [16, 16, 16, len(ROWS), 16, 16, 16]
    scale = with_folds.record.results["logit_scale"]
    assert scale == plain.record.results["logit_scale"]
    # Without the factor, each member is unchanged from its fit.
    before, after = (
        state["feature_scale"] for state in (first_fold(backbone), with_folds.network.members[0])
    )
    torch.testing.assert_close(before / after, torch.tensor(scale["factor"], dtype=before.dtype))


def first_fold(backbone):
    labels = sorted({row["label"] for row in ROWS})
    codes = np.array([labels.index(row["label"]) for row in ROWS])
    rest = np.setdiff1d(
        np.arange(len(ROWS)), held_out_parts(texts(range(len(ROWS))), codes, 3, 0)[0]
    )
    clf = BayesianClassifier(backbone, "lora:r=2", "mle", dtype="float32", progress=False)
    clf.fit([ROWS[row] for row in rest], epochs=3, batch_size=8)
    return clf.network.members[0]


@pytest.mark.parametrize(
    ("options", "named"),
    [({"cv": 0}, ("clash", "cv")), ({"cv": 2, "posterior": "laplace"}, ("clash", "laplace"))],
)
def test_folds_that_cannot_be_kept_are_refused_before_anything_is_loaded(options, named):
    with refused(*named):
        fitted("no-such-backbone", **{"keep_folds": True, **options})
