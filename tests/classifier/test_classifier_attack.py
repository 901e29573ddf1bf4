"""Accuracy under attack: a closed form, every posterior, files, the command and the report."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_bert, toy_rows
from usage import TEST, new

import bayeslora as bl
from bayeslora.backbones.perturbation import Inputs, TokenBall, ascend
from bayeslora.cli.app import main
from bayeslora.data.read import read
from bayeslora.engine.fitted.attack import _Piece, attacked
from bayeslora.metrics.robustness import Attack

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


@pytest.fixture(scope="module")
def curve(clf):
    return clf.robustness(TEST, Attack(eps=(0.1, 0.3, 1.0), steps=5))


def test_accuracy_falls_with_the_radius(curve, clf):
    values = [point.scores["nll"].value for point in curve.points]
    assert values == sorted(values)
    assert [point.eps for point in curve.points] == [0.0, 0.1, 0.3, 1.0]
    clean = bl.evaluate(clf.predict(TEST))["accuracy"].value
    assert curve.points[0].scores["accuracy"].value == clean
    assert curve.space == "embeddings"
    assert curve.points[-1].scores["accuracy"].value < clean


def label_probs(clf, predictions):
    labels = [clf.classes.index(row["label"]) for row in TEST]
    return predictions.probs[np.arange(len(TEST)), labels]


def test_the_worst_of_several_restarts_counts_for_each_row(clf, monkeypatch):
    rows, single = read(TEST), []
    predictions_of = _Piece._predictions

    def listed(self, texts):
        single.append(predictions_of(self, texts))
        return single[-1]

    monkeypatch.setattr(_Piece, "_predictions", listed)
    options = {"eps": (0.3,), "steps": 2}
    worst = [
        label_probs(clf, attacked(clf.network, rows, Attack(restarts=count, **options))[0.3])
        for count in (1, 2, 3)
    ]
    # Clean rows are predicted before the restarts: 1 + 1, 1 + 2 and 1 + 3 times.
    assert len(single) == 9
    clean, *each = (label_probs(clf, predictions) for predictions in single[5:])
    assert all((answer != clean).any() for answer in each)
    for count in (1, 2, 3):
        np.testing.assert_array_equal(worst[count - 1], np.min(each[:count], 0))
    assert len({*np.argmin(each, 0)}) > 1


@pytest.mark.parametrize(
    ("adapter", "posterior"),
    [
        ("polar:r=4", "vbll:prior_scale=2"),
        ("lora:r=2", "laplace"),
        ("lora:r=2", "ensemble:num_members=2"),
        ("lora:r=2", "mc_dropout:num_samples=3"),
        ("lora:r=2", "blob:num_samples=2"),
        ("lora:r=2,num_layers=1", "prototypes"),
        ("none", "gvbll:shrinkage=0.5,inflation=1"),
    ],
)
def test_every_posterior_can_be_attacked(bert, adapter, posterior):
    options = {} if adapter == "none" else {"epochs": 2, "batch_size": 8}
    clf = new(bert, adapter, posterior, dtype="float32").fit(toy_rows(24), **options)
    curve = clf.robustness(TEST, Attack(eps=(1.0,), steps=4))
    assert curve.points[1].scores["nll"].value > curve.points[0].scores["nll"].value


def test_the_command_and_the_report(clf, tmp_path, capsys):
    clf.save_pretrained(tmp_path / "model")
    data = tmp_path / "test.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in TEST))
    model = str(tmp_path / "model")
    attack = ["--attack", "eps=[0.3],steps=2", "--quiet"]
    out = str(tmp_path / "curve.json")
    assert not main(["evaluate", model, str(data), *attack, "--out", out, "--json"])
    curve = json.loads(capsys.readouterr().out)
    assert [point["eps"] for point in curve["points"]] == [0.0, 0.3]
    assert json.loads((tmp_path / "curve.json").read_text()) == curve
    assert not main(["evaluate", model, str(data), *attack])
    score = f"{curve['robustness']:.3f}"
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"Robustness score: {score}")
    clf.predict(TEST).save(tmp_path / "test.parquet")
    report = str(tmp_path / "report")
    predictions = str(tmp_path / "test.parquet")
    assert not main(["report", predictions, "--robustness", out, "--out", report, "--quiet"])
    page = (tmp_path / "report" / "index.html").read_text()
    assert 'id="robustness"' in page
    assert (tmp_path / "report" / "figures" / "robustness.svg").is_file()
    assert "Under attack" in (tmp_path / "report" / "report.md").read_text()
    scores = json.loads((tmp_path / "report" / "scores.json").read_text())
    assert scores["robustness"] == [curve]
    capsys.readouterr()

    other = replace(clf.predict(TEST), name="another")
    other.save(tmp_path / "other.parquet")
    words = ["report", str(tmp_path / "other.parquet"), "--robustness", out]
    assert not main([*words, "--out", str(tmp_path / "other")])
    assert curve["name"] in capsys.readouterr().err
    assert not main(["report", predictions, "--robustness", out, "--out", report, "--overwrite"])
    assert curve["name"] not in capsys.readouterr().err
