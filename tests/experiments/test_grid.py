"""What a grid may contain; every mistake is reported before anything is read or fitted."""

import pytest
import yaml
from refusal import refused

from bayeslora.errors import InputError
from bayeslora.experiments.grid import PROTOCOLS, as_grid

TASKS = {"tasks": ["sst2", "ag-news"]}


def test_cells_are_the_product_of_all_lists():
    grid = as_grid(
        {
            **TASKS,
            "backbones": ["minilm", "smollm2-135m"],
            "adapters": ["lora", "polar:r=4"],
            "posteriors": ["mle", "vbll", "laplace"],
            "seeds": [3, 4],
        }
    )
    assert len(grid.cells) == 2 * 2 * 2 * 3 * 2
    assert len({cell.id for cell in grid.cells}) == len(grid.cells)
    assert [method.name for method in grid.all_methods][:2] == ["lora mle", "lora vbll"]
    assert grid.reference == "lora mle"


def test_seeds_are_those_of_the_protocol_where_none_are_named():
    for name, protocol in PROTOCOLS.items():
        rows = {"rows": 64} if protocol.draws_rows else {}
        grid = as_grid({**TASKS, "protocol": name, **rows})
        assert {cell.seed for cell in grid.cells} == {*protocol.seeds}


def test_methods_have_names_and_fit_options_of_their_own():
    grid = as_grid(
        {
            **TASKS,
            "methods": [
                {"name": "split", "adapter": "lora", "posterior": "mle", "fit": {"hold_out": 0.2}},
                {"adapter": "polar:r=4", "posterior": "vbll"},
            ],
        }
    )
    assert [method.name for method in grid.methods] == ["split", "polar:r=4 vbll"]
    assert grid.methods[0].fit == {"hold_out": 0.2}


def test_excluded_cells_are_left_out():
    base = {**TASKS, "adapters": ["lora", "polar:r=2"], "posteriors": ["mle", "tfb"], "seeds": [0]}
    grid = as_grid({**base, "exclude": [{"adapter": "polar", "posterior": "tfb"}]})
    assert [cell.method.name for cell in grid.cells if cell.task == "sst2"] == [
        "lora mle",
        "lora tfb",
        "polar:r=2 mle",
    ]
    grid = as_grid({**base, "exclude": [{"task": ["sst2", "ag-news"], "posterior": "tfb"}]})
    assert {cell.method.posterior for cell in grid.cells} == {"mle"}


def test_an_id_depends_on_the_cell_alone():
    alone = as_grid({"tasks": "sst2", "seeds": [1]}).cells[0]
    among = as_grid({**TASKS, "seeds": [0, 1, 2], "fit": {"epochs": 3}}).cells
    assert alone.id in [cell.id for cell in among]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"taks": ["sst2"]}, ["taks"]),
        ({"tasks": [{"name": "a", "train": "a.jsonl"}]}, ["tasks.0", "test"]),
        ({"tasks": [{"name": "sst2", "text_column": "x"}]}, ["tasks.0", "train and test"]),
        ({"tasks": ["sst2", "sst2"]}, ["'sst2'", "twice"]),
        ({"protocol": "blop"}, ["'blop'", "did you mean 'blob'", "'bag'"]),
        ({"protocol": "label-budget"}, ["rows", "label-budget"]),
        ({"rows": [32]}, ["rows", "bayeslora"]),
        ({"seeds": [0, 0]}, ["seeds", "0", "twice"]),
        ({"reference": "lora vbl"}, ["'lora vbl'"]),
        ({"exclude": [{"posterior": "tfb"}]}, ["exclude", "tfb"]),
        ({"exclude": [{"task": ["sst2", "ag-news"]}]}, ["exclude"]),
        ({"predict": {"link": "foo"}}, ["predict", "link", "'foo'", "'mc'"]),
        ({"fit": {"out": "x"}}, ["fit", "out"]),
        ({"model": {"trust_remote_code": True}}, ["model", "trust_remote_code"]),
        ({"search": {"trials": 2, "ranges": {"lr": [1, 2]}}}, ["'lr'"]),
        ({"search": {"trials": 2, "ranges": {"adapter.lr": {"low": 2, "high": 1}}}}, ["low"]),
        (
            {"search": {"trials": 2, "ranges": {"adapter.lr": {"low": 0, "high": 1, "log": True}}}},
            ["log"],
        ),
    ],
)
def test_a_mistake_is_named(change, named):
    with pytest.raises(InputError) as caught:
        as_grid({**TASKS, **change})
    for word in named:
        assert word in str(caught.value)


def test_a_file_is_named_with_its_mistake(tmp_path):
    file = tmp_path / "grid.yaml"
    for text in ("tasks: [sst2\n", yaml.safe_dump({"task": "sst2"}), "- 1\n", ""):
        file.write_text(text)
        with pytest.raises(InputError, match=r"grid\.yaml"):
            as_grid(file)
    with refused("input", "none.yaml"):
        as_grid(tmp_path / "none.yaml")
