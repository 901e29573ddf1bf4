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
from difflib import SequenceMatcher, get_close_matches
from itertools import islice
from typing import Any

import numpy as np

from bayeslora.data import examples
from bayeslora.data.examples import IMAGE, Examples, Label
from bayeslora.data.formats import Record, Table
from bayeslora.errors import InputError
from bayeslora.plain_text import listed, shown

logger = logging.getLogger(__name__)

_ALIKE = 0.8  # of the letters; `lable` is as near to `label`
_DIGITS = 100  # integers with more digits are no class names, and Python refuses to print many
_FIELD = re.compile(r"\{([^{}]+)\}")
_INTEGER = re.compile(rf"(?:0|-?[1-9][0-9]{{0,{_DIGITS - 1}}})(?:\.0)?")


@dataclass(frozen=True)
class DataColumns:
    r"""Names of the columns of a table by their role.

    Attributes:
        text: The text to classify, or the path of the image; or a template of several columns, such
            as `{subject}\n{body}`, in which an empty cell is an empty text.
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
    def text_columns(self) -> tuple[str, ...]:
        """Columns of the text: one, or those of the template."""
        return tuple(dict.fromkeys(_FIELD.findall(self.text))) or (self.text,)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns to read, if they exist."""
        choices = (self.choices,) if isinstance(self.choices, str) else self.choices or ()
        return (
            "id",
            self.text,
            *self.text_columns,
            self.label,
            *filter(None, [self.pair]),
            *choices,
        )


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
        keep: Sequence[str] = (),
        skip_blank: bool = False,
    ) -> None:
        """Check that the columns exist.

        Args:
            table: The raw rows.
            columns: Names of the columns to use.
            required: Whether a missing or empty label is an error.
            keep: Further columns to keep, as texts.
            skip_blank: Whether to skip rows with a missing or blank text.

        Raises:
            InputError: A column is missing.
        """
        self.table, self.columns, self.required = table, columns, required
        self.source = table.source
        self._keep, self._skip_blank = keep, skip_blank
        self._num_skipped = 0
        self._has_ids = self._has_pairs = False
        self._integer_labels = table.is_text
        # Texts in a list have the template as their column's name.
        self._is_template = columns.text not in {*table.names, *columns.text_columns}
        self._require_columns()

    def checked(self) -> Iterator[Examples]:
        """Yield the examples in the first pass, before `finished`.

        Raises:
            InputError: A value is not allowed, an id is repeated, or no row is left.
        """
        hashes = array("q")  # eight bytes per row
        num_rows = 0
        for piece in self._parts():
            num_rows += len(piece)
            if self._has_ids:
                hashes.extend(map(hash, piece.ids))
            self._has_pairs |= any(piece.pairs or ())
            self._integer_labels = self._integer_labels and all(map(is_integer, piece.labels))
            yield piece
        if not num_rows:
            raise InputError(f"{self.source}: the text of every row is blank, so no rows are left")
        if self._num_skipped:
            total = num_rows + self._num_skipped
            message = "%s: skipped %d of %d rows without text"
            logger.warning(message, self.source, self._num_skipped, total)
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
        if self._skip_blank:
            self._num_skipped = 0
            rows = filter(self._has_text, rows)
        is_first = True
        while part := list(islice(rows, examples.PIECE)):
            if is_first:  # all rows have ids, or none has
                self._has_ids, is_first = part[0][1].get("id") is not None, False
            ids = self._each(part, "id", _id if self._has_ids else _no_id)
            numbers = tuple(row for row, _ in part)
            yield Examples(
                **self._content(part),
                ids=ids if self._has_ids else tuple(map(str, numbers)),
                rows=numbers,
                source=self.source,
                label_column=self.columns.label,
                further={name: self._each(part, name, as_text) for name in self._keep},
                images=self.columns.images,
            )

    def _has_text(self, row: tuple[int, Record]) -> bool:
        """Return whether a row has all its texts; count those without."""
        has_text = not any(map(is_blank, self._texts(row[1])))
        self._num_skipped += not has_text
        return has_text

    def _texts(self, record: Record) -> list[Any]:
        """Return the texts of a row that may not be blank."""
        pair = self.columns.pair
        return [self._text(record), *([] if pair is None else [record.get(pair)])]

    def _text(self, record: Record) -> Any:
        """Return the raw text of a row, with its template filled."""
        text = self.columns.text
        if not self._is_template:
            return record.get(text)
        cells = {name: as_text(record.get(name)) or "" for name in self.columns.text_columns}
        return _FIELD.sub(lambda field: cells[field[1]], text.replace("\\n", "\n"))

    def _whole_text(self, record: Record) -> str:
        return text_value(self._text(record))

    @property
    def _names(self) -> tuple[str, ...]:
        """Names of the columns to read, if they exist."""
        return (*self.columns.column_names, *self._keep)

    def _content(self, rows: Rows) -> dict[str, Any]:
        """Return the texts, second texts and labels, by the names of `Examples`."""
        text, pair = self.columns.text, self.columns.pair
        convert = self._image if self.columns.images else text_value
        whole = [record for _, record in rows] if self._is_template else None
        return {
            "texts": self._each(rows, text, convert if whole is None else self._whole_text, whole),
            "pairs": None if pair is None else self._each(rows, pair, text_value),
            "labels": self._each(rows, self.columns.label, self._label),
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
            is_text = convert in (text_value, self._whole_text)
            skips = is_text and isinstance(problem, BlankTextError)
            hint = "; blank='skip' (--set blank=skip) leaves out such rows" if skips else ""
            raise InputError(f"{where}: {problem}{hint}") from None
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
        text, image = "text_column (--text-column)", "image_column (--image-column)"
        if columns.images:
            text = image
        elif "candidates" in names:
            text += "; rows with candidates need a column 'history' or 'question'"
        elif not (self._is_template or self._near(columns.text)):
            text += f", or for images {image}"
        texts = columns.text_columns if self._is_template else (columns.text,)
        needed = dict.fromkeys(texts, text)
        if columns.pair is not None:
            needed[columns.pair] = "pair_column (--text-pair-column)"
        if self.required:
            needed[columns.label] = "label_column (--label-column)"
        self._require(needed | dict.fromkeys(self._keep, "keep (--keep)"))
        if not self.required:
            check_spelling(self.source, names, columns.label, "set --label-column")
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
        lacks = " and no column ".join(
            shown(name) + "".join(f" (did you mean {shown(other)}?)" for other in self._near(name))
            for name in missing
        )
        mark = next((mark for mark in ";\t|," if len(names) == 1 and mark in names[0]), None)
        end = f"Use {' and '.join(dict.fromkeys(options[name] for name in missing))}"
        if mark is not None:
            end = f"{end}, or set the delimiter {mark!r} (--set delimiter={mark!r})"
        if self.columns.described is not None:
            end = f"The columns are set by {self.columns.described}"
        raise InputError(
            f"{self.source} has no column {lacks}; its columns are {listed(names)}. {end}",
            code="unknown",
        )

    def _near(self, name: str) -> list[str]:
        """Return the most similar column name, if any is similar."""
        return get_close_matches(name, self.table.names[:1000], n=1)


class BadValueError(ValueError):
    """An invalid value; the caller adds its location."""


class BlankTextError(BadValueError):
    """A missing or blank text."""


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
    raise BlankTextError(f"the text {text}")


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


def _no_id(value: Any) -> None:
    if value is not None:
        raise BadValueError(f"the id is {shown(value)}, but the first row has none; {_IDS}")


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
    if is_whole and abs(int(value)) < 10**_DIGITS:
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
    """Normalise a name: case, plural and surrounding spaces."""
    return name.strip(" _-\t").casefold().removesuffix("s")


def _is_slip(name: str, expected: str) -> bool:
    # Digits make different names (`label2`).
    alike = name.isalpha() and SequenceMatcher(None, name, expected).ratio() >= _ALIKE
    return name == expected or alike
