"""The grids of the repository: checked unchanged, and run at test size."""

import json
import math
from pathlib import Path

import pytest
import yaml
from tiny import lettered_llama, toy_questions

import bayeslora as bl
from bayeslora.experiments import run
from bayeslora.experiments.grid import as_grid
from benchmarks.claims.__main__ import CHOICE_OURS, CHOICE_RIVALS

pytestmark = pytest.mark.usefixtures("few_resamples")

GRIDS = Path(__file__).parents[2] / "benchmarks" / "grids"


@pytest.mark.parametrize("file", sorted(GRIDS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_grid_can_be_read(file):
    assert as_grid(file).cells


def test_the_grids_of_multiple_choice_have_the_methods_of_the_claims():
    core = {method.name for method in as_grid(GRIDS / "multiple-choice-core.yaml").methods}
    assert core == {CHOICE_OURS, *CHOICE_RIVALS}


def write_questions(folder, **counts):
    """Write files of toy questions; return their paths by name."""
    files = {}
    for seed, (name, count) in enumerate(counts.items(), start=5):
        rows = "".join(json.dumps(row) + "\n" for row in toy_questions(count, seed))
        (folder / f"{name}.jsonl").write_text(rows)
        files[name] = str(folder / f"{name}.jsonl")
    return files


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return the paper-size grid on a tiny Llama and 2,000 questions: 10 epochs are 5,000 steps."""
    folder = tmp_path_factory.mktemp("paper")
    files = write_questions(folder, train=2000, validation=60, test=30, far=20)
    task = {"name": "toy", "ood": {"far": files.pop("far")}, **files}
    return {
        **yaml.safe_load((GRIDS / "paper-size.yaml").read_text()),
        "tasks": [task],
        "backbones": str(lettered_llama(folder / "llama", num_hidden_layers=1)),
        "seeds": [1],
        "model": {"dtype": "float32", "max_length": 64},
    }


def test_the_paper_size_run_takes_5000_steps_of_batch_4_of_rank_8(small):
    plan = run.plan({**small, "model": {}, "backbones": "meta-llama/Llama-3.1-8B"})
    (cell,) = [setting for setting in plan.settings if setting.method.name == "PoLAR-VBLL"]
    settings = plan.settings[cell]
    assert settings["fit"] == {"cv": 0, "batch_size": 4, "epochs": 10}
    assert (settings["adapter"]["r"], settings["adapter"]["num_layers"]) == (8, None)
    assert settings["adapter"]["lr"] == 1e-4
    assert settings["model"] == {"max_length": 300, "depth": 1.0, "format": "letters"}


def test_every_method_of_the_paper_size_run_ends_on_a_tiny_llama(small, tmp_path):
    files = write_questions(tmp_path, train=60, validation=20, test=10)
    task = {**small["tasks"][0], **files, "ood": []}
    result = bl.experiment({**small, "tasks": [task], "fit": {"epochs": 1}}, tmp_path / "out")
    assert result.failed == {}
    assert {record["cell"]["method"] for record in result.records} == {
        method["name"] for method in small["methods"]
    }
    assert {record["settings"]["model"]["format"] for record in result.records} == {"letters"}


def test_the_paper_size_run_ends_on_a_tiny_llama(small, tmp_path):
    """Run all 5,000 steps of batch 4 of the grid's own method, by letters."""
    methods = [method for method in small["methods"] if method["name"] == "PoLAR-VBLL"]
    result = bl.experiment({**small, "methods": methods}, tmp_path / "out")
    (record,) = result.records
    assert record["num_train"] == 2_000
    assert record["steps"] == 5_000
    assert record["settings"]["model"]["format"] == "letters"
    assert record["split"] == "validation"
    assert record["scores"]["reported"]["ood"]["far"]["n_out"] == 20
    assert not [text for text in record["deviations"] if text.startswith("steps:")]
    nll = record["scores"]["reported"]["scores"]["nll"]["value"]
    assert 0 < nll < math.log(3)
