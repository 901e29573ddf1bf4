"""Adapter options: their meanings and the values they reject."""

import pytest
from refusal import refused

from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.pissa import PiSSA
from bayeslora.adapters.polar import PoLAR
from bayeslora.adapters.registry import ADAPTERS


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


@pytest.mark.parametrize("cls", [cls for cls in ADAPTERS.values() if cls.has_sites])
@pytest.mark.parametrize(
    ("targets", "wrong"), [((), "()"), (3, "3"), (("q", ""), "''"), (("q", 3), "3")]
)
def test_targets_of_sites_are_checked(cls, targets, wrong):
    with refused("option", "target_modules") as caught:
        cls(target_modules=targets)
    assert str(caught.value).endswith(wrong)
