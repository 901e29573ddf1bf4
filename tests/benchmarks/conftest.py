"""A small data set with an out-of-distribution part, and a backbone to fit to it."""

import pytest
from tiny import tiny_llama, toy_rows

from bayeslora import VBLL
from bayeslora.adapters.polar import PoLAR
from bayeslora.backbones.load import load_backbone
from bayeslora.data.columns import DataColumns
from bayeslora.engine.data import read_labelled
from benchmarks.lib.evaluation import FitSpec
from benchmarks.lib.experiment_data import FAR, ExperimentData


@pytest.fixture(autouse=True, scope="module")
def _few_resamples(few_resamples):
    """Use few resamples: these tests are not about intervals."""


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    path = tiny_llama(tmp_path_factory.mktemp("backbones") / "llama")
    return load_backbone(str(path), dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def data():
    splits = [
        read_labelled(toy_rows(count, seed), DataColumns())
        for seed, count in enumerate((24, 12, 15, 9))
    ]
    return ExperimentData("toy", *splits[:3], {FAR: splits[3]}, {FAR: "the same topics"})


@pytest.fixture(scope="session")
def spec():
    # Learning the prior scale would take most of the time of a tiny fit.
    posterior = VBLL(prior_scale=2, polish_bound="jensen")
    return FitSpec(PoLAR(r=4, num_layers=2), posterior, epochs=2, seed=3, max_length=32)
