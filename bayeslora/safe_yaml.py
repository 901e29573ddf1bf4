"""Reading of untrusted YAML as plain values, bounded in size, depth and time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bayeslora.errors import InputError
from bayeslora.files import check_readable

MOST_CHARACTERS = 200_000
"""Characters of a document; PyYAML takes seconds for more, and options fill a page."""

MOST_LEVELS = 32
"""Levels of nested lists and mappings; the parser is recursive."""

MOST_DIGITS = 400
"""Digits of an integer; the largest float has 309, and Python refuses to read more than 4,300."""


def read_yaml(path: str | Path) -> Any:
    """Return the value of a YAML file; see `load_yaml`.

    Raises:
        InputError: The file is missing or cannot be read, or as `load_yaml`; the message names it.
    """
    check_readable(path)
    try:
        return load_yaml(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as YAML: {error}") from None
    except InputError as error:
        raise error.within(path) from None


def load_yaml(text: str) -> Any:
    """Return the value of a YAML document as plain Python types.

    Aliases (`*name`) are refused: nine lines of them can expand to a billion values, or to a value
    that contains itself.

    Raises:
        InputError: The document is not YAML, too large, nested too deeply, repeats a key of a
            mapping or has an alias.
    """
    import yaml

    if len(text) > MOST_CHARACTERS:
        raise InputError(f"has {len(text):,} characters; at most {MOST_CHARACTERS:,} are allowed")
    try:
        return yaml.load(text, Loader=_loader())  # noqa: S506  # a subclass of SafeLoader
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split()).replace('"<unicode string>", ', "")
        raise InputError(f"cannot be read as YAML: {reason}") from None


def _loader() -> type[Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Rejects features that plain options do not need, and converts constructors' errors."""

        levels = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise _problem("aliases are not supported", self._mark())
            self.levels += 1
            if self.levels > MOST_LEVELS:
                problem = f"nested more than {MOST_LEVELS} levels deep"
                raise _problem(problem, self._mark())
            node = super().compose_node(parent, index)
            self.levels -= 1
            return node

        def _mark(self) -> Any:
            return self.peek_event().start_mark  # type: ignore[no-untyped-call]

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            duplicate = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
            if duplicate is not None:
                raise _problem(f"{duplicate!r} is given twice", node.start_mark)
            return super().construct_mapping(node, deep=deep)

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            if isinstance(node, yaml.ScalarNode):
                _check_scalar(node)
            try:
                return super().construct_object(node, deep=deep)
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
                # PyYAML converts tagged text, such as `!!int x`, without a check.
                kind = node.tag.rpartition(":")[2]
                raise _problem(f"{node.value!r} is not a valid {kind}", node.start_mark) from None

    def _check_scalar(node: Any) -> None:
        size = len(node.value)
        if node.tag.endswith(":int") and size > MOST_DIGITS:
            problem = f"an integer of {size:,} characters; at most {MOST_DIGITS} are allowed"
            raise _problem(problem, node.start_mark)
        if any("\ud800" <= char <= "\udfff" for char in node.value):
            raise _problem("an unpaired surrogate is not a character", node.start_mark)

    def _problem(problem: str, mark: Any) -> Exception:
        return yaml.constructor.ConstructorError(problem=problem, problem_mark=mark)

    return Loader
