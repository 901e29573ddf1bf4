"""Convert raw columns to examples, checking all values; errors name the row and the column."""

from __future__ import annotations

import json
import math
import numbers
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import SequenceMatcher, get_close_matches
from typing import Any

from bayeslora.data.examples import Examples, Label
from bayeslora.errors import InputError
from bayeslora.plain_text import listed, shown

IMAGE = "image"
"""Column of the paths of images, unless another one is named."""

_ALIKE = 0.8  # of the letters; `lable` is as near to `label`
_DIGITS = 100  # integers with more digits are no class names, and Python refuses to print many
_INTEGER = re.compile(rf"(?:0|-?[1-9][0-9]{{0,{_DIGITS - 1}}})(?:\.0)?")


@dataclass(frozen=True)
class DataColumns:
    """Names of the columns of a table by their role.

    Attributes:
        text: The text to classify, or the path of the image.
        label: The label; may be missing if labels are optional.
        pair: A second text, or None.
        choices: The options of a question: a column of lists, or one column per option; None for
            texts to classify.
        images: Whether `text` contains image paths, relative to the file.
        described: Path of the description that names the columns, or None.

    Raises:
        InputError: Two roles have the same column, or images have second texts.
    """

    text: str = "text"
    label: str = "label"
    pair: str | None = None
    choices: str | tuple[str, ...] | None = None
    images: bool = False
    described: str | None = None

    def __post_init__(self) -> None:
        if self.images and self.pair is not None:
            raise InputError(
                f"images cannot have a second text; remove --text-pair-column {self.pair!r}"
            )
        names = [name for name in (self.text, self.label, self.pair) if name is not None]
        if len({*names}) < len(names):
            raise InputError(
                "text, second text and label must be in different columns, got --text-column "
                f"{self.text!r}, --text-pair-column {self.pair!r}, --label-column {self.label!r}"
            )

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> DataColumns:
        """Return the columns of texts, questions or images named in a model's record."""
        images = recorded.get("image") is not None
        choices = recorded.get("choices")
        return cls(
            str(recorded["text"]),
            str(recorded["label"]),
            recorded["pair"],
            tuple(choices) if isinstance(choices, list) else choices,
            images=images,
        )

    def recorded(self) -> dict[str, Any]:
        """Return the columns for a model's record, with `image` if they contain images."""
        columns = asdict(self)
        del columns["described"]
        return columns | {"image": self.text} if columns.pop("images") else columns

    def renamed(
        self,
        text: str | None = None,
        label: str | None = None,
        pair: str | None = None,
        image: str | None = None,
    ) -> DataColumns:
        """Return these columns with those replaced that are named; `image` replaces `text`."""
        named = text if image is None else image
        return replace(
            self,
            text=self.text if named is None else named,
            label=self.label if label is None else label,
            pair=self.pair if pair is None else pair,
            images=image is not None or (self.images and text is None),
        )

    def among(self, names: Collection[str]) -> DataColumns:
        """Return the columns for a table with these names; without texts it may have images."""
        if self != DataColumns(label=self.label) or self.text in names or IMAGE not in names:
            return self
        return replace(self, text=IMAGE, images=True)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns to read, if they exist."""
        choices = (self.choices,) if isinstance(self.choices, str) else self.choices or ()
        return ("id", self.text, self.label, *filter(None, [self.pair]), *choices)


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a table.

    Attributes:
        columns: [N] Python values by column name, None for missing values; requested columns that
            the table lacks may be absent.
        rows: [N] row numbers, from 1. For text files, the line on which the row begins.
    """

    columns: Mapping[str, Sequence[Any]]
    rows: Sequence[int]

    def take(self, indices: Sequence[int]) -> Piece:
        """Return the rows at `indices`, from 0."""
        columns = {name: [values[k] for k in indices] for name, values in self.columns.items()}
        return Piece(columns, [self.rows[k] for k in indices])


@dataclass(frozen=True)
class Table:
    """Rows that are read in pieces.

    Attributes:
        source: Path of the file, or a placeholder such as `<list>` for data in memory.
        names: Names of the columns; for JSON, those in the first thousands of records.
        pieces: Function of column names and rows per piece; yields all rows in order, from the
            start at each call. Pieces have these columns, if they exist, and may have more.
        is_text: Whether all values were read from text, so that numbers are strings.
    """

    source: str
    names: tuple[str, ...]
    pieces: Callable[[Sequence[str], int], Iterator[Piece]]
    is_text: bool = False


