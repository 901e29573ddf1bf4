"""Invalid PEFT checkpoints, and the errors that name their faults."""

import json
import sys

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file, save_file

from bayeslora.adapters.inject import find_sites, inject
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.peft_bridge import export_peft, load_peft, peft_adapter
from bayeslora.testing.adapter import randomise, stack


@pytest.fixture
def checkpoint(tmp_path):
    sites = inject(stack(), LoRA(r=2, target_modules=("head",)), seed=0)
    randomise(sites)
    export_peft(sites, tmp_path)
    return tmp_path


def change(checkpoint, **options):
    path = checkpoint / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def change_tensors(checkpoint, **tensors):
    path = checkpoint / "adapter_model.safetensors"
    changed = {f"base_model.model.{name}": value for name, value in tensors.items()}
    save_file(load_file(path) | changed, path)


def assert_refused(checkpoint, *named, code="input"):
    model = stack()
    with refused(code, *named):
        load_peft(model, checkpoint)
    assert not find_sites(model)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"peft_type": "IA3"}, ("peft_type", "'IA3'")),
        ({"use_dora": True}, ("use_dora", "True")),
        ({"use_bdlora": True}, ("use_bdlora",)),
        ({"velora_config": {"r": 4}}, ("velora_config", "{'r': 4}")),
        ({"an_option_of_the_future": 1}, ("an_option_of_the_future",)),
        ({"bias": "all"}, ("bias", "'all'")),
        ({"target_modules": 3}, ()),
        ({"target_modules": "(["}, ("unterminated",)),
        ({"layers_to_transform": "x"}, ()),
        ({"init_lora_weights": "pissa_niter_4"}, ("'pissa_niter_4'",)),
        ({"init_lora_weights": "corda"}, ("'corda'",)),
        ({"init_lora_weights": "olora"}, ("'olora'",)),
        ({"r": None}, ()),
        ({"r": 0}, ()),
        ({"r": 3}, ("'head'", "[2, 6]", "3")),
        ({"lora_alpha": "x"}, ()),
        ({"lora_alpha": float("inf")}, ("lora_alpha", "'head'")),
        ({"alpha_pattern": [1]}, ()),
        ({"alpha_pattern": {"([": 3}}, ("unterminated",)),
        ({"alpha_pattern": {"head": "x"}}, ()),
        ({"rank_pattern": {"head": True}}, ("'head'",)),
    ],
)
def test_variants_that_cannot_be_read(checkpoint, options, named):
    change(checkpoint, **options)
    assert_refused(checkpoint, "adapter_config.json", *named)


def test_pickles_are_not_opened(checkpoint):
    (checkpoint / "adapter_model.safetensors").rename(checkpoint / "adapter_model.bin")
    assert_refused(checkpoint, "pickle")


def test_missing_and_damaged_files_are_named(checkpoint):
    path = checkpoint / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    assert_refused(checkpoint, code="damaged")
    path.unlink()
    assert_refused(checkpoint, "adapter_model.safetensors")
    assert_refused(checkpoint / "nowhere", "adapter_config.json")


def test_reading_needs_peft(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert_refused(checkpoint, "bayeslora[peft]", code="missing")


def test_a_checkpoint_without_factors_is_refused(checkpoint):
    save_file(
        {"base_model.model.score.weight": torch.zeros(2)}, checkpoint / "adapter_model.safetensors"
    )
    assert_refused(checkpoint, "lora_A.weight", "lora_B.weight")


@pytest.mark.parametrize(
    ("pattern", "use_rslora", "scale"),
    [
        ({}, False, 16 / 2),
        ({"head": 6}, False, 6 / 2),
        ({"ead": 6}, False, 16 / 2),
        ({"he.d": 6, "head": 8}, True, 6 / 2**0.5),
        ({"head": -6}, False, -6 / 2),
        ({"elsewhere": 0, "x+head": 7}, False, 16 / 2),
    ],
)
def test_scales_follow_the_pattern_that_ends_the_path(checkpoint, pattern, use_rslora, scale):
    change(checkpoint, alpha_pattern=pattern, use_rslora=use_rslora)
    (site,) = load_peft(stack(), checkpoint)
    assert site.scale == pytest.approx(scale)
    assert peft_adapter(checkpoint).use_rslora is use_rslora
