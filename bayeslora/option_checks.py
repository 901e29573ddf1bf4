"""Types of options and their checks; free of torch.

Options are the fields of a frozen dataclass that derives from `Options`. The annotation of a field
states type and range, the docstring below it the meaning:

    rank: Annotated[int, Interval(ge=2, le=LARGEST_COUNT)] = 5
    '''Deviations that are kept for the covariance.'''
    schedule: Literal["constant", "cosine"] = "cosine"
    '''Learning rate after the warm-up.'''
    lr: Positive | None = None
    '''Learning rate; None means {default_lr}.'''

A name in braces stands for the value of that class variable. pydantic checks the values when an
object is made, and is imported then: `bayeslora evaluate` makes none. Error messages, `bayeslora
methods NAME`, the documentation and `help` are generated from the fields.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import cache
from itertools import pairwise
from numbers import Integral, Number
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeGuard,
    TypeVar,
    get_args,
    get_type_hints,
)

from annotated_types import Interval, MinLen, Predicate

from bayeslora.errors import InputError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

LARGEST_SEED = 2**32 - 1

LARGEST_COUNT = 1_000_000
"""Maximum of draws, steps, epochs, batch sizes and the like; a larger number is a typo that would
fill the memory or compute for days."""

SMALLEST_NUMBER, LARGEST_NUMBER = 1e-12, 1e12
"""Bounds of scales, rates and factors other than 0: their squares and the ratios of these must fit
into float32, which ranges from 1e-38 to 3e38."""

KINDS = ("text-classification", "multiple-choice")
"""Values of `task` for your own data."""

MAX_LENGTH = 128
"""Default of the maximum tokens per text."""


class _OrOne:
    """Makes pydantic accept a single text or number as a tuple of one."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core.core_schema import no_info_before_validator_function

        def several(value: Any) -> Any:
            return (value,) if isinstance(value, str | int | float) else value

        return no_info_before_validator_function(several, handler(source))


Count = Annotated[int, Interval(ge=1, le=LARGEST_COUNT)]
CountOrZero = Annotated[int, Interval(ge=0, le=LARGEST_COUNT)]
Draws = CountOrZero
UpTo1000 = Annotated[int, Interval(ge=1, le=1000)]
Positive = Annotated[float, Interval(ge=SMALLEST_NUMBER, le=LARGEST_NUMBER)]
NotNegative = Annotated[float, Interval(ge=0, le=LARGEST_NUMBER)]
Share = Annotated[float, Interval(gt=0, lt=1)]
BelowOne = Annotated[float, Interval(ge=0, lt=1)]
UpToOne = Annotated[float, Interval(ge=0, le=1)]
Seed = Annotated[int, Interval(ge=0, le=LARGEST_SEED)]
Text = Annotated[str, Predicate(str.strip)]
Texts = Annotated[tuple[Text, ...], MinLen(1), _OrOne()]
Strengths = Annotated[tuple[Annotated[float, Interval(ge=0, le=10)], ...], MinLen(1), _OrOne()]
"""Strengths of perturbations."""

Depth = Annotated[int, Interval(ge=1)] | Annotated[float, Interval(gt=0, le=1)]
"""Number of layers, or a share of them; 1.0 is all."""
Dtype = Literal["auto", "float32", "bfloat16"]
Link = Literal["mc", "probit", "bridge"]
Format = Literal["letters", "options"]
"""How questions with options are read: answered by a letter, or option by option."""
Pooling = Literal["first", "last", "mean"]
"""State used as feature: of the first token, of the last, or the mean over tokens."""

FORMATS: tuple[Format, ...] = get_args(Format)
"""How questions can be read."""
LINKS: tuple[Link, ...] = get_args(Link)
"""From logits to probabilities."""


