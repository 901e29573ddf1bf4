"""Published settings reach the fit; deviations from them are reported."""

import json

import pytest

from bayeslora.experiments.cells import Workshop
from bayeslora.experiments.grid import PROTOCOLS, Task, as_grid
from bayeslora.experiments.rows import task_rows


@pytest.fixture
def setup(grid):
    """Return a function that sets up the first cell of the small grid after changes."""

    def made(**changes):
        content = {**grid, **changes}
        content = {key: value for key, value in content.items() if value is not None}
        workshop = Workshop(as_grid(content))
        return workshop.checked(workshop.grid.cells[0])

    return made


def deviations_with(setup, word):
    return [deviation for deviation in setup.deviations if word in deviation]


# The published settings: steps, batch size, learning rate, dropout, split, seeds.
@pytest.mark.parametrize(
    ("name", "steps", "lr", "dropout", "seeds"),
    [("blob", 5_000, 1e-4, 0.0, (1, 2, 3)), ("laplace-lora", 10_000, 5e-5, 0.1, (21, 42, 87))],
)
def test_published_settings_reach_the_fit(setup, name, steps, lr, dropout, seeds):
    cell = setup(protocol=name, seeds=None, fit={}, model={})
    adapter = cell.adapter
    assert (adapter.r, adapter.alpha, adapter.dropout, adapter.lr) == (8, 16.0, dropout, lr)
    assert (adapter.num_layers, adapter.target_modules) == (None, None)
    assert cell.model == {"max_length": 300, "depth": 1.0}
    # 60 rows in batches of 4 are 15 steps per epoch; 5,000 / 15 = 333.3 and 10,000 / 15 = 666.7.
    assert cell.fit == {"cv": 0, "batch_size": 4, "epochs": round(steps / 15)}
    assert (PROTOCOLS[name].steps, PROTOCOLS[name].seeds) == (steps, seeds)
    assert deviations_with(cell, f"{15 * round(steps / 15)} instead of {steps}")
    assert deviations_with(cell, "8 bits")
    assert deviations_with(cell, "no validation rows")


def test_what_the_grid_changes_is_said(setup):
    cell = setup(protocol="blob", adapters=["lora:r=16"], fit={"epochs": 2})
    assert cell.adapter.r == 16
    assert cell.adapter.alpha == 16.0
    assert deviations_with(cell, "r: 16 instead of 8")
    assert deviations_with(cell, "epochs: 2 by the grid")
    same = setup(protocol="blob", adapters=["lora:r=8"], fit={"epochs": 2})
    assert not [deviation for deviation in same.deviations if deviation.startswith("r: ")]


def test_draws_are_those_of_the_posterior(setup):
    blob = setup(protocol="blob", posteriors=["blob"], fit={"epochs": 1})
    assert blob.predict == {"num_samples": 10}
    point = setup(protocol="blob", posteriors=["mle"], fit={"epochs": 1})
    assert point.predict == {}
    laplace = setup(protocol="laplace-lora", posteriors=["laplace_lora"], fit={"epochs": 1})
    assert laplace.predict == {"num_samples": 100_000}


def test_our_own_protocol_selects_on_a_cut_of_train(setup):
    cell = setup(seeds=None)
    assert cell.fit["hold_out"] == 0.2
    assert cell.rows.split == "test"
    by_grid = ("epochs: 1 by the grid", "max_length: 32 by the grid", "dtype: float32 by the grid")
    assert cell.deviations == by_grid


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


def write_known(folder, *splits, about=""):
    """Write the files of a known task of questions with 3 or 4 options."""
    folder.mkdir()
    for split in splits:
        rows = [
            {"id": f"{split}-{k}", "question": f"{split} {k}{about}"}
            | {"choices": [*"wxyz"][: 4 - k % 2], "answer_index": k % 2}
            for k in range(6)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", ["winogrande-s", "winogrande_xs", "boolq-question-only"])
def test_official_validation_rows_are_reported_as_published(tmp_path, name):
    folder = tmp_path / name.replace("-", "_")
    write_known(folder, "train", "test")
    rows = task_rows(Task(name=name, ood={}), PROTOCOLS["blob"], tmp_path)
    assert rows.split == "test"
    (text,) = rows.deviations
    assert "official validation" in text
    assert "as published" in text
    assert task_rows(Task(name=name, ood={}), PROTOCOLS["bayeslora"], tmp_path).deviations == ()


@pytest.mark.parametrize("name", ["arc-easy", "arc_easy"])
def test_the_options_of_arc_are_those_of_the_protocol(tmp_path, name):
    write_known(tmp_path / "arc_easy", "train", "test")
    for protocol_name, count in (("blob", 6), ("laplace-lora", 3)):
        rows = task_rows(Task(name=name, ood={}), PROTOCOLS[protocol_name], tmp_path)
        assert len(rows.train) == len(rows.reported) == count


def test_ood_rows_of_train_or_of_the_reported_split_are_dropped(tmp_path):
    kinds = ("train", "test", "far")
    rows = {
        kind: [{"question": f"{kind} {k}", "choices": [*"xyz"], "answer": 0} for k in range(6)]
        for kind in kinds
    }
    rows["far"] += [rows["train"][0], rows["test"][1], rows["test"][2]]
    for kind in kinds:
        (tmp_path / f"{kind}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows[kind])
        )
    files = {kind: str(tmp_path / f"{kind}.jsonl") for kind in kinds}
    ood = {"far": files.pop("far")}
    read = task_rows(Task(name="quiz", **files, ood=ood), PROTOCOLS["bayeslora"])
    assert read.dropped == {"far, in quiz too": 3}
    assert read.ood["far"].texts == tuple(f"far {k}" for k in range(6))
    assert (len(read.train), len(read.reported)) == (6, 6)
