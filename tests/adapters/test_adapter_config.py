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
from bayeslora.adapters.registry import ADAPTERS
from bayeslora.errors import InputError
from bayeslora.option_checks import option_names


def refusal_of(cls, **options):
    """Return the message, which names each option and its value."""
    with pytest.raises(InputError) as caught:
        cls(**options)
    message = str(caught.value)
    for name, value in options.items():
        assert name in message
        assert str(value) in message
    return message


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


@pytest.mark.parametrize("cls", [cls for cls in ADAPTERS.values() if cls is not Frozen])
@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"lr": "fast"}, "1e-12"),
        ({"lr": math.inf}, "1e-12"),
        ({"weight_decay": -0.1}, ">= 0"),
        ({"num_layers": 0}, ">= 1"),
    ],
)
def test_shared_options_are_checked(cls, options, allowed):
    if not options.keys() <= set(option_names(cls)):
        pytest.skip("it has no such option")
    assert allowed in refusal_of(cls, **options)


@pytest.mark.parametrize("cls", [cls for cls in ADAPTERS.values() if cls.has_sites])
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
        (PoLAR, {"constraint": "retract"}, "'landing' or 'retraction'"),
    ],
)
def test_own_options_are_checked(cls, options, allowed):
    assert allowed in refusal_of(cls, **options)


def test_importing_the_options_loads_no_torch():
    code = "import sys, bayeslora.adapters.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
