"""S²FT with every posterior, from the fit to the file."""

import logging

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file, save_file
from tiny import QUICK_VBLL, tiny_bert, tiny_llama, toy_rows, without_hashes

from bayeslora.checkpoint import read_model
from bayeslora.classifier import BayesianClassifier

ADAPTER = "s2ft:o_ratio=0.3,d_ratio=0.2,num_layers=2,lr=5e-3"
POSTERIORS = [
    "mle",
    "map",
    QUICK_VBLL,
    "laplace",
    "gvbll",
    "temperature",
    "nuts:num_samples=5,num_warmup=5,num_chains=1",
    "ensemble:num_members=2",
    "laplace_lora:prior_precision=1",
    "laplace_lora:structure=diag",
    "swag:num_samples=3,start=0.0",
    "ivon:num_samples=3,weight_decay=0.1",
]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BAYESLORA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("columns") / "llama"))


def fitted(backbone, posterior, more="", **options):
    clf = BayesianClassifier(
        backbone, ADAPTER + more, posterior, dtype="float32", max_length=32, progress=False
    )
    held_out = toy_rows(18, 1) if posterior in ("temperature", "gvbll") else None
    return clf.fit(toy_rows(30), held_out, epochs=2, batch_size=8, **options)


def columns(clf):
    return {site.name: site.idx.tolist() for site in clf.network.sites}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_saved_and_loaded_it_predicts_the_same(backbone, tmp_path, posterior):
    clf = fitted(backbone, posterior, out=tmp_path / "model")
    expected = clf.predict(toy_rows(9, 5))
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    assert (again.predict(toy_rows(9, 5)).probs == expected.probs).all()
    assert expected.name == f"s2ft-{posterior.split(':')[0]}"
    assert any(site.sel.weight.abs().max() > 0 for site in again.network.sites if site.k)
    keys = {name.rsplit(".", 1)[-1] for name in read_model(tmp_path / "model").adapter}
    assert keys == {"sel", "idx"}


@pytest.mark.parametrize(
    ("selection", "posterior"),
    [
        *((name, "mle") for name in ("activation", "product", "gradient", "weight")),
        ("gradient", "swag:num_samples=3,start=0.0"),
        ("gradient", "laplace_lora"),
    ],
)
def test_rows_choose_the_columns_once(backbone, tmp_path, monkeypatch, selection, posterior):
    clf = fitted(backbone, posterior, f",selection={selection}", out=tmp_path / "model")
    assert sum(map(len, columns(clf).values())) == 2 * 4 + 10
    assert columns(clf) != columns(fitted(backbone, "mle"))
    expected = clf.predict(toy_rows(9, 5)).probs

    def never(*_, **__):
        raise AssertionError("loading chooses again")

    monkeypatch.setattr("bayeslora.contrib.s2ft.largest_units", never)
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    assert columns(again) == columns(clf)
    assert (again.predict(toy_rows(9, 5)).probs == expected).all()


@pytest.mark.parametrize("selection", ["random", "gradient"])
def test_a_second_fit_can_leave_the_columns_of_the_first_alone(backbone, tmp_path, selection):
    """Loading the model does not need the directory again."""
    more = f",selection={selection}"
    clf = fitted(backbone, "mle", more, out=tmp_path / "one")
    avoid = f"{more},avoid={tmp_path / 'one'}"
    other = fitted(backbone, "mle", avoid, out=tmp_path / "other")
    assert not {
        (layer, column)
        for layer, chosen in columns(clf).items()
        for column in set(chosen) & set(columns(other)[layer])
    }
    (tmp_path / "one").rename(tmp_path / "gone")
    again = BayesianClassifier.from_pretrained(tmp_path / "other", progress=False)
    assert columns(again) == columns(other)


def test_a_directory_to_avoid_is_looked_at_before_the_rows_are(backbone, monkeypatch):
    def never(*_, **__):
        raise AssertionError("rows are run first")

    monkeypatch.setattr("bayeslora.engine.training.loop.begin_adapter", never)
    with refused("input", "avoid='/nowhere'"):
        fitted(backbone, "mle", ",selection=gradient,avoid=/nowhere")


