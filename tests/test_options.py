"""Names, strings and mappings that specify configuration objects."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from refusal import refused

from bayeslora.adapters.registry import ADAPTERS
from bayeslora.errors import InputError
from bayeslora.option_checks import NotNegative, Options, Positive, Text
from bayeslora.options import as_mapping, resolve
from bayeslora.posteriors.registry import POSTERIORS


@dataclass(frozen=True)
class Tool(Options):
    name: ClassVar[str] = "tool"
    size: Positive = 1.0
    label: Text = "a"
    parts: tuple[Text | NotNegative, ...] | None = None


TOOLS = {"tool": Tool}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("tool", Tool()),
        ("tool:", Tool()),
        ("tool:size=2", Tool(size=2)),
        ("tool:size=1e-3", Tool(size=0.001)),
        ("tool: size = 2 , label = b", Tool(size=2, label="b")),
        ("tool:parts=[x,y],size=2", Tool(parts=("x", "y"), size=2)),
        ("tool:parts=null", Tool()),
        ("tool:parts=0,0.1,1e-3,size=2", Tool(parts=(0, 0.1, 1e-3), size=2)),
        ("tool:parts=[0],0.1", Tool(parts=(0, 0.1))),
        ({"name": "tool", "size": 2}, Tool(size=2)),
        # As in a YAML file.
        ({"name": "tool", "size": "1e-3"}, Tool(size=0.001)),
        ({"name": "tool", "label": "1e"}, Tool(label="1e")),
        ({"name": "tool", "parts": ["x"]}, Tool(parts=("x",))),
        (Tool(size=3), Tool(size=3)),
    ],
)
def test_one_meaning_in_every_form(value, expected):
    assert resolve("tool", value, TOOLS) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tol", "unknown thing 'tol' (did you mean 'tool'?); choose from 'tool'"),
        ("tool:size", "thing 'tool': expected key=value, got 'size'"),
        ("tool:parts=0,x", "thing 'tool': expected key=value, got 'x'"),
        ("tool:sise=2", "thing 'tool': unknown option 'sise' (did you mean 'size'?)"),
        ("tool:size=[", "thing 'tool': size: cannot be read"),
        ({"size": 2}, "thing must be a name, a mapping with a 'name'"),
        ("tool:size=2,label=b,size=3", "thing 'tool': option 'size' is given twice"),
        ({"name": "tool", "x": 2}, "thing 'tool': unknown option 'x'"),
        (None, "got None"),
    ],
)
def test_what_is_wrong_is_named(value, message):
    with pytest.raises(InputError) as caught:
        resolve("thing", value, TOOLS)
    assert message in str(caught.value)


def test_errors_of_the_object_itself_pass_through():
    with refused("option", "r", "0"):
        resolve("adapter", "lora:r=0", ADAPTERS)
    with refused("option", "'dens'"):
        resolve("posterior", "vbll:covariance=dens", POSTERIORS)


@pytest.mark.parametrize("choices", [ADAPTERS, POSTERIORS], ids=["adapters", "posteriors"])
def test_every_default_survives_the_mapping(choices):
    for name, cls in choices.items():
        config = cls()
        assert as_mapping(config)["name"] == name
        assert resolve("config", as_mapping(config), choices) == config
