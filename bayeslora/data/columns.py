"""Columns by their role, and the reader that checks all values of a table."""

from __future__ import annotations

import json
import logging
import math
import numbers
import re
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from bayeslora.data import examples
from bayeslora.data.examples import IMAGE, Examples, Label
from bayeslora.data.formats import Record, Table
from bayeslora.errors import InputError
from bayeslora.plain_text import listed, shown

logger = logging.getLogger(__name__)

_FIELD = re.compile(r"\{([^{}]+)\}")
_INTEGER = re.compile(r"(?:0|-?[1-9][0-9]*)(?:\.0)?")


@dataclass(frozen=True)
class DataColumns:
    r"""Names of the columns of a table by their role.

    Attributes:
        text: The text to classify, or the path of the image; or a template of several columns, such
            as `{subject}\n{body}`, in which an empty cell is an empty text.
        label: The label; may be missing if labels are optional.
        pair: A second text, or None.
        images: Whether `text` contains image paths, relative to the file.

    Raises:
        InputError: Two roles have the same column, or images have second texts.
    """

    text: str = "text"
    label: str = "label"
    pair: str | None = None
    images: bool = False

    def __post_init__(self) -> None:
        if self.images and self.pair is not None:
            raise InputError(
                f"images cannot have a second text; remove --text-pair-column {self.pair!r}"
            )
        names = [*self.text_columns, self.label, *filter(None, [self.pair])]
        if len({*names}) < len(names):
            raise InputError(
                "text, second text and label must be in different columns, got --text-column "
                f"{self.text!r}, --text-pair-column {self.pair!r}, --label-column {self.label!r}"
            )

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> DataColumns:
        """Return the columns of texts, questions or images named in a model's record."""
        images = recorded.get("image") is not None
        return cls(recorded["text"], recorded["label"], recorded["pair"], images)

    def recorded(self) -> dict[str, Any]:
        """Return the columns for a model's record, with `image` if they contain images."""
        columns = asdict(self)
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
    def text_columns(self) -> tuple[str, ...]:
        """Columns of the text: one, or those of the template."""
        return tuple(dict.fromkeys(_FIELD.findall(self.text))) or (self.text,)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns to read, if they exist."""
        return ("id", self.text, *self.text_columns, self.label, *filter(None, [self.pair]))


Rows = Sequence[tuple[int, Record]]
"""Numbers and raw values of rows."""


class Reader:
    """Reads a table as examples and checks every value, in memory that does not grow with it.

    The first pass, `checked`, finds what holds for all rows: whether they have ids and
    second texts, and whether labels read from text are integers. `pieces` repeats the pass.

    Attributes:
        table: The raw rows.
        source: Name of the table.
        columns: Names of the columns to use. A column `id` is used if there is one.
        required: Whether a missing or empty label is an error.
    """

    def __init__(
        self,
        table: Table,
        columns: DataColumns,
        *,
        required: bool = False,
        soft: bool = False,
        keep: Sequence[str] = (),
    ) -> None:
        """Check that the columns exist.

        Args:
            table: The raw rows.
            columns: Names of the columns to use.
            required: Whether a missing or empty label is an error.
            soft: Whether columns `label_<class>` may replace the column of labels.
            keep: Further columns to keep, as texts.

        Raises:
            InputError: A column is missing.
        """
        self.table, self.columns, self.required = table, columns, required
        self.source = table.source
        self._keep = keep
        self._has_ids = self._has_pairs = False
        self._integer_labels = table.is_text
        prefix = f"{columns.label}_"
        soft = soft and columns.label not in table.names
        shares = [name for name in table.names if soft and name.startswith(prefix)]
        self._soft = shares if len(shares) > 1 else []
        self._share_names = tuple(name.removeprefix(prefix) for name in self._soft)
        # Texts in a list have the template as their column's name.
        self._is_template = columns.text not in {*table.names, *columns.text_columns}
        self._require_columns()

    def checked(self) -> Iterator[Examples]:
        """Yield the examples in the first pass, before `finished`.

        Raises:
            InputError: A value is not allowed, or an id is repeated.
        """
        hashes = array("q")  # eight bytes per row
        for piece in self._parts():
            if self._has_ids:
                hashes.extend(map(hash, piece.ids))
            self._has_pairs |= any(piece.pairs or ())
            self._integer_labels = self._integer_labels and all(map(is_integer, piece.labels))
            yield piece
        ordered = np.sort(np.frombuffer(hashes, np.int64))
        self._check_ids(set(ordered[1:][ordered[1:] == ordered[:-1]].tolist()))

    def finished(self, piece: Examples) -> Examples:
        """Return examples with what holds for all rows: integers as labels, no second texts."""
        labels = tuple(map(as_integer, piece.labels)) if self._integer_labels else piece.labels
        return replace(piece, labels=labels, pairs=piece.pairs if self._has_pairs else None)

    def pieces(self) -> Iterator[Examples]:
        """Yield the examples again, `examples.PIECE` at a time."""
        return map(self.finished, self._parts())

    def _check_ids(self, repeated: set[int]) -> None:
        """Raise InputError if an id with one of some hashes is repeated."""
        first: dict[str, int] = {}
        for piece in self._parts() if repeated else ():
            for name, row in zip(piece.ids, piece.rows, strict=True):
                if hash(name) in repeated and first.setdefault(name, row) != row:
                    raise InputError(
                        f"{self.source}, row {row}, column 'id': {shown(name)} duplicates the id "
                        f"of row {first[name]}; ids must be unique"
                    )

    def _parts(self) -> Iterator[Examples]:
        rows = self.table.rows(self._names)
        is_first = True
        while part := list(islice(rows, examples.PIECE)):
            if is_first:  # all rows have ids, or none has
                self._has_ids, is_first = part[0][1].get("id") is not None, False
            numbers = tuple(row for row, _ in part)
            yield Examples(
                **self._content(part),
                ids=self._each(part, "id", _id) if self._has_ids else tuple(map(str, numbers)),
                rows=numbers,
                source=self.source,
                label_column=self.columns.label,
                further={name: self._each(part, name, as_text) for name in self._keep},
                images=self.columns.images,
            )

    def _filled(self, record: Record) -> str:
        """Return the text of a row, with the template filled."""
        cells = {name: as_text(record.get(name)) or "" for name in self.columns.text_columns}
        template = self.columns.text.replace("\\n", "\n")
        return text_value(_FIELD.sub(lambda field: cells[field[1]], template))

    @property
    def _names(self) -> tuple[str, ...]:
        """Names of the columns to read, if they exist."""
        return (*self.columns.column_names, *self._soft, *self._keep)

    def _content(self, rows: Rows) -> dict[str, Any]:
        """Return the texts, second texts and labels, by the names of `Examples`."""
        text, pair = self.columns.text, self.columns.pair
        convert = self._image if self.columns.images else text_value
        whole = [record for _, record in rows] if self._is_template else None
        content = {
            "texts": self._each(rows, text, convert if whole is None else self._filled, whole),
            "pairs": None if pair is None else self._each(rows, pair, text_value),
        }
        if self._soft:
            return content | self._shares(rows)
        return content | {"labels": self._each(rows, self.columns.label, self._label)}

    def _shares(self, rows: Rows) -> dict[str, Any]:
        """Return the shares of the annotators' choices, and the most frequent of them."""
        counts = np.column_stack([self._each(rows, name, _count) for name in self._soft])
        sums = counts.sum(1, keepdims=True)
        if not sums.all():
            row, _ = rows[int(np.flatnonzero(sums == 0)[0])]
            raise InputError(f"{self.source}, row {row}: {listed(self._soft)} are all 0 or empty")
        names = self._share_names
        return {
            "labels": tuple(names[k] for k in counts.argmax(1).tolist()),
            "shares": tuple(map(tuple, (counts / sums).tolist())),
            "share_names": names,
        }

    def _each(
        self,
        rows: Rows,
        name: str,
        convert: Callable[[Any], Any],
        values: Iterable[Any] | None = None,
    ) -> tuple[Any, ...]:
        """Return the converted values of a column, or other [N] values; errors name the row."""
        if values is None:
            values = [record.get(name) for _, record in rows]
        if convert is text_value:
            with suppress(TypeError, UnicodeEncodeError):
                "".join(values).encode()
                if all(map(str.strip, values)):  # as nearly always, in a tenth of the time
                    return tuple(values)
        converted: list[Any] = []
        try:
            for value in values:
                converted.append(convert(value))
        except BadValueError as problem:
            row, _ = rows[len(converted)]
            where = f"{self.source}, row {row}, column {shown(name)}"
            raise InputError(f"{where}: {problem}") from None
        return tuple(converted)

    def _image(self, value: Any) -> str:
        """Return the path of a readable image."""
        if not isinstance(value, str) or is_blank(value):
            raise BadValueError(f"{shown(value)} is not an image path")
        # Imported here: texts do not need it.
        from bayeslora.data.images import located, read_image

        image = located(_whole(value), self.source)
        try:
            read_image(image)
        except InputError as error:
            raise BadValueError(str(error)) from None
        return image

    def _label(self, value: Any) -> Label:
        if value is None and self.required:
            raise BadValueError("the label is missing; every row needs a label")
        return _label(value)

    def _require_columns(self) -> None:
        columns, names = self.columns, self.table.names
        text = "image_column (--image-column)"
        if not columns.images:
            text = f"text_column (--text-column), or for images {text}"
        texts = columns.text_columns if self._is_template else (columns.text,)
        needed = dict.fromkeys(texts, text)
        if columns.pair is not None:
            needed[columns.pair] = "pair_column (--text-pair-column)"
        if self.required and not self._soft:
            needed[columns.label] = "label_column (--label-column)"
        self._require(needed | dict.fromkeys(self._keep, "keep (--keep)"))
        if not self.required:
            others = [name for name in names if name not in (*self._names, "id")]
            if columns.label not in names and others:
                logger.warning(
                    "%s has no column %r, so no row has a label; if one of %s has labels, name it "
                    "with label_column (--label-column)",
                    self.source,
                    columns.label,
                    listed(others),
                )

    def _require(self, options: Mapping[str, str]) -> None:
        """Refuse a table that lacks a column; `options` maps each to the option that names it."""
        names = self.table.names
        missing = [name for name in options if name not in names]
        if not missing:
            return
        mark = next((mark for mark in ";\t|," if len(names) == 1 and mark in names[0]), None)
        delimiter = "" if mark is None else f", or set the delimiter (--set delimiter={mark!r})"
        raise InputError(
            f"{self.source} has no column {' and no column '.join(map(shown, missing))}; its "
            f"columns are {listed(names)}. Use "
            f"{' and '.join(dict.fromkeys(options[name] for name in missing))}{delimiter}",
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
    if value is not None and not isinstance(value, str):
        raise BadValueError(f"{shown(value)} is not a string")
    text = "is missing or empty" if value is None else f"{shown(value)} is blank"
    raise BadValueError(f"the text {text}")


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
    is_text = isinstance(value, str)
    return _whole(value if is_text else json.dumps(value, ensure_ascii=False, default=str))


def _id(value: Any) -> str:
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise BadValueError(
            f"the id is {shown(value)}; ids must be strings or integers, in every row or in none"
        )
    return str(value)


def _label(value: Any) -> Label:
    allowed = "a label must be a string or an integer (null or an empty CSV cell if unlabelled)"
    if value is None:
        return None
    if isinstance(value, str | float) and str(value).strip().lower() == "nan":
        raise BadValueError(f"the label is missing: {shown(value)}; {allowed}")
    if isinstance(value, str):
        if is_blank(value):
            raise BadValueError(f"the label {shown(value)} is blank; {allowed}")
        return _whole(value)
    if isinstance(value, bool | np.bool_):
        return str(value)
    is_whole = isinstance(value, numbers.Integral) or (
        isinstance(value, numbers.Real) and math.isfinite(value) and value % 1 == 0
    )
    if is_whole:
        return int(value)
    raise BadValueError(f"{shown(value)} is not allowed; {allowed}")


def _count(value: Any) -> float:
    """Return a number of annotators, or a probability; 0 for an empty cell."""
    try:
        count = 0.0 if value is None else float(value)
    except (TypeError, ValueError):
        count = math.nan
    if not 0 <= count < math.inf:
        raise BadValueError(f"{shown(value)} is not a number from 0")
    return count


def is_integer(label: Label) -> bool:
    """Return whether a label read from text is a plain integer.

    `007` is not: labels that differ in the file must not become the same class. `1.0` is, because
    some programs write columns of integers with empty cells in this form.
    """
    return label is None or _INTEGER.fullmatch(str(label)) is not None


def as_integer(label: Label) -> Label:
    """Convert a label for which `is_integer` holds to an integer."""
    return None if label is None else int(str(label).removesuffix(".0"))
