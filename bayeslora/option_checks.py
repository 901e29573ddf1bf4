"""Types of options and their validation; free of torch.

An option is a dataclass field whose annotation has its type, its range and its meaning:

    rank: Annotated[int, Range(2), "Deviations that are kept for the covariance."] = 5
    schedule: Annotated[Literal["constant", "cosine"], "Rate after the warm-up."] = "cosine"
    lr: Annotated[Positive | None, "Learning rate; None takes {default_lr}."] = None

A name in braces stands for the value of that class variable. Error messages, `bayeslora methods
NAME`, the documentation and `help` all use the annotation.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
import textwrap
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from numbers import Integral
from types import NoneType, SimpleNamespace, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeGuard,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from bayeslora.errors import InputError, unknown_choice

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

_BRACES = re.compile(r"\{(\w+)\}")

OnlyWith = Mapping[str, tuple[tuple[str, object], ...]]
"""Options that need another option, by name: pairs of the other's name and value."""


@dataclass(frozen=True)
class Range:
    """Bounds of a number.

    Attributes:
        low: Least value; of an integer the largest one is `LARGEST_COUNT` unless `high` is given.
        high: Largest value.
        above: What the value must exceed.
        below: What it must stay under.
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and self.above < value < self.below

    def __str__(self) -> str:
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"from {_shown(self.low)} to {_shown(self.high)}"
        ends = ((">=", self.low), (">", self.above), ("<=", self.high), ("<", self.below))
        return " and ".join(f"{sign} {_shown(end)}" for sign, end in ends if math.isfinite(end))


def _shown(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


Count = Annotated[int, Range(1)]
Draws = Annotated[int, Range(0), "Number of draws per prediction."]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(low=0)]
Share = Annotated[float, Range(above=0, below=1)]
BelowOne = Annotated[float, Range(low=0, below=1)]
UpToOne = Annotated[float, Range(low=0, high=1)]
Seed = Annotated[int, Range(0, LARGEST_SEED)]

Dtype = Literal["auto", "float32", "bfloat16"]
Link = Literal["mc", "probit", "bridge"]
Structure = Literal["diag", "full", "kron"]
Format = Literal["letters", "options"]
"""How questions with options are read: answered by a letter, or option by option."""
Pooling = Literal["first", "last", "mean"]
"""State used as feature: of the first token, of the last, or the mean over tokens."""

DTYPES: tuple[Dtype, ...] = get_args(Dtype)
"""Choices of the frozen weights' data type."""
FORMATS: tuple[Format, ...] = get_args(Format)
"""How questions can be read."""
LINKS: tuple[Link, ...] = get_args(Link)
"""From logits to probabilities."""


