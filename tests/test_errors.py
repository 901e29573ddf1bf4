"""Error codes: each is listed, is used, and survives pickling and added context."""

import ast
import pickle
import re
from pathlib import Path

import pytest
from refusal import refused

import bayeslora
from bayeslora.adapters.registry import resolve_adapter
from bayeslora.errors import CODES, DivergedError, InputError, MissingAssetError, RowError
from bayeslora.posteriors.registry import resolve_posterior

SOURCES = [*Path(bayeslora.__file__).parent.rglob("*.py")]


def stated_codes():
    """Yield every code in the package, from calls and from class defaults."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "code":
                yield from re.findall(r"^'([\w-]+)'$", ast.unparse(node.value))
    yield from (error.code for error in (InputError, DivergedError, MissingAssetError, RowError))


def test_every_code_is_listed_and_used():
    assert {*stated_codes()} == {*CODES}
    assert list(CODES)[1:] == sorted(list(CODES)[1:])
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in CODES)


def test_a_code_stays_with_its_error():
    error = InputError("it cannot", code="no-effect")
    for same in (error, pickle.loads(pickle.dumps(error)), error.within("here")):
        assert same.code == "no-effect"
    assert str(error.within("here")) == "here: it cannot"
    assert InputError("no").code == "input"


@pytest.mark.parametrize(
    ("resolve", "text", "method", "option"),
    [
        (resolve_adapter, "lora:r=0", "adapter 'lora'", "r"),
        (resolve_adapter, {"name": "lora", "r": 0}, "adapter 'lora'", "r"),
        (resolve_posterior, "vbll:num_samples=-1", "posterior 'vbll'", "num_samples"),
    ],
)
def test_a_refused_option_is_named_with_its_method(resolve, text, method, option):
    with refused("option") as caught:
        resolve(text)
    assert str(caught.value).startswith(f"{method}: {option} ")
