"""Time estimates of long work: the cost model, the family that `auto` chooses, the messages."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_llama, toy_rows

import bayeslora as bl
from bayeslora import MLE, VBLL
from bayeslora.engine.training.final_fit import TrainingSizes, duration, settle_posterior
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.posteriors import cost
from bayeslora.posteriors.cost import FitCost, affordable
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.last_layer.vbll.families import fit_cost
from bayeslora.posteriors.registry import build_head

FAMILIES = ("dense", "diagonal", "eigenbasis", "full", "low_rank")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_size_is_that_of_the_tensors_of_a_fit(family):
    import torch

    config = VBLL(covariance=family, rank=2, polish_bound="tilted", prior_scale=2)
    head = build_head(config, 5, 3)
    generator = torch.Generator().manual_seed(0)
    head.fit(Features(torch.randn(12, 5, generator=generator), torch.arange(12) % 3))
    names = ("fitted_scale", "fitted_factor", "fitted_basis")
    tensors = [tensor for name, tensor in head.state_dict().items() if name in names]
    assert fit_cost(config, 3, 5, 12).numbers == sum(tensor.numel() for tensor in tensors)


@given(
    family=st.sampled_from(FAMILIES),
    sizes=st.tuples(st.integers(2, 500), st.integers(1, 1000), st.integers(2, 10_000)),
    place=st.integers(0, 2),
)
def test_a_larger_problem_never_costs_less(family, sizes, place):
    config = VBLL(covariance=family, polish_bound="tilted", bound="tilted")
    larger = [size * (2 if index == place else 1) for index, size in enumerate(sizes)]
    small, large = (fit_cost(config, *each) for each in (sizes, larger))
    assert large.multiplications >= small.multiplications
    assert large.numbers >= small.numbers


def test_small_problems_stay_dense_and_400_classes_do_not():
    for sizes in ((2, 576, 640), (8, 576, 640), (20, 384, 1000), (77, 384, 1000)):
        assert affordable(VBLL(), *sizes).covariance == "dense"
    assert affordable(VBLL(), 77, 576, 640).covariance == "dense"
    assert affordable(VBLL(), 400, 384, 2000).covariance == "eigenbasis"
    # Few rows make a dense fit cheap, but not small.
    assert affordable(VBLL(), 400, 576, 300).covariance == "eigenbasis"
    for family in ("dense", "low_rank"):
        assert affordable(VBLL(covariance=family), 400, 384, 2000).covariance == family


@dataclass(frozen=True)
class Sized(MLE):
    """A posterior of another package with a single unset option, which determines its cost."""

    name: ClassVar[str] = "sized"
    num_parts: int | None = None

    def variants(self, num_classes, num_features, num_rows):
        del num_classes, num_features, num_rows
        parts = (self.num_parts,) if self.num_parts else (1000, 2)
        return [(Sized(num_parts=n), FitCost(1e30 if n > 2 else 0, n)) for n in parts]


def test_what_is_too_dear_is_named_whatever_the_option(caplog):
    sizes = TrainingSizes(3, 4, 5)
    with caplog.at_level("WARNING"):
        assert settle_posterior(Sized(), sizes) == Sized(num_parts=2)
    assert "sized:num_parts=1000" in caplog.text
    caplog.clear()
    assert settle_posterior(Sized(num_parts=1000), sizes) == Sized(num_parts=1000)
    assert not caplog.text


def test_many_classes_cost_something_whatever_the_number_of_features():
    """Tilts took all 12 seconds of a fit to 600 rows, 200 classes and 16 features."""
    assert fit_cost(VBLL(), 200, 16, 600).seconds(3e10) > 3


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.1, "1 s"), (89, "89 s"), (436, "7 min"), (9000, "2 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("models") / "llama"))


def fit(llama, posterior="vbll", **options):
    clf = bl.BayesianClassifier(
        llama, "lora:r=2", posterior, device="cpu", max_length=16, **options
    )
    return clf.fit(toy_rows(12), toy_rows(6, seed=1), epochs=2, batch_size=4)


def test_a_fit_says_its_steps_before_it_starts(llama, caplog):
    caplog.set_level("INFO", "bayeslora.engine.training.loop")
    fit(llama, "mle")
    steps = TrainingSettings(2, batch_size=4).num_steps(12)
    assert f"12 rows, 2 epochs at most of 3 steps: {steps} steps" in caplog.text


def test_auto_is_settled_before_the_fit_and_kept_with_the_model(
    llama, tmp_path, monkeypatch, caplog
):
    options = {"progress": False}
    dense = fit(llama, **options)
    assert dense.record.posterior["covariance"] == "dense"
    assert np.array_equal(
        fit(llama, "vbll:covariance=dense", **options).predict(toy_rows(5)).probs,
        dense.predict(toy_rows(5)).probs,
    )
    assert "covariance" not in caplog.text
    monkeypatch.setattr(cost, "LARGEST_ROUND", 0)
    assert fit(llama, "vbll:covariance=dense", **options).record.posterior == dense.record.posterior
    assert "vbll:covariance=dense" not in caplog.text
    clf = fit(llama, **options)
    assert clf.record.posterior["covariance"] == "eigenbasis"
    assert "vbll:covariance=dense" in caplog.text
    clf.save_pretrained(tmp_path / "model")
    monkeypatch.undo()
    loaded = bl.BayesianClassifier.from_pretrained(tmp_path / "model", **options)
    assert np.array_equal(loaded.predict(toy_rows(5)).probs, clf.predict(toy_rows(5)).probs)