@dataclass(frozen=True)
class Kind:
    """One alternative of an annotation.

    Attributes:
        type: Type of the value; `tuple` for a sequence.
        names: Allowed names of a `Literal`.
        bounds: Range of a number.
        item: Kind of the items of a sequence.
    """

    type: Any
    names: tuple[str, ...] = ()
    bounds: Range = Range()
    item: Kind | None = None

    @classmethod
    def of(cls, hint: Any) -> Kind:
        """Return the kind of an annotation other than a union."""
        bounds = Range()
        if get_origin(hint) is Annotated:
            hint, *notes = get_args(hint)
            bounds = next((note for note in notes if isinstance(note, Range)), bounds)
        if get_origin(hint) is Literal:
            return cls(str, names=get_args(hint))
        if get_origin(hint) is tuple:
            return cls(tuple, item=cls.of(get_args(hint)[0]))
        return cls(hint, bounds=bounds)

    def __contains__(self, value: Any) -> bool:
        if self.names:
            return isinstance(value, str) and value in self.names
        if self.item is not None:
            return (
                isinstance(value, tuple)
                and value != ()
                and all(element in self.item for element in value)
            )
        if self.type is float:
            return is_number(value) and math.isfinite(value) and value in self.bounds
        if self.type is int:
            return is_whole(value) and value in self.bounds
        return type(value) is self.type and (self.type is not str or bool(value.strip()))

    @property
    def words(self) -> tuple[str, ...]:
        """Allowed values in words: each name, or the kind of value."""
        if self.names:
            return tuple(map(repr, self.names))
        if self.item is not None:
            return (f"a list of {self.item.plural}",)
        words = {int: "an integer", float: "a number", str: "a non-empty string"}
        words |= {bool: "true or false", NoneType: "None"}
        noun = words.get(self.type) or f"a {self.type.__name__}"
        return (f"{noun} {self.bounds}".strip(),)

    @property
    def plural(self) -> str:
        """Plural of the kind in words."""
        words = {int: "integers", float: "numbers", str: "non-empty strings"}
        return f"{words[self.type]} {self.bounds}".strip()

    def refuse_size(self, name: str, value: Any) -> None:
        """Raise InputError for a number within the bounds that can only be a typo."""
        if self.type is int and math.isinf(self.bounds.high) and value > LARGEST_COUNT:
            span = f"an integer {replace(self.bounds, high=LARGEST_COUNT)}"
        elif self.type is float and value and not SMALLEST_NUMBER <= abs(value) <= LARGEST_NUMBER:
            span = f"a number from {SMALLEST_NUMBER:g} to {LARGEST_NUMBER:g}"
        else:
            return
        raise InputError(f"{name} must be {span}, got {value!r}", code="option")


@dataclass(frozen=True)
class Option:
    """An option, parsed from the annotation of a field.

    Attributes:
        name: Name of the field.
        kinds: Allowed kinds of value.
        meaning: Description in a sentence or two.
    """

    name: str
    kinds: tuple[Kind, ...]
    meaning: str = ""

    @classmethod
    def of(cls, name: str, hint: Any) -> Option:
        """Return the option of an annotation; the last text in it is the meaning."""
        inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        is_union = get_origin(inner) in (Union, UnionType)
        kinds = map(Kind.of, get_args(inner)) if is_union else (Kind.of(hint),)
        return cls(name, tuple(kinds), _meaning(hint))

    @property
    def allowed(self) -> str:
        """Allowed values in words."""
        return _either(words for kind in self.kinds for words in kind.words)

    def accept(self, value: Any) -> Any:
        """Return the value, with sequences as tuples and numpy integers as Python integers.

        Raises:
            InputError: It is not allowed.
        """
        value = tuple(value) if isinstance(value, list) else value
        whole = as_whole(value)
        value = value if whole is None else whole
        if isinstance(value, str) and not any(kind.type is str for kind in self.kinds):
            value = (value,) if any(kind.type is tuple for kind in self.kinds) else value
        for kind in self.kinds:
            if value in kind:
                kind.refuse_size(self.name, value)
                return value
        raise self._refusal(value)

    def _refusal(self, value: Any) -> InputError:
        names = [name for kind in self.kinds for name in kind.names]
        descriptions = [
            word
            for kind in self.kinds
            if not kind.names and kind.type is not NoneType
            for word in kind.words
        ]
        if names and (isinstance(value, str) or not descriptions):
            return unknown_choice(self.name, str(value), names, otherwise=_either(descriptions))
        for kind in self.kinds:
            if kind.item is not None and isinstance(value, tuple):
                value = next((element for element in value if element not in kind.item), value)
        return InputError(f"{self.name} must be {self.allowed}, got {value!r}", code="option")


def _meaning(hint: Any) -> str:
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((note for note in reversed(notes) if isinstance(note, str)), "")


def _either(words: Iterable[str]) -> str:
    *first, last = [*words] or [""]
    return f"{', '.join(first)} or {last}" if first else last


class Options:
    """Base of dataclasses whose annotations define the allowed values; see `check_options`.

    Attributes:
        retired: Options of earlier versions, which change nothing in a fitted model: they may stand
            in its record.
    """

    retired: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__doc__ = _documented(cls)

    def __post_init__(self) -> None:
        """Check every option; subclasses add rules between several.

        Raises:
            InputError: A value is not allowed.
        """
        check_options(self)


