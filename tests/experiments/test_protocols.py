"""Published settings reach the fit, and what cannot be expressed is said."""

import json

import pytest
from tiny import toy_questions

from bayeslora.errors import InputError
from bayeslora.experiments.cells import Workshop
from bayeslora.experiments.checks import check_cell
from bayeslora.experiments.grid import Task, as_grid
from bayeslora.experiments.protocols import PROTOCOLS, protocol
from bayeslora.experiments.rows import task_rows


@pytest.fixture
def setup(grid):
    """The setup of the first cell of the small grid after changes."""

    def made(**changes):
        content = {**grid, **changes}
        content = {key: value for key, value in content.items() if value is not None}
        workshop = Workshop(as_grid(content))
        return check_cell(workshop, workshop.grid.cells[0])

    return made


def said(setup, word):
    return [one for one in setup.deviations if word in one]


def test_an_unknown_name_lists_all():
    with pytest.raises(InputError) as caught:
        protocol("laplace_lora")
    for name in PROTOCOLS:
        assert repr(name) in str(caught.value)


# Sheet of the published settings: steps, batch, rate, dropout, split, seeds.
@pytest.mark.parametrize(
    ("name", "steps", "lr", "dropout", "seeds"),
    [("blob", 5_000, 1e-4, 0.0, (1, 2, 3)), ("laplace-lora", 10_000, 5e-5, 0.1, (21, 42, 87))],
)
def test_published_settings_reach_the_fit(setup, name, steps, lr, dropout, seeds):
    found = setup(protocol=name, seeds=None, fit={}, model={})
    adapter = found.adapter
    assert (adapter.r, adapter.alpha, adapter.dropout, adapter.lr) == (8, 16.0, dropout, lr)
    assert (adapter.num_layers, adapter.target_modules) == (None, None)
    assert found.model == {"max_length": 300, "depth": 1.0}
    # 60 rows in batches of 4 are 15 steps per epoch; 5,000 / 15 = 333.3 and 10,000 / 15 = 666.7.
    assert found.fit == {"cv": 0, "batch_size": 4, "epochs": round(steps / 15)}
    assert found.steps == steps
    assert PROTOCOLS[name].seeds == seeds
    assert said(found, f"{15 * round(steps / 15):,} instead of {steps:,}")
    assert said(found, "8 bits")
    assert said(found, "no validation rows")


def test_a_whole_number_of_epochs_is_no_deviation(setup, grid):
    rows = PROTOCOLS["blob"]
    found = setup(protocol="blob", fit={}, adapters=["lora"])
    assert 5_000 % 15
    assert [one for one in found.deviations if one.startswith("steps")]
    found = setup(protocol="blob", fit={"batch_size": 3})  # 20 steps per epoch, 250 epochs
    assert found.fit["epochs"] == 250
    assert not [one for one in found.deviations if one.startswith("steps")]
    assert said(found, f"3 by the grid, {rows.batch_size} by the protocol")


def test_what_the_grid_changes_is_said(setup):
    found = setup(protocol="blob", adapters=["lora:r=16"], fit={"epochs": 2})
    assert found.adapter.r == 16
    assert found.adapter.alpha == 16.0
    assert said(found, "r: 16 by the grid, 8 by the protocol")
    assert said(found, "2 epochs by the grid")
    same = setup(protocol="blob", adapters=["lora:r=8"], fit={"epochs": 2})
    assert not [one for one in same.deviations if one.startswith("r: ")]


def test_an_adapter_without_an_option_says_so(setup):
    found = setup(protocol="laplace-lora", adapters=["polar"], fit={"epochs": 1})
    assert said(found, "dropout: adapter polar")
    assert not said(setup(protocol="blob", adapters=["polar"]), "dropout: adapter polar")


def test_draws_are_those_of_the_posterior(setup):
    blob = setup(protocol="blob", posteriors=["blob"], fit={"epochs": 1})
    assert blob.predict == {"num_samples": 10}
    point = setup(protocol="blob", posteriors=["mle"], fit={"epochs": 1})
    assert point.predict == {}
    laplace = setup(protocol="laplace-lora", posteriors=["laplace_lora"], fit={"epochs": 1})
    assert laplace.predict == {"num_samples": 100_000}


def test_our_own_protocol_selects_on_a_cut_of_train(setup):
    found = setup(seeds=None)
    assert found.fit["hold_out"] == 0.2
    assert found.rows.split == "test"
    assert found.deviations == ()


def test_a_label_budget_draws_rows_anew_for_each_seed(grid):
    content = {**grid, "protocol": "label-budget", "rows": [12, 24], "posteriors": ["mle"]}
    workshop = Workshop(as_grid(content))
    drawn = {(cell.rows, cell.seed): workshop.setup(cell).train.ids for cell in workshop.grid.cells}
    assert {key: len(ids) for key, ids in drawn.items()} == {
        (12, 0): 12,
        (12, 1): 12,
        (24, 0): 24,
        (24, 1): 24,
    }
    assert drawn[12, 0] != drawn[12, 1]
    assert all("hold_out" not in workshop.setup(cell).fit for cell in workshop.grid.cells)


def test_the_validation_split_is_reported_where_there_is_one(setup, grid, place):
    task = {**grid["tasks"][0], "validation": str(place.folder / "valid.jsonl")}
    found = setup(protocol="blob", tasks=[task], fit={"epochs": 1})
    assert found.rows.split == "validation"
    assert len(found.rows.reported) == 30
    assert not said(found, "split:")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_is_said_in_one_line(name):
    one = PROTOCOLS[name]
    assert one.split in one.described()
    assert f"{one.num_bins} bins" in one.described()
    assert one.settings()["seeds"] == list(one.seeds)


def test_what_an_audit_calls_wrong_is_not_out_of_distribution_in_bag(tmp_path):
    folder = tmp_path / "mmlu_college_physics"
    folder.mkdir()
    verdicts = ("OK", "wrong", None)
    (folder / "test.jsonl").write_text(
        "".join(
            json.dumps(
                {"id": str(n), "question": f"q{n}", "choices": ["x", "y"], "answer_index": 0}
                | {"redux_error_type": verdict}
            )
            + "\n"
            for n, verdict in enumerate(verdicts)
        )
    )
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps(row) + "\n" for row in toy_questions(4)))
    ood = {"physics": "mmlu-college-physics", "file": str(tmp_path / "other.jsonl")}
    (tmp_path / "other.jsonl").write_text(json.dumps(toy_questions(1, 9)[0]) + "\n")
    task = Task("own", {"train": str(own), "test": str(own)}, ood)
    for name, kept in (("bag", ("q0",)), ("bayeslora", ("q0", "q1", "q2"))):
        found = task_rows(task, PROTOCOLS[name], tmp_path)
        assert found.ood["physics"].texts == kept
        assert len(found.ood["file"]) == 1
        assert found.dropped.get("physics, redux_error_type is not OK", 0) == 3 - len(kept)
