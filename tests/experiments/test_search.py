"""A search over options; needs the extra `tune`."""

import json

import pytest
from refusal import refused

import bayeslora as bl
from bayeslora.experiments import cells, run

optuna = pytest.importorskip("optuna", reason="needs Optuna: pip install 'bayeslora[tune]'")
pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture
def searched(grid):
    grid["posteriors"] = ["mle", "map"]
    grid["seeds"] = [0]
    grid["search"] = {
        "trials": 3,
        "hold_out": 0.2,
        "ranges": {
            "adapter.lr": {"low": 1e-4, "high": 1e-1, "log": True},
            "posterior.prior_scale": [0.5, 2.0],
        },
    }
    return grid


def test_every_cell_has_as_many_trials_and_the_best_options(searched, tmp_path):
    result = bl.experiment(searched, tmp_path / "out")
    assert [len(record["trials"]) for record in result.records] == [3, 3]
    for record in result.records:
        best = min(record["trials"], key=lambda trial: trial["nll"])["options"]
        assert record["chosen"]["adapter.lr"] == best["adapter.lr"]
        has_scale = "posterior.prior_scale" in best
        assert has_scale == (record["cell"]["posterior"] == "map")
    assert len(list((tmp_path / "out/cells").glob("*.search.sqlite3"))) == 2


def test_no_reported_row_chooses(searched, tmp_path, monkeypatch):
    """Trials see only the cell's training rows."""
    seen = set()
    true = cells._loss

    def loss(setup, *more):
        seen.update(setup.train.ids)
        assert not {*setup.train.ids} & {*setup.rows.reported.ids}
        return true(setup, *more)

    monkeypatch.setattr(cells, "_loss", loss)
    bl.experiment(searched, tmp_path / "out")
    assert len(seen) == 60


def test_an_interrupted_search_chooses_as_one_that_was_not(searched, tmp_path, monkeypatch):
    searched["posteriors"] = ["map"]
    whole = bl.experiment(searched, tmp_path / "whole")
    true = cells._loss
    calls = []

    def loss(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return true(*args)

    monkeypatch.setattr(cells, "_loss", loss)
    with pytest.raises(KeyboardInterrupt):
        bl.experiment(searched, tmp_path / "out")
    again = bl.experiment(searched, tmp_path / "out")
    assert len(calls) == 4  # two, the interrupted one, and its repetition
    assert json.dumps(again.records[0]["trials"]) == json.dumps(whole.records[0]["trials"])
    assert again.records[0]["scores"] == whole.records[0]["scores"]


def test_a_value_that_is_not_allowed_is_refused_before_the_work(searched, tmp_path):
    for values in ([0.5, -1], {"low": -1.0, "high": 2.0}):
        searched["search"]["ranges"]["posterior.prior_scale"] = values
        with refused("option", "prior_scale"):
            bl.experiment(searched, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_option_that_no_method_has_is_named(searched, tmp_path):
    searched["search"]["ranges"]["adapter.rate"] = [1, 2]
    with refused("unknown", "adapter.rate"):
        bl.experiment(searched, tmp_path / "out")


@pytest.mark.parametrize(
    ("option", "values", "named"),
    [
        ("fit.epochs", [0, 1], "epochs"),
        ("fit.batch_size", {"low": -4, "high": 2}, "-4"),
        ("fit.head_lr", ["a", "b"], "'a'"),
    ],
)
def test_a_dry_run_finds_what_a_run_would_refuse(searched, option, values, named):
    searched["search"]["ranges"] = {option: values}
    with refused("option", named):
        run.plan(searched)


def test_a_changed_search_of_a_finished_cell_is_refused(searched, tmp_path):
    searched["search"] = {"trials": 2, "ranges": {"adapter.lr": [0.001, 0.01]}}
    bl.experiment(searched | {"posteriors": "mle"}, tmp_path / "out")
    assert "adapter.lr = 0.0" in (tmp_path / "out/summary.md").read_text()
    searched["search"]["trials"] = 3
    with refused("input", "search.trials"):
        run.plan(searched, tmp_path / "out")