@dataclass(frozen=True)
class RowChecks:
    """Converts the rows of a table to examples.

    Attributes:
        table: The raw rows.
        columns: Names of the columns to use. A column `id` is used if there is one.
        required: Whether a missing or empty label is an error.
        keep: Further columns to keep, as texts.
        skip_blank: Whether to skip rows with a missing or blank text.

    Raises:
        InputError: A column is missing.
    """

    table: Table
    columns: DataColumns
    required: bool = False
    keep: Sequence[str] = ()
    skip_blank: bool = False

    def __post_init__(self) -> None:
        columns, names = self.columns, self.table.names
        image = "image_column (--image-column)"
        if columns.images:
            self._require(columns.text, image)
        elif "candidates" in names:
            other = "; rows with candidates need a column 'history' or 'question'"
            self._require(columns.text, "text_column (--text-column)", other)
        else:
            other = f", or for images {image}"
            self._require(columns.text, "text_column (--text-column)", other)
        if columns.pair is not None:
            self._require(columns.pair, "pair_column (--text-pair-column)")
        if self.required:
            self._require(columns.label, "label_column (--label-column)")
        else:
            check_spelling(self.table.source, names, columns.label, "set --label-column")
        for name in self.keep:
            self._require(name, "keep (--keep)")

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns to read, if they exist."""
        return (*self.columns.column_names, *self.keep)

    def examples(self, piece: Piece, *, has_ids: bool) -> Examples:
        """Return the examples in a piece, before the whole table has been seen.

        Labels read from text are strings.

        Args:
            piece: Raw rows.
            has_ids: Whether every row of the table must have an id; else no row may have one, and
                the row number is used.

        Raises:
            InputError: A value is not allowed.
        """
        if self.skip_blank:
            piece = piece.take([k for k in range(len(piece.rows)) if not self._is_blank(piece, k)])
        ids: tuple[str, ...] = tuple(map(str, piece.rows))
        if has_ids:
            ids = self._each(piece, "id", _id)
        elif any(value is not None for value in piece.columns.get("id", ())):
            self._each(piece, "id", _unexpected_id)
        return Examples(
            **self._content(piece),
            ids=ids,
            rows=tuple(piece.rows),
            source=self.table.source,
            label_column=self.columns.label,
            further={name: self._each(piece, name, as_text) for name in self.keep},
            images=self.columns.images,
        )

    def _is_blank(self, piece: Piece, row: int) -> bool:
        names = filter(None, (self.columns.text, self.columns.pair))
        return any(is_blank(piece.columns[name][row]) for name in names)

    def _content(self, piece: Piece) -> dict[str, Any]:
        """Return the texts, second texts and labels, by the names of `Examples`."""
        pair = self.columns.pair
        return {
            "texts": self._each(
                piece, self.columns.text, self._image if self.columns.images else text_value
            ),
            "pairs": None if pair is None else self._each(piece, pair, text_value),
            "labels": self._each(piece, self.columns.label, self._label),
        }

    def _each(
        self,
        piece: Piece,
        name: str,
        convert: Callable[[Any], Any],
        values: Sequence[Any] | None = None,
    ) -> tuple[Any, ...]:
        """Return the converted values of a column, or other [N] values; errors name the row."""
        if values is None:
            values = piece.columns.get(name, [None] * len(piece.rows))
        if convert != self._image:
            try:
                "".join(values).encode()
                if all(map(str.strip, values)):  # texts that no conversion changes
                    return tuple(values)
            except (TypeError, UnicodeEncodeError):
                pass
        converted = []
        try:
            for value in values:
                converted.append(convert(value))
        except BadValueError as problem:
            row = piece.rows[len(converted)]
            raise InputError(
                f"{self.table.source}, row {row}, column {shown(name)}: {problem}"
            ) from None
        return tuple(converted)

    def _image(self, value: Any) -> str:
        """Return the path of a readable image."""
        if not isinstance(value, str) or is_blank(value):
            raise BadValueError(f"{shown(value)} is not an image path")
        from bayeslora.data.images import located, read_image

        image = located(_whole(value), self.table.source)
        try:
            read_image(image)
        except InputError as error:
            raise BadValueError(str(error)) from None
        return image

    def _label(self, value: Any) -> Label:
        if value is None and self.required:
            raise BadValueError("the label is missing; every row needs a label")
        return _label(value)

    def _require(self, name: str, option: str, otherwise: str = "") -> None:
        names, source = self.table.names, self.table.source
        if name in names:
            return
        near = get_close_matches(name, names[:1000], n=1)
        hint = f" (did you mean {shown(near[0])}?)" if near else ""
        mark = next((mark for mark in ";\t|," if len(names) == 1 and mark in names[0]), None)
        end = f"Use {option}{'' if near else otherwise}"
        if mark is not None:
            end = f"Use {option}, or set the separator {mark!r} with --delimiter {mark!r}"
        if self.columns.described is not None:
            end = f"The columns are set by {self.columns.described}"
        raise InputError(
            f"{source} has no column {shown(name)}{hint}; its columns are {listed(names)}. {end}",
            code="unknown",
        )


class BadValueError(ValueError):
    """An invalid value; the caller adds its location."""


def is_blank(value: object) -> bool:
    """Return whether a value is missing or only white space."""
    return value is None or (isinstance(value, str) and (not value or value.isspace()))


def text_value(value: Any) -> str:
    """Check that a value is a text that is not blank, and return it.

    Raises:
        BadValueError: The value is something else.
    """
    if isinstance(value, str) and value and not value.isspace():
        return _whole(str(value))
    problem = f"{shown(value)} is not a string"
    if value is None:
        problem = "the text is missing or empty"
    elif isinstance(value, str):
        problem = f"the text {shown(value)} is blank"
    raise BadValueError(f"{problem}; expected a text that is not blank")


def _whole(text: str) -> str:
    """Return a text after checking that it can be encoded as UTF-8."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadValueError(
                f"{shown(text)} contains an unpaired surrogate, which is not valid Unicode"
            ) from None
    return text