def check_options(options: Any) -> None:
    """Check every option of a dataclass and convert it to its stored form.

    Raises:
        InputError: A value is not allowed; the message names option, value and allowed values.
    """
    for name, option in options_of(type(options)).items():
        value = getattr(options, name)
        accepted = option.accept(value)
        if accepted is not value:
            object.__setattr__(options, name, accepted)


def options_of(cls: type[Any]) -> Mapping[str, Option]:
    """Return the options of a dataclass by name: its fields whose annotations have a meaning.

    A subclass inherits the options of its bases and may override them.
    """
    hashable: Any = cls
    return _options_of(hashable)


@cache
def _options_of(cls: type[Any]) -> Mapping[str, Option]:
    fields = {*inspect.get_annotations(cls), *getattr(cls, "__dataclass_fields__", ())}
    options: dict[str, Option] = {}
    for base in reversed(cls.__mro__):
        hints = _hints(base, fields).items()
        options |= {name: Option.of(name, hint) for name, hint in hints if _meaning(hint)}
    return {
        name: replace(option, meaning=_filled(option.meaning, cls))
        for name, option in options.items()
    }


def _filled(meaning: str, cls: type[Any]) -> str:
    """Return a meaning with the values of class variables filled in, such as `default_lr`."""
    return _BRACES.sub(lambda name: f"{getattr(cls, name[1], name[0])}", meaning)


def _hints(cls: type[Any], names: Collection[str]) -> dict[str, Any]:
    """Return the annotations of a class's own fields, without those that cannot be resolved."""
    annotations = {
        name: text
        for name, text in inspect.get_annotations(cls).items()
        if name in names and not str(text).startswith(("ClassVar", "typing.ClassVar"))
    }
    module = vars(sys.modules[cls.__module__])
    hints: dict[str, Any] = {}
    for name, text in annotations.items():
        try:
            holder: Any = SimpleNamespace(__annotations__={name: text})
            hints |= get_type_hints(holder, module, include_extras=True)
        except NameError:  # of another package, imported for type checkers alone
            continue
    return hints


def _documented(cls: type[Any]) -> str:
    """Return the docstring of a class with its options added to the attributes."""
    text = inspect.cleandoc(vars(cls).get("__doc__") or "")
    head, section, rest = text.partition("Attributes:\n")
    lines = [
        textwrap.fill(
            f"{name}: {option.meaning}",
            96,
            initial_indent=" " * 4,
            subsequent_indent=" " * 8,
            break_on_hyphens=False,
        )
        for name, option in options_of(cls).items()
    ]
    if not lines:
        return text
    return "\n".join([f"{head.rstrip()}\n\nAttributes:", *lines, *([rest] if section else [])])


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a number other than a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is an integer other than a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def as_whole(value: object) -> int | None:
    """Return an integer, also of numpy, as a Python integer; None for any other value."""
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    return int(value) if is_integer else None  # type: ignore[call-overload]


def as_seed(value: object) -> int:
    """Return a seed as a Python integer.

    Raises:
        InputError: It is not an integer from 0 to 2³² − 1, as numpy requires.
    """
    seed: int = checked("seed", value, Seed)
    return seed


def checked(name: str, value: object, hint: Any) -> Any:
    """Return a value after checking it, such as `checked("lr", 1e-3, Positive)`.

    Raises:
        InputError: It is not allowed.
    """
    return Option.of(name, hint).accept(value)


def check_count(name: str, value: object, least: int, most: float = LARGEST_COUNT) -> None:
    """Raise InputError unless a value is an integer from `least` to `most`."""
    checked(name, value, Annotated[int, Range(least, most)])


def check_integer(name: str, value: object, *, low: int, high: float = LARGEST_COUNT) -> None:
    """Raise InputError unless a value is an integer from `low` to `high`."""
    check_count(name, value, low, high)
