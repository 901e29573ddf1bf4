"""Fits that differ in more than their seed are separate methods."""

import pytest
import torch
from tiny import toy_rows
from usage import TEST, fitted, load, new

from bayeslora.engine.card import fit_options
from bayeslora.predictions.collection import group_seeds
from bayeslora.predictions.record import Predictions

pytestmark = pytest.mark.usefixtures("few_resamples")

TRAIN, HELD = toy_rows(24), toy_rows(12, seed=1)


def fit(backbone, seed, adapter="polar:r=4", validation=HELD, train=TRAIN, epochs=1, **options):
    model = new(backbone, adapter, seed=seed, **options)
    return model.fit(train, validation, epochs=epochs, batch_size=8)


def rows_of(*predictions):
    return [group.members for group in group_seeds(predictions)]


@pytest.fixture(scope="module")
def first(llama):
    return fit(llama, 0)


def test_fits_that_differ_in_their_seed_are_one_method(llama, first):
    assert rows_of(first.predict(TEST), fit(llama, 1).predict(TEST)) == [(0, 1)]


def test_a_seed_may_draw_the_training_rows_too(llama, first):
    other = fit(llama, 1, train=toy_rows(24, seed=5))
    assert rows_of(first.predict(TEST), other.predict(TEST)) == [(0, 1)]


@pytest.mark.parametrize(
    "other",
    [
        {"adapter": "polar:r=2"},
        {"max_length": 16},
        {"epochs": 2},
        {"validation": None},
        {"train": toy_rows(20)},
    ],
)
def test_fits_that_differ_in_more_are_two(llama, first, other):
    second = fit(llama, 1, **other).predict(TEST)
    assert second.name == first.predict(TEST).name
    assert rows_of(first.predict(TEST), second) == [(0,), (1,)]


def test_a_saved_model_and_a_predictions_file_say_the_same(first, tmp_path):
    first.save_pretrained(tmp_path / "model")
    assert fit_options(load(tmp_path / "model").record) == fit_options(first.record)
    first.predict(TEST).save(tmp_path / "p.parquet")
    notes = Predictions.load(tmp_path / "p.parquet").metadata
    assert notes["fit_options"] == fit_options(first.record)


def test_a_fit_and_what_it_loads_leave_the_callers_random_numbers_alone(bert, tmp_path):
    clf = fitted(bert)
    clf.save_pretrained(tmp_path / "model")
    states = []
    for use in (lambda: fitted(bert), lambda: load(tmp_path / "model"), lambda: None):
        torch.manual_seed(1)
        use()
        states.append(torch.get_rng_state())
    assert torch.equal(states[0], states[2])
    assert torch.equal(states[1], states[2])