def test_draws_and_curvature_are_of_the_columns_alone(backbone):
    clf = fitted(backbone, "laplace_lora:prior_precision=1", ",selection=gradient")
    network = clf.network
    trained = sum(16 * site.k for site in network.sites)
    assert network.weights.num_weights == trained + 3 * 16
    moved = sum(float(site.delta().detach().double().square().sum()) for site in network.sites)
    zero = torch.zeros_like(network.head.mean_weight)
    assert 0 < network.weights.sq_distance(zero) == pytest.approx(moved, rel=1e-9)


@pytest.mark.parametrize("selection", ["activation", "gradient"])
def test_an_interrupted_fit_goes_on_with_its_columns(backbone, tmp_path, monkeypatch, selection):
    """A second choice, by then of other columns, would change nothing."""
    more, posterior = f",selection={selection}", "swag:num_samples=3,start=0.0"
    whole = fitted(backbone, posterior, more)
    from bayeslora.engine.training.loop import Loop

    real, seen = Loop.backward, []

    def stop(self, *args, **options):
        seen.append(1)
        if len(seen) > 5:
            raise KeyboardInterrupt
        return real(self, *args, **options)

    monkeypatch.setattr(Loop, "backward", stop)
    with pytest.raises(KeyboardInterrupt):
        fitted(backbone, posterior, more, out=tmp_path / "model")
    monkeypatch.setattr(Loop, "backward", real)

    def never(*_, **__):
        raise AssertionError("a fit that goes on chooses again")

    monkeypatch.setattr("bayeslora.contrib.s2ft.largest_units", never)
    resumed = fitted(backbone, posterior, more, out=tmp_path / "model")
    assert columns(resumed) == columns(whole)
    assert (resumed.predict(toy_rows(9, 5)).probs == whole.predict(toy_rows(9, 5)).probs).all()


@pytest.mark.parametrize("posterior", ["tfb", "blob", "scalabl", "clora"])
def test_posteriors_over_factors_are_refused(backbone, tmp_path, posterior):
    with refused("no-factors"):
        fitted(backbone, posterior, out=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_dropout_is_the_backbones(backbone, tmp_path):
    with refused("no-dropout"):
        fitted(backbone, "mc_dropout")
    with refused("no-dropout"):
        fitted(backbone, "mc_dropout:p=0.2")
    encoder = str(tiny_bert(tmp_path / "bert"))
    clf = fitted(encoder, "mc_dropout:num_samples=3")
    assert clf.predict(toy_rows(9)).epistemic.max() > 0


def test_members_train_columns_of_their_own(backbone, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        clf = fitted(backbone, "ensemble:num_members=2", out=tmp_path / "model")
    assert "start alike" not in caplog.text
    member, other = clf.network.members
    places = [name for name in member if name.endswith(".idx")]
    assert places
    assert any(member[name].tolist() != other[name].tolist() for name in places)
    first, second = clf.spectrum()
    assert [site.singular_values for site in first] != [site.singular_values for site in second]
    with caplog.at_level(logging.WARNING):
        fitted(backbone, "ensemble:num_members=2", ",selection=weight")
    assert "selection=random" in caplog.text


def test_a_finished_network_can_be_given_another_posterior(backbone):
    clf = fitted(backbone, "mle")
    clf.calibrate(toy_rows(18, 1), posterior="laplace_lora:prior_precision=1")
    assert clf.predict(toy_rows(9)).epistemic.max() > 0


@pytest.mark.parametrize("key", ["idx", "sel"])
def test_damaged_columns_are_named(backbone, tmp_path, key):
    fitted(backbone, "mle", out=tmp_path / "model")
    path = without_hashes(tmp_path / "model") / "adapter.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(f"down_proj.{key}"))
    tensors[name] = tensors[name] + 1000 if key == "idx" else tensors[name][:, 1:].contiguous()
    save_file(tensors, path)
    refusal = (
        ("input", "down_proj", " 23 ") if key == "idx" else ("damaged", "down_proj.sel", "shape")
    )
    with refused(*refusal):
        BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
