"""Adapter options: what they stand for and what they refuse."""

import math
import subprocess
import sys

import pytest

from bayeslora.adapters.corda.options import CorDA
from bayeslora.adapters.emtal.options import EMTAL
from bayeslora.adapters.frozen import Frozen
from bayeslora.adapters.ilora.options import ILoRA
from bayeslora.adapters.lisa.options import LISA
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.pissa import PiSSA
from bayeslora.adapters.polar.options import PoLAR
from bayeslora.adapters.registry import ADAPTERS, table_name
from bayeslora.adapters.s2ft.options import S2FT
from bayeslora.errors import InputError
from bayeslora.options import as_mapping, resolve


def test_registry_names_are_those_of_the_classes():
    named = {"lora": LoRA, "polar": PoLAR, "pissa": PiSSA, "corda": CorDA, "s2ft": S2FT}
    more = {"lisa": LISA, "emtal": EMTAL, "ilora": ILoRA, "none": Frozen}
    assert {**named, **more} == ADAPTERS
    assert all(cls.summary and "arXiv" in cls.source for cls in ADAPTERS.values())


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


ALPHA = {
    LoRA: "alpha must be a number > 0, got {}",
    PoLAR: "alpha must be a number > 0, got {}",
    PiSSA: "alpha must be a number > 0 or None (r), got {}",
    CorDA: "alpha must be a number > 0 or None (r), got {}",
}


@pytest.mark.parametrize("cls", ALPHA)
@pytest.mark.parametrize("alpha", [0, -1.0, math.nan, "x", True])
def test_a_scale_that_is_none_is_refused(cls, alpha):
    with pytest.raises(InputError) as caught:
        cls(alpha=alpha)
    assert str(caught.value) == ALPHA[cls].format(repr(alpha))


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


@pytest.mark.parametrize("cls", ALPHA)
@pytest.mark.parametrize("r", [0, 8.0, True])
def test_a_rank_that_is_none_is_refused(cls, r):
    with pytest.raises(InputError) as caught:
        cls(r=r)
    assert str(caught.value) == f"r must be an integer >= 1, got {r!r}"


@pytest.mark.parametrize("cls", [cls for cls in ADAPTERS.values() if cls is not Frozen])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": "fast"}, "lr must be a number > 0 or None (the adapter's default), got 'fast'"),
        ({"lr": math.inf}, "lr must be a number > 0 or None (the adapter's default), got inf"),
        ({"weight_decay": -0.1}, "weight_decay must be a number >= 0, got -0.1"),
        (
            {"num_layers": 0},
            "num_layers must be an integer >= 1 or None (all layers), got 0",
        ),
    ],
)
def test_shared_options_are_checked(cls, options, message):
    with pytest.raises(InputError) as caught:
        cls(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize("cls", [cls for cls in ADAPTERS.values() if cls not in {LISA, Frozen}])
@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ((), "target_modules must be names of modules or None, got ()"),
        (3, "target_modules must be names of modules or None, got 3"),
        (("q", ""), "target_modules must hold non-empty strings, got ''"),
    ],
)
def test_targets_of_sites_are_checked(cls, targets, message):
    with pytest.raises(InputError) as caught:
        cls(target_modules=targets)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (LoRA, {"dropout": 1.0}, "dropout must be a number >= 0 and < 1, got 1.0"),
        (LoRA, {"use_rslora": 1}, "use_rslora must be true or false, got 1"),
        (LoRA, {"dropout": -0.1}, "dropout must be a number >= 0 and < 1, got -0.1"),
        (PiSSA, {"niter": -1}, "niter must be an integer >= 0 or None (exact), got -1"),
        (PiSSA, {"niter": 2.0}, "niter must be an integer >= 0 or None (exact), got 2.0"),
        (
            CorDA,
            {"mode": "imp"},
            "unknown mode 'imp' (did you mean 'ipm'?); choose from 'ipm', 'kpm'",
        ),
        (
            CorDA,
            {"mode": "kpm"},
            "mode 'kpm' keeps what a context needs, and none is named: context=FILE, or a list of "
            "texts in Python",
        ),
        (CorDA, {"context": ()}, "context must be a file, a list of texts or None, got ()"),
        (CorDA, {"context": 3}, "context must be a file, a list of texts or None, got 3"),
        (CorDA, {"context": ["a", " "]}, "context must hold texts that are not blank, got ' '"),
        (CorDA, {"context_rows": 0}, "context_rows must be an integer >= 1, got 0"),
        (CorDA, {"power": -0.5}, "power must be a number >= 0, got -0.5"),
        (CorDA, {"power": 1.5}, "power must be a number from 0 to 1, got 1.5"),
        (CorDA, {"damping": 0.0}, "damping must be a number > 0, got 0.0"),
        (S2FT, {"o_ratio": 1.5}, "o_ratio must be a number from 0 to 1, got 1.5"),
        (S2FT, {"d_ratio": -0.1}, "d_ratio must be a number >= 0, got -0.1"),
        (S2FT, {"d_ratio": "x"}, "d_ratio must be a number >= 0, got 'x'"),
        (
            S2FT,
            {"o_ratio": 0, "d_ratio": 0},
            "o_ratio and d_ratio are both 0, so nothing would be trained",
        ),
        (S2FT, {"largest": 1}, "largest must be true or false, got 1"),
        (S2FT, {"context_rows": 0}, "context_rows must be an integer >= 1, got 0"),
        (PoLAR, {"landing_lambda": -1}, "landing_lambda must be a number >= 0, got -1"),
        (PoLAR, {"absorb_every": -1}, "absorb_every must be an integer >= 0, got -1"),
        (PoLAR, {"max_rotation": 0.0}, "max_rotation must be a number > 0, got 0.0"),
        (
            PoLAR,
            {"constraint": "retract"},
            "unknown constraint 'retract' (did you mean 'retraction'?); choose from "
            "'euclidean-penalty', 'landing', 'retraction'",
        ),
    ],
)
def test_own_options_are_checked(cls, options, message):
    with pytest.raises(InputError) as caught:
        cls(**options)
    assert str(caught.value) == message


def test_texts_of_a_context_may_be_a_list():
    assert CorDA(context=["a", "b"]).context == ("a", "b")
    assert CorDA(context="generic.jsonl").context == "generic.jsonl"


def test_only_the_published_power_is_called_corda():
    assert table_name(as_mapping(CorDA())) == "corda"
    assert table_name(as_mapping(CorDA(power=0.5))) == "context-svd-0.5"
    assert table_name(as_mapping(LoRA())) == "lora"


def test_importing_the_options_loads_no_torch():
    code = "import sys, bayeslora.adapters.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
