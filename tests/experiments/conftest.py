"""A tiny backbone, three files of rows, and grids over them."""

import json
from types import SimpleNamespace

import pytest
from tiny import tiny_llama, toy_rows

import bayeslora as bl
from bayeslora.metrics.intervals import Resampling

RESAMPLING = Resampling.__init__.__defaults__


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    tiny_llama(folder / "llama")
    for name, count, seed in (("train", 60, 0), ("valid", 30, 3), ("test", 40, 1), ("far", 20, 2)):
        rows = "".join(json.dumps(row) + "\n" for row in toy_rows(count, seed))
        (folder / f"{name}.jsonl").write_text(rows)
    files = {key: str(folder / f"{key}.jsonl") for key in ("train", "test", "far")}
    return SimpleNamespace(folder=folder, llama=str(folder / "llama"), **files)


def small_grid(place):
    task = {"name": "toy", "train": place.train, "test": place.test, "ood": {"far": place.far}}
    return {
        "tasks": [task],
        "backbones": place.llama,
        "adapters": ["lora"],
        "posteriors": ["mle", "laplace"],
        "seeds": [0, 1],
        "fit": {"epochs": 1},
        "model": {"max_length": 32, "dtype": "float32"},
    }


@pytest.fixture
def grid(place):
    """Return a grid of four cells that take less than a second each."""
    return small_grid(place)


@pytest.fixture(scope="session")
def finished(place, tmp_path_factory):
    """Return the grid after its run: its content, its directory and its results."""
    content, out = small_grid(place), tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        # The same intervals as in other processes, where `few_resamples` has no effect.
        patch.setattr(Resampling.__init__, "__defaults__", RESAMPLING)
        return content, out, bl.experiment(content, out)


@pytest.fixture
def scores():
    """Return a function from results to their table rows that do not depend on the machine."""

    def read(result):
        table = result.table.to_pylist()
        return [row for row in table if row["set"] != "cost"]

    return read