class Options:
    """Base of dataclasses whose annotations define the allowed values."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__doc__ = _documented(cls)

    def __post_init__(self) -> None:
        """Check every option and convert it to its type; subclasses add rules between several.

        Raises:
            InputError: A value is not allowed; the message names option, value and allowed values.
        """
        values = {name: getattr(self, name) for name in option_names(type(self))}
        for name, value in _accepted(checks(type(self)), values).items():
            object.__setattr__(self, name, value)


def checked(name: str, value: object, hint: Any) -> Any:
    """Return a value after checking it, such as `checked("lr", 1e-3, Positive)`.

    Raises:
        InputError: It is not allowed.
    """
    return _accepted(_check(name, hint), {name: value})[name]


def read_fields(cls: type[T], content: object) -> T:
    """Return an instance of a dataclass from the plain values of a file, checked by its types.

    Raises:
        InputError: A value is missing, unknown, or not allowed.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

    finite = with_config(ConfigDict(allow_inf_nan=False, extra="forbid"))
    try:
        return TypeAdapter(finite(cls)).validate_python(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"])) or cls.__name__
        raise InputError(f"{place}: {problem['msg']}", code="damaged") from None


@cache
def _check(name: str, hint: Any) -> TypeAdapter[dict[str, Any]]:
    return _checks({name: hint})


def option_names(cls: type[Any]) -> list[str]:
    """Return the names of the options of a dataclass."""
    return [field.name for field in fields(cls) if field.init]


def checks(cls: type[Any]) -> TypeAdapter[dict[str, Any]]:
    """Return pydantic's checks of the options of a dataclass."""
    hashable: Any = cls
    return _checks_of(hashable)


@cache
def _checks_of(cls: type[Any]) -> TypeAdapter[dict[str, Any]]:
    hints = get_type_hints(cls, include_extras=True)
    return _checks({name: hints[name] for name in option_names(cls)})


def _checks(hints: Mapping[str, Any]) -> TypeAdapter[dict[str, Any]]:
    from pydantic import ConfigDict, TypeAdapter, with_config
    from typing_extensions import TypedDict

    strict = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    return TypeAdapter(with_config(strict)(TypedDict("Options", hints)))  # type: ignore[operator]


def _accepted(adapter: TypeAdapter[dict[str, Any]], values: Mapping[str, Any]) -> dict[str, Any]:
    from pydantic import ValidationError

    plain = {name: _plain(value) for name, value in values.items()}
    try:
        accepted = adapter.validate_python(plain)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    else:
        # Integers stay integers where any number is allowed.
        return {
            name: plain[name] if plain[name] == value else value for name, value in accepted.items()
        }
    name = str(problems[0]["loc"][0])
    # The innermost value: of a list its wrong item.
    nested = [problem for problem in problems if problem["loc"][0] == name]
    value = max(nested, key=lambda problem: len(problem["loc"]))["input"]
    words = _allowed(adapter.json_schema()["properties"][name])
    message = f"{name} must be {words}, got {value!r}"
    raise InputError(message, code="option", options=(name,))


def _plain(value: Any) -> Any:
    """Return a list as a tuple, and a number of numpy as one of Python."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, Number) and hasattr(value, "item") else value


def allowed(cls: type[Any]) -> dict[str, str]:
    """Return the allowed values of each option of a dataclass, in words."""
    properties = checks(cls).json_schema()["properties"]
    return {name: _allowed(schema) for name, schema in properties.items()}


_NOUNS = {
    "boolean": "true or false",
    "integer": "an integer",
    "null": "None",
    "number": "a number",
    "object": "a mapping",
    "string": "a non-empty string",
}
_LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _allowed(schema: Mapping[str, Any]) -> str:
    """Return in words what a JSON schema allows."""
    return " or ".join(map(_words, schema.get("anyOf", [schema])))


def _words(kind: Mapping[str, Any]) -> str:
    """Return in words what one alternative of a JSON schema allows."""
    if "enum" in kind or "const" in kind:
        return " or ".join(map(repr, kind.get("enum", [kind.get("const")])))
    if kind.get("type") == "array":
        return f"a list, each {_allowed(kind['items'])}"
    noun = _NOUNS.get(kind.get("type", ""), f"a {kind.get('$ref', 'value').rpartition('/')[2]}")
    limits = [f"{sign} {_shown(kind[key])}" for key, sign in _LIMITS.items() if key in kind]
    return f"{noun} {' and '.join(limits)}".strip()


def _shown(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def meanings(cls: type[Any]) -> dict[str, str]:
    """Return the meaning of each option of a dataclass: the docstring of its field.

    A field that a subclass defines anew, such as for another default, keeps the meaning that a base
    states, unless it has a docstring of its own.
    """
    names = [*getattr(cls, "__dataclass_fields__", ()), *inspect.get_annotations(cls)]
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, Options):
            texts |= field_docstrings(base.__module__).get(base.__name__, {})
    return {
        name: _BRACES.sub(lambda word: f"{getattr(cls, word[1], word[0])}", texts[name])
        for name in names
        if name in texts
    }


_BRACES = re.compile(r"\{(\w+)\}")


@cache
def field_docstrings(module: str) -> dict[str, dict[str, str]]:
    """Return the docstrings of the fields of each class in a module's source."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):  # typed at a prompt
        return {}
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return {node.name: field_texts(node) for node in classes}


def field_texts(node: ast.ClassDef) -> dict[str, str]:
    """Return the docstrings of the fields of a class, by name."""
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(node.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and not ast.unparse(field.annotation).startswith("ClassVar")
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _documented(cls: type[Any]) -> str:
    """Return the docstring of a class with its options added to the attributes."""
    text = inspect.cleandoc(vars(cls).get("__doc__") or "")
    head, section, rest = text.partition("Attributes:\n")
    lines = _listed(meanings(cls))
    if not lines:
        return text
    return "\n".join([f"{head.rstrip()}\n\nAttributes:", *lines, *([rest] if section else [])])


def with_meanings(cls: type[Any], names: Iterable[str]) -> Callable[[F], F]:
    """Return a decorator that adds options, which a function takes as keywords, to its docstring.

    With the defaults that are numbers, unless the class names them in `unset`: decided later.

    Args:
        cls: A dataclass of options.
        names: Of the options.
    """

    def describe(function: F) -> F:
        texts, unset = meanings(cls), getattr(cls, "unset", ())
        for name in names:
            if is_number(default := getattr(cls, name)) and name not in unset:
                texts[name] = f"{texts[name].removesuffix('.')} (default: {default:g})."
        shown = {name: texts[name] for name in names}
        head, _, errors = inspect.cleandoc(function.__doc__ or "").partition("\n\nRaises:")
        function.__doc__ = "\n".join([head, *_listed(shown), "", f"Raises:{errors}"])
        return function

    return describe


def _listed(texts: Mapping[str, str]) -> list[str]:
    """Return the lines of a section of a docstring."""
    return [
        textwrap.fill(
            f"{name}: {text}",
            96,
            initial_indent=" " * 4,
            subsequent_indent=" " * 8,
            break_on_hyphens=False,
        )
        for name, text in texts.items()
    ]


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a number other than a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_whole(value: object) -> int | None:
    """Return an integer, also of numpy, as a Python integer; None for any other value."""
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    return int(value) if is_integer else None  # type: ignore[call-overload]


def as_seed(value: object) -> int:
    """Return a seed as a Python integer.

    Raises:
        InputError: It is not an integer from 0 to 2³² − 1, as numpy requires.
    """
    return as_integer("seed", value, 0, LARGEST_SEED)


def as_integer(name: str, value: object, low: int, high: int = LARGEST_COUNT) -> int:
    """Return an integer from `low` to `high`, also of numpy, as a Python integer, without pydantic.

    Raises:
        InputError: It is another value.
    """
    whole = as_whole(value)
    if whole is None or not low <= whole <= high:
        message = f"{name} must be an integer >= {low} and <= {high:,}, got {value!r}"
        raise InputError(message, code="option", options=(name,))
    return whole
