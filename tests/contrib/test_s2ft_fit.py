"""S²FT with every posterior, from the fit to the file."""

import pytest
import torch
from tiny import tiny_llama, toy_rows

from bayeslora.classifier import BayesianClassifier

ADAPTER = "s2ft:o_ratio=0.3,d_ratio=0.2,num_layers=2,lr=5e-3"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("columns") / "llama"))


def fitted(backbone, posterior, more="", **options):
    clf = BayesianClassifier(
        backbone, ADAPTER + more, posterior, dtype="float32", max_length=32, progress=False
    )
    return clf.fit(toy_rows(30), epochs=2, batch_size=8, **options)


def columns(clf):
    return {site.name: site.idx.tolist() for site in clf.network.sites}


@pytest.mark.parametrize("selection", ["activation", "product", "weight"])
def test_rows_choose_the_columns_once(backbone, tmp_path, monkeypatch, selection):
    clf = fitted(backbone, "mle", f",selection={selection}", out=tmp_path / "model")
    assert sum(map(len, columns(clf).values())) == 2 * 4 + 10
    assert columns(clf) != columns(fitted(backbone, "mle"))
    expected = clf.predict(toy_rows(9, 5)).probs

    def never(*_, **__):
        raise AssertionError("loading chooses again")

    monkeypatch.setattr("bayeslora.contrib.s2ft.largest_units", never)
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    assert columns(again) == columns(clf)
    assert (again.predict(toy_rows(9, 5)).probs == expected).all()


def test_draws_and_curvature_are_of_the_columns_alone(backbone):
    clf = fitted(backbone, "laplace_lora:prior_precision=1", ",selection=product")
    network = clf.network
    trained = sum(16 * site.k for site in network.sites)
    assert network.weights.num_weights == trained + 3 * 16
    moved = sum(float(site.delta().detach().double().square().sum()) for site in network.sites)
    zero = torch.zeros_like(network.head.mean_weight)
    assert 0 < network.weights.sq_distance(zero) == pytest.approx(moved, rel=1e-9)
