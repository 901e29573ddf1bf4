"""Sizes and costs of a plan, compared with real models and calculations by hand."""

import json
import math

import pytest
from tiny import SIZES, tiny_bert, tiny_llama

from bayeslora.experiments import run
from bayeslora.experiments.plan import backbone_size


@pytest.mark.parametrize("build", [tiny_llama, tiny_bert])
def test_parameters_by_configuration_are_those_of_the_model(tmp_path, build):
    from transformers import AutoModel

    path = build(tmp_path / "model")
    size = backbone_size(str(path))
    model = AutoModel.from_pretrained(path)
    layers = model.layers if hasattr(model, "layers") else model.encoder.layer
    true = sum(parameter.numel() for parameter in layers[0].parameters() if parameter.ndim > 1)
    assert size.layer_parameters == true
    assert size.num_layers == SIZES["num_hidden_layers"]
    assert size.is_encoder == (build is tiny_bert)


# All layers and the embedding: 30 x 3,538,944 + 49,152 x 576; published as 135M.
@pytest.mark.parametrize(("name", "total"), [("smollm2-135m", 134.5e6), ("minilm", 22.7e6)])
def test_embedded_models_have_their_published_size(name, total):
    assert backbone_size(name).parameters == pytest.approx(total, rel=0.05)


def test_a_name_says_its_size_where_there_is_no_configuration():
    size = backbone_size("meta-llama/Llama-3.1-8B")
    assert (size.parameters, size.source) == (8e9, "name")
    assert 28 <= size.num_layers <= 40
    assert 3_500 <= size.width <= 4_800
    assert backbone_size("somebody/model") is None


def test_operations_are_those_of_the_formula(grid, place):
    grid = {**grid, "protocol": "label-budget", "rows": 30, "posteriors": ["mle"]}
    grid["tasks"][0].pop("ood")
    plan = run.plan({**grid, "model": {"max_length": 8, "depth": 1.0}, "fit": {"epochs": 3}})
    cost = next(iter(plan.estimates.values()))
    layer = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24
    # All three layers carry adapters; texts are longer than 8 tokens.
    assert cost.operations == 30 * 8 * 3 * 4 * (3 * layer) + 40 * 8 * 2 * (3 * layer)
    assert (cost.fits, cost.passes) == (1, 1)


def test_fits_and_passes_are_counted(grid):
    grid = {**grid, "protocol": "label-budget", "rows": 60, "seeds": [0]}
    names = ["vbll", "ensemble:num_members=3", "blob:num_samples=7"]
    plan = run.plan({**grid, "adapters": ["polar"], "posteriors": names})
    costs = {cell.method.posterior: estimate for cell, estimate in plan.estimates.items()}
    assert costs["vbll"].fits == 5  # five parts of 12 rows are fewer than 128
    assert costs["ensemble:num_members=3"].fits == 3
    assert costs["ensemble:num_members=3"].passes == 3
    assert costs["blob:num_samples=7"].passes == 7


def test_a_plan_reads_as_json_and_needs_no_weights(grid):
    plan = run.plan({**grid, "backbones": "meta-llama/Llama-3.1-8B"})
    content = json.loads(json.dumps(plan.to_json()))
    assert content["num_cells"] == 4
    assert all(math.isfinite(cell["seconds"]) for cell in content["cells"])
    assert content["cells"][0]["memory_bytes"] > 16e9
    assert any("Llama-3.1-8B" in note for note in content["notes"])
