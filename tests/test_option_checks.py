"""Options described by their annotations: accepted values, error messages and help."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal

import numpy as np
import pytest
from annotated_types import Interval, MinLen
from refusal import refused

from bayeslora.adapters.registry import ADAPTERS
from bayeslora.conformal import CONFORMAL
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.errors import InputError
from bayeslora.option_checks import (
    LARGEST_COUNT,
    BelowOne,
    Count,
    NotNegative,
    Options,
    Positive,
    Text,
    Texts,
    allowed,
    meanings,
)
from bayeslora.options import as_mapping
from bayeslora.posteriors.registry import POSTERIORS
from bayeslora.recalibration.recalibrate import RECALIBRATORS

METHODS = [*ADAPTERS.values(), *POSTERIORS.values(), *RECALIBRATORS.values(), *CONFORMAL.values()]


@dataclass(frozen=True)
class Tool(Options):
    """A tool."""

    name: ClassVar[str] = "tool"
    count: Count = 2
    """How many."""
    most: Annotated[int, Interval(ge=1, le=9)] = 9
    """At most."""
    size: Positive | None = None
    """How large."""
    scale: Positive | Literal["fit", "given"] = 1.0
    share: BelowOne = 0.0
    kind: Literal["flat", "round"] = "flat"
    is_new: bool = True
    parts: Texts | None = None
    weights: Annotated[tuple[NotNegative, ...], MinLen(1)] | None = None
    source: Text | Texts | None = None
    inner: TrainingSettings | None = None


@dataclass(frozen=True)
class Hammer(Tool):
    """A tool with a default of its own.

    Attributes:
        handle: What it is held by.
    """

    handle: ClassVar[str] = "wood"

    count: Count = 5
    weight: Positive = 1.0
    """In kilograms."""


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("count", 1, 1),
        ("count", np.int64(3), 3),
        ("count", LARGEST_COUNT, LARGEST_COUNT),
        ("size", 1, 1),
        ("size", np.float32(0.5), 0.5),
        ("size", None, None),
        ("scale", "fit", "fit"),
        ("scale", 1e-12, 1e-12),
        ("share", 0, 0),
        ("is_new", False, False),
        ("parts", "one", ("one",)),
        ("parts", ["one", "two"], ("one", "two")),
        ("weights", [0, 0.5], (0, 0.5)),
        ("source", "a.csv", "a.csv"),
        ("source", ["a text"], ("a text",)),
        ("inner", TrainingSettings(), TrainingSettings()),
    ],
)
def test_what_is_allowed_is_kept(option, value, expected):
    result = getattr(Tool(**{option: value}), option)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("count", 0, ["integer >= 1 and <= 1,000,000", "got 0"]),
        ("count", 2.0, ["integer >= 1", "got 2.0"]),
        ("count", True, ["integer >= 1", "got True"]),
        ("size", math.nan, ["a number >= 1e-12 and <= 1e+12 or None", "nan"]),
        ("scale", "fitt", ["'fit' or 'given'", "a number >= 1e-12"]),
        ("scale", 0, ["'fit'", "'given'", "got 0"]),
        ("share", 1, [">= 0 and < 1", "got 1"]),
        ("kind", "square", ["'square'", "'flat' or 'round'"]),
        ("kind", 3, ["got 3"]),
        ("is_new", 1, ["true or false", "got 1"]),
        ("parts", (), ["a list, each a non-empty string or None", "got ()"]),
        ("parts", ("one", " "), ["got ' '"]),
        ("weights", (1.0, -1.0), ["a number >= 0", "got -1.0"]),
        ("weights", (1.0, math.nan), ["a number >= 0", "got nan"]),
        ("source", " ", ["got ' '"]),
        ("inner", 3, ["TrainingSettings or None", "got 3"]),
    ],
)
def test_a_refusal_names_option_value_and_what_is_allowed(option, value, parts):
    with pytest.raises(InputError) as caught:
        Tool(**{option: value})
    for part in (option, *parts):
        assert part in str(caught.value)


def test_a_field_keeps_the_meaning_that_a_base_states():
    assert meanings(Hammer)["count"] == "How many."
    assert Hammer().count == 5
    with refused("option", "count"):
        Hammer(count=0)


def test_no_meaning_names_a_constant():
    """The help shows values, since its readers cannot look up constants."""
    texts = [text for config in METHODS for text in meanings(config).values()]
    assert [text for text in texts if re.search(r"[a-z]+_lr`|[A-Z]{2,}_[A-Z]+|[{}]", text)] == []


def test_the_docstring_lists_every_option():
    assert "\n    count: How many.\n" in Tool.__doc__
    # In addition to the attributes in the class's docstring.
    assert "\n    weight: In kilograms.\n    handle: What it is held by." in Hammer.__doc__
    assert Hammer.__doc__.count("Attributes:") == 1


@pytest.mark.parametrize("config", [*METHODS, TrainingSettings])
def test_every_field_of_a_method_is_described(config):
    names = [field.name for field in fields(config) if field.init]
    assert list(meanings(config)) == list(allowed(config)) == names
    assert all(text.endswith(".") for text in meanings(config).values())
    assert all(allowed(config).values())


@pytest.mark.parametrize("config", METHODS)
def test_a_value_that_is_allowed_survives_json(config):
    mapping = json.loads(json.dumps(as_mapping(config())))
    del mapping["name"]
    assert as_mapping(config(**mapping)) == as_mapping(config())
