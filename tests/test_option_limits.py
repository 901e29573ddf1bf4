"""No option of any method accepts a number that would compute forever or overflow."""

import dataclasses
import math

import pytest
from refusal import refused

from bayeslora import options
from bayeslora.adapters.registry import ADAPTERS
from bayeslora.conformal import CONFORMAL
from bayeslora.errors import InputError
from bayeslora.option_checks import LARGEST_COUNT
from bayeslora.posteriors.registry import POSTERIORS
from bayeslora.recalibration.recalibrate import RECALIBRATORS

METHODS = {**ADAPTERS, **POSTERIORS, **RECALIBRATORS, **CONFORMAL}
OPTIONS = [
    (name, field.name)
    for name, config in METHODS.items()
    for field in dataclasses.fields(config)
    if field.name not in {"context", "target_modules"}  # arbitrary names
]
HOSTILE = (10**13, -(10**13), 1e300, -1e300, math.inf, -math.inf, math.nan, "", (), {})


@pytest.mark.parametrize(("method", "option"), OPTIONS)
def test_a_hostile_value_is_refused(method, option):
    for value in HOSTILE:
        with pytest.raises(InputError) as caught:
            options.resolve("method", {"name": method, option: value}, METHODS)
        assert option in str(caught.value) or method in str(caught.value)


@pytest.mark.parametrize(
    ("method", "option", "most"),
    [
        ("vbll", "num_samples", LARGEST_COUNT),
        ("lora", "r", LARGEST_COUNT),
        ("ensemble", "num_members", 1000),
        ("nuts", "num_chains", 1000),
    ],
)
def test_a_count_has_a_limit_that_the_error_names(method, option, most):
    options.resolve("method", {"name": method, option: most}, METHODS)
    with refused("option", f"{most:,}", most + 1):
        options.resolve("method", {"name": method, option: most + 1}, METHODS)
