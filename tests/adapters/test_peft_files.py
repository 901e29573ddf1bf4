"""Invalid PEFT checkpoints, and the errors that name their faults."""

import json

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file, save_file

from bayeslora.adapters.inject import inject
from bayeslora.adapters.options import LoRA
from bayeslora.adapters.peft_bridge import export_peft, read_peft
from bayeslora.errors import InputError
from bayeslora.testing.adapter import randomise, stack


@pytest.fixture
def checkpoint(tmp_path):
    sites = inject(stack(), LoRA(r=2, target_modules=("head",)), seed=0)
    randomise(sites)
    export_peft(sites, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type must be 'LORA', got 'IA3'"),
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"use_bdlora": True}, "use_bdlora = True is not supported"),
        ({"velora_config": {"r": 4}}, "velora_config = {'r': 4} is not supported"),
        ({"target_modules": 3}, "target_modules must be a pattern or a list of names, got 3"),
        ({"target_modules": "(["}, "target_modules has the invalid pattern '([': unterminated"),
        ({"exclude_modules": [1]}, "exclude_modules must be a pattern or a list of names, got [1]"),
        (
            {"layers_to_transform": "x"},
            "layers_to_transform must be a number or a list of numbers, got 'x'",
        ),
        ({"bias": "all"}, "bias must be 'none', got 'all'"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "'pissa_niter_4' changed the base model's weights, and the factors do not record how; "
            "save it with PEFT's path_initial_model_for_weight",
        ),
        ({"init_lora_weights": "corda"}, "'corda' changed the base model's weights"),
        ({"init_lora_weights": "olora"}, "'olora' changed the base model's weights"),
        ({"r": None}, "r must be a number > 0, got None"),
        ({"r": 0}, "r must be a number > 0, got 0"),
        ({"lora_alpha": "x"}, "lora_alpha must be a number > 0, got 'x'"),
        ({"alpha_pattern": [1]}, "alpha_pattern must map patterns to numbers, got [1]"),
        ({"alpha_pattern": {"([": 3}}, "alpha_pattern has the invalid pattern '([': unterminated"),
        (
            {"alpha_pattern": {"(?i)head": 3}},
            "alpha_pattern has the invalid pattern '(?i)head': global",
        ),
        ({"alpha_pattern": {"head": "x"}}, "alpha_pattern of 'head' must be a number, got 'x'"),
        ({"rank_pattern": {"head": True}}, "rank_pattern of 'head' must be a number, got True"),
    ],
)
def test_variants_that_cannot_be_read(checkpoint, change, message):
    path = checkpoint / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError) as caught:
        read_peft(checkpoint)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_foreign_json_is_named(checkpoint):
    (checkpoint / "adapter_config.json").write_text("[1]")
    with refused("input", "PEFT"):
        read_peft(checkpoint)


def test_pickles_are_not_opened(checkpoint):
    (checkpoint / "adapter_model.safetensors").rename(checkpoint / "adapter_model.bin")
    with refused("input", "pickle"):
        read_peft(checkpoint)


def test_missing_and_damaged_files_are_named(checkpoint):
    path = checkpoint / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with refused("damaged"):
        read_peft(checkpoint)
    path.unlink()
    with refused("input", "adapter_model.safetensors"):
        read_peft(checkpoint)
    with refused("input", "adapter_config.json"):
        read_peft(checkpoint / "nowhere")


@pytest.mark.parametrize(
    "name",
    ["base_model.model.head.lora_magnitude_vector", "base_model.model.emb.lora_embedding_A"],
)
def test_tensors_of_other_layers_are_refused(checkpoint, name):
    path = checkpoint / "adapter_model.safetensors"
    save_file(load_file(path) | {name: torch.zeros(2)}, path)
    with refused("input", name):
        read_peft(checkpoint)


def test_a_checkpoint_without_factors_is_refused(checkpoint):
    save_file(
        {"base_model.model.score.weight": torch.zeros(2)}, checkpoint / "adapter_model.safetensors"
    )
    with refused("input", "lora_A.weight", "lora_B.weight"):
        read_peft(checkpoint)


def test_factors_that_do_not_fit_together_are_named(checkpoint):
    path = checkpoint / "adapter_model.safetensors"
    save_file(load_file(path) | {"base_model.model.head.lora_A.weight": torch.zeros(3, 6)}, path)
    with refused("input", "'head'", "[3, 6] and [4, 2]"):
        read_peft(checkpoint)


def test_another_rank_than_that_of_the_configuration_is_named(checkpoint):
    path = checkpoint / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 3}))
    with refused("input", "'head'", "rank 2", "3"):
        read_peft(checkpoint)


@pytest.mark.parametrize("name", ["head.lora_A.weight", "score.weight"])
def test_values_that_are_not_finite_are_named(checkpoint, name):
    path = checkpoint / "adapter_model.safetensors"
    broken = torch.full((2, 6), torch.nan)
    save_file(load_file(path) | {f"base_model.model.{name}": broken}, path)
    with refused("input", name):
        read_peft(checkpoint)


@pytest.mark.parametrize("start", ["Gaussian", "MiCA", "orthogonal"])
def test_starts_are_known_in_any_case_as_to_peft(checkpoint, start):
    path = checkpoint / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": start}))
    assert not read_peft(checkpoint).is_pissa


def test_ranks_of_other_layers_do_not_matter(checkpoint):
    path = checkpoint / "adapter_config.json"
    change = {"rank_pattern": {"elsewhere": 0, "x+head": 7}}
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert read_peft(checkpoint).scales == {"head": 16 / 2}


def test_factors_in_8_bit_floats_are_read(checkpoint):
    path = checkpoint / "adapter_model.safetensors"
    save_file({k: v.to(torch.float8_e4m3fn) for k, v in load_file(path).items()}, path)
    assert read_peft(checkpoint).tensors["head.A"].dtype == torch.float32


@pytest.mark.parametrize(
    ("pattern", "use_rslora", "scale"),
    [
        ({}, False, 16 / 2),
        ({"head": 6}, False, 6 / 2),
        ({"ead": 6}, False, 16 / 2),
        ({"he.d": 6, "head": 8}, True, 6 / 2**0.5),
        ({"head": -6}, False, -6 / 2),
        ({"head": 0}, False, 0.0),
    ],
)
def test_scales_follow_the_pattern_that_ends_the_path(checkpoint, pattern, use_rslora, scale):
    path = checkpoint / "adapter_config.json"
    change = {"alpha_pattern": pattern, "use_rslora": use_rslora}
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    result = read_peft(checkpoint)
    assert result.scales == {"head": pytest.approx(scale)}
    assert result.config.use_rslora is use_rslora