def as_text(value: Any) -> str | None:
    """Return a further value as text; values other than strings are encoded as JSON."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return _whole(value)
    try:
        return _whole(json.dumps(value, ensure_ascii=False, default=str))
    except (RecursionError, ValueError, TypeError):
        raise BadValueError(f"{shown(value)} cannot be stored as text") from None


_IDS = "ids must be strings or integers, in every row or in none"


def _id(value: Any) -> str:
    if isinstance(value, str):
        return _whole(value)
    if value is None:
        raise BadValueError(f"the id is missing; {_IDS}")
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or abs(int(value)) >= 10**_DIGITS:
        raise BadValueError(f"the id is {shown(value)}; {_IDS}")
    return str(value)


def _unexpected_id(value: Any) -> str:
    if value is not None:
        raise BadValueError(f"the id is {shown(value)}, but the first row has none; {_IDS}")
    return ""


def _label(value: Any) -> Label:
    allowed = "a label must be a string or an integer (null or an empty CSV cell if unlabelled)"
    if value is None:
        return None
    if isinstance(value, str):
        if is_blank(value):
            raise BadValueError(f"the label {shown(value)} is blank; {allowed}")
        return _whole(value)
    is_whole = isinstance(value, numbers.Integral) or (
        isinstance(value, numbers.Real) and math.isfinite(value) and value % 1 == 0
    )
    if is_whole and not isinstance(value, bool) and abs(int(value)) < 10**_DIGITS:
        return int(value)
    raise BadValueError(f"{shown(value)} is not allowed; {allowed}")


def is_integer(label: Label) -> bool:
    """Return whether a label read from text is a plain integer.

    `007` is not: labels that differ in the file must not become the same class. `1.0` is, because
    some programs write columns of integers with empty cells in this form.
    """
    return label is None or _INTEGER.fullmatch(str(label)) is not None


def as_integer(label: Label) -> Label:
    """Convert a label for which `is_integer` holds to an integer."""
    return None if label is None else int(str(label).removesuffix(".0"))


def check_spelling(source: str, names: Collection[str], name: str, advice: str) -> None:
    """Raise InputError if a column is missing and another name looks like a misspelling of it.

    Otherwise `Label`, `labels` or `lable` instead of `label` would silently mean that no row has a
    label. A longer name, such as `label_source`, is a different column.
    """
    if name in names:
        return
    for other in names:
        if _is_slip(_plain(other), _plain(name)):
            raise InputError(
                f"{source} has no column {shown(name)} but {shown(other)} (did you mean "
                f"{shown(other)}?); {advice}, or rename the column"
            )


def _plain(name: str) -> str:
    """Normalise a name: case, plural, surrounding spaces and format characters."""
    composed = unicodedata.normalize("NFKC", name)
    seen = "".join(char for char in composed if unicodedata.category(char) != "Cf")
    return seen.strip(" _-\t").casefold().removesuffix("s")


def _is_slip(name: str, expected: str) -> bool:
    # Digits make different names (`label2`).
    alike = name.isalpha() and SequenceMatcher(None, name, expected).ratio() >= _ALIKE
    return name == expected or alike
