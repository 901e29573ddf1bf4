"""What a plan says of its cells before and after the first of them is finished."""

import json

from bayeslora.experiments import run


def test_networks_to_train_are_counted(grid):
    grid = {**grid, "protocol": "label-budget", "rows": 60, "seeds": [0], "adapters": ["polar"]}
    plan = run.plan({**grid, "posteriors": ["vbll", "ensemble:num_members=3", "mle"]})
    fits = {cell.method.posterior: count for cell, count in plan.fits.items()}
    # Five parts of 12 rows are fewer than 128.
    assert fits == {"vbll": 5, "ensemble:num_members=3": 3, "mle": 1}


def test_a_plan_reads_as_json_and_needs_no_weights(grid):
    plan = run.plan({**grid, "backbones": "meta-llama/Llama-3.1-8B"})
    content = json.loads(json.dumps(plan.to_json()))
    assert content["num_cells"] == 4
    assert [cell["seeds"] for cell in content["cells"]] == [2, 2]
    assert {cell["seconds"] for cell in content["cells"]} == {None}
    assert any("Llama-3.1-8B" in sentence for sentence in content["missing"])


def test_time_and_memory_are_those_of_finished_cells(finished):
    grid, out, result = finished
    content = run.plan({**grid, "seeds": [0, 1, 2]}, out).to_json()
    for cell in content["cells"]:
        records = [
            record for record in result.records if record["cell"]["method"] == cell["method"]
        ]
        fits = [record["seconds"]["fit"] for record in records]
        assert (cell["seeds"], cell["finished"]) == (3, 2)
        assert min(fits) < cell["seconds"] < 2 * max(fits)
        assert cell["memory_bytes"] == max(record["peak_memory_bytes"] for record in records)
    assert content["missing"] == []
