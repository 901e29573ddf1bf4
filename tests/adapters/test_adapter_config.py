"""Adapter options: their meanings and the values they reject."""

import math
import subprocess
import sys

import pytest
from refusal import refused

from bayeslora.adapters.frozen import Frozen
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.pissa import PiSSA
from bayeslora.adapters.polar import PoLAR
from bayeslora.adapters.registry import ADAPTERS, table_name
from bayeslora.contrib.amt import AMT
from bayeslora.contrib.corda import CorDA
from bayeslora.contrib.emtal import EMTAL
from bayeslora.contrib.ilora import ILoRA
from bayeslora.contrib.lisa import LISA
from bayeslora.contrib.s2ft import S2FT
from bayeslora.errors import InputError
from bayeslora.options import as_mapping, resolve


def test_registry_names_are_those_of_the_classes():
    named = {"lora": LoRA, "polar": PoLAR, "pissa": PiSSA, "corda": CorDA, "s2ft": S2FT}
    more = {"lisa": LISA, "emtal": EMTAL, "ilora": ILoRA, "amt": AMT, "none": Frozen}
    assert {**named, **more} == ADAPTERS
    assert all(cls.summary and cls.source for cls in ADAPTERS.values())


@pytest.mark.parametrize(
    "config",
    [
        LoRA(r=4),
        PoLAR(target_modules=("q_proj",), num_layers=None),
        PiSSA(niter=4),
        CorDA(mode="kpm", context=("a text", "b")),
        S2FT(o_ratio=0, selection="activation", largest=False),
    ],
)
def test_round_trip_through_a_mapping(config):
    assert resolve("adapter", as_mapping(config), ADAPTERS) == config


def test_a_string_with_options_is_understood():
    config = resolve("adapter", "polar:r=4,constraint=landing,num_layers=null", ADAPTERS)
    assert config == PoLAR(r=4, constraint="landing", num_layers=None)


def test_a_rank_stabilised_scale_is_an_option_on_the_command_line():
    assert resolve("adapter", "lora:use_rslora=true", ADAPTERS) == LoRA(use_rslora=True)


def test_one_target_may_be_a_plain_string():
    assert LoRA(target_modules="q_proj").target_modules == ("q_proj",)
    assert LoRA(target_modules=["a", "b"]).target_modules == ("a", "b")


LOW_RANK = (LoRA, PoLAR, PiSSA, CorDA)


def refusal_of(cls, **options):
    """Return the message, which names each option and its value."""
    with pytest.raises(InputError) as caught:
        cls(**options)
    message = str(caught.value)
    for name, value in options.items():
        assert name in message
        assert str(value) in message
    return message


@pytest.mark.parametrize("cls", LOW_RANK)
@pytest.mark.parametrize("alpha", [0, -1.0, math.nan, "x", True])
def test_a_scale_that_is_none_is_refused(cls, alpha):
    assert "> 0" in refusal_of(cls, alpha=alpha)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        (LoRA(r=8, alpha=16), 2),
        (PoLAR(r=4, alpha=6), 1.5),
        (PiSSA(), 1),
        (LoRA(r=4, alpha=6, use_rslora=True), 3),
        (PiSSA(r=4, alpha=2), 0.5),
    ],
)
def test_the_scale_is_alpha_over_r(config, scale):
    assert config.scale == scale


@pytest.mark.parametrize("cls", LOW_RANK)
@pytest.mark.parametrize("r", [0, 8.0, True])
def test_a_rank_that_is_none_is_refused(cls, r):
    assert ">= 1" in refusal_of(cls, r=r)


@pytest.mark.parametrize("cls", [cls for cls in ADAPTERS.values() if cls is not Frozen])
@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"lr": "fast"}, "> 0 or None"),
        ({"lr": math.inf}, "> 0 or None"),
        ({"weight_decay": -0.1}, ">= 0"),
        ({"num_layers": 0}, ">= 1"),
    ],
)
def test_shared_options_are_checked(cls, options, allowed):
    if cls is AMT and "weight_decay" in options:
        pytest.skip("its episodes have an optimiser of their own")
    assert allowed in refusal_of(cls, **options)


@pytest.mark.parametrize("cls", [cls for cls in ADAPTERS.values() if cls not in {LISA, Frozen}])
@pytest.mark.parametrize(
    ("targets", "wrong"), [((), "()"), (3, "3"), (("q", ""), "''"), (("q", 3), "3")]
)
def test_targets_of_sites_are_checked(cls, targets, wrong):
    with refused("option", "target_modules") as caught:
        cls(target_modules=targets)
    assert str(caught.value).endswith(wrong)


@pytest.mark.parametrize(
    ("cls", "options", "allowed"),
    [
        (LoRA, {"dropout": 1.0}, "< 1"),
        (PiSSA, {"niter": -1}, "0 to 1,000 or None"),
        (CorDA, {"mode": "kpm"}, "context"),
        (CorDA, {"context": ()}, "non-empty string"),
        (CorDA, {"power": 1.5}, "0 to 1"),
        (S2FT, {"o_ratio": 0, "d_ratio": 0}, "0"),
        (PoLAR, {"constraint": "retract"}, "'euclidean-penalty', 'landing', 'retraction'"),
    ],
)
def test_own_options_are_checked(cls, options, allowed):
    assert allowed in refusal_of(cls, **options)


def test_texts_of_a_context_may_be_a_list():
    with refused("option", "context", "' '"):
        CorDA(context=["a", " "])
    assert CorDA(context=["a", "b"]).context == ("a", "b")
    assert CorDA(context="generic.jsonl").context == "generic.jsonl"


def test_only_the_published_power_is_called_corda():
    assert table_name(as_mapping(CorDA())) == "corda"
    assert table_name(as_mapping(CorDA(power=0.5))) == "context-svd-0.5"
    assert table_name(as_mapping(LoRA())) == "lora"


def test_importing_the_options_loads_no_torch():
    code = "import sys, bayeslora.adapters.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
