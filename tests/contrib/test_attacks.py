"""Predictions under attack: a closed form, every posterior, the command and the report."""

import json

import numpy as np
import pytest
import torch
from tiny import tiny_bert, toy_rows
from usage import TEST, new

import bayeslora as bl
from bayeslora.cli import main
from bayeslora.contrib.attacks import _Piece, attacked
from bayeslora.contrib.attacks import main as attack_main
from bayeslora.contrib.perturbation import Inputs, TokenBall, ascend

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def clf(bert):
    return new(bert, "lora:r=2", "mle", dtype="float32").fit(toy_rows(24), epochs=2, batch_size=8)


def test_the_worst_case_of_a_linear_classifier_is_that_of_its_closed_form():
    """In an L2 ball of radius ε a margin falls by ε ‖w_1 − w_0‖ for every row."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 1, 6, dtype=torch.float64, generator=generator)
    w = torch.randn(2, 6, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 2, (50,), generator=generator)
    inputs = Inputs("x", x, {}, TokenBall(torch.ones(50, 1, 1, dtype=torch.float64)))

    def loss(batch):
        return [torch.nn.functional.cross_entropy(batch["x"][:, 0] @ w.T, labels)]

    def margin(values):
        logits = values[:, 0] @ w.T
        return torch.where(labels == 1, 1, -1) * (logits[:, 1] - logits[:, 0])

    for eps in (0.1, 0.5, 2.0):
        delta = ascend(loss, inputs, eps=eps, steps=60, generator=generator)
        expected = margin(x) - eps * (w[1] - w[0]).norm()
        torch.testing.assert_close(margin(x + delta), expected, atol=1e-9, rtol=0)
        wrong = (margin(x + delta) < 0).double().mean()
        assert wrong == (expected < 0).double().mean()


def nll(predictions):
    return bl.evaluate(predictions)["nll"].value


@pytest.fixture(scope="module")
def curve(clf):
    return attacked(clf, TEST, (0.1, 0.3, 1.0), steps=5)


def test_the_loss_grows_with_the_radius(curve, clf):
    clean = clf.predict(TEST)
    values = [nll(predictions) for predictions in (clean, *curve.values())]
    assert values == sorted(values)
    assert [*curve] == [0.1, 0.3, 1.0]
    assert curve[0.3].metadata["severity"] == "0.3"
    accuracies = [bl.evaluate(each)["accuracy"].value for each in (clean, curve[1.0])]
    assert accuracies[1] < accuracies[0]


def label_probs(clf, predictions):
    labels = [clf.classes.index(row["label"]) for row in TEST]
    return predictions.probs[np.arange(len(TEST)), labels]


def test_the_worst_of_several_restarts_counts_for_each_row(clf, monkeypatch):
    single = []
    predictions_of = _Piece.predictions

    def listed(self, texts):
        single.append(predictions_of(self, texts))
        return single[-1]

    monkeypatch.setattr(_Piece, "predictions", listed)
    worst = [
        label_probs(clf, attacked(clf, TEST, (0.3,), steps=2, restarts=count)[0.3])
        for count in (1, 2, 3)
    ]
    assert len(single) == 1 + 2 + 3
    clean = label_probs(clf, clf.predict(TEST))
    each = [label_probs(clf, predictions) for predictions in single[3:]]
    assert all((answer != clean).any() for answer in each)
    for count in (1, 2, 3):
        np.testing.assert_array_equal(worst[count - 1], np.min(each[:count], 0))
    assert len({*np.argmin(each, 0)}) > 1


@pytest.mark.parametrize(
    ("adapter", "posterior"),
    [
        ("polar:r=4", "vbll:prior_scale=2"),
        ("lora:r=2", "ensemble:num_members=2"),
        ("lora:r=2", "blob:num_samples=2"),
        ("lora:r=2,num_layers=1", "prototypes"),
    ],
)
def test_every_posterior_can_be_attacked(bert, adapter, posterior):
    clf = new(bert, adapter, posterior, dtype="float32")
    clf.fit(toy_rows(24), epochs=2, batch_size=8)
    assert nll(attacked(clf, TEST, (1.0,), steps=4)[1.0]) > nll(clf.predict(TEST))


def test_the_command_and_the_report(clf, tmp_path):
    clf.save_pretrained(tmp_path / "model")
    data = tmp_path / "test.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in TEST))
    words = [str(tmp_path / "model"), str(data), "--out", str(tmp_path / "attacked")]
    assert attack_main([*words, "--eps", "0.3", "--steps", "2"]) == 0
    (written,) = (tmp_path / "attacked").iterdir()
    assert written.name == "attack-0.3.parquet"
    clf.predict(TEST).save(tmp_path / "test.parquet")
    report = tmp_path / "report"
    words = ["report", str(tmp_path / "test.parquet"), "--shifted", str(written)]
    assert not main([*words, "--out", str(report), "--quiet"])
    scores = json.loads((report / "scores.json").read_text())
    assert [point["severity"] for point in scores["shift"]] == [0, 0.3]


def test_an_attack_raises_the_loss_of_rows_among_the_classes_of_their_task(bert):
    parts = {"topic": toy_rows(24), "other": toy_rows(12, 3)}
    clf = new(bert, "lora:r=2", "mle", dtype="float32").fit(parts, epochs=1, batch_size=8)
    worse = attacked(clf, parts, (0.5,), steps=3)[0.5]
    assert nll(worse) > nll(clf.predict(parts))
    assert (worse.probs[~worse.available] == 0).all()
