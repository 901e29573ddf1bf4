"""Keywords that several functions share: typed, and described, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict


class ColumnNames(TypedDict, total=False):
    """Names of columns in the data.

    Attributes:
        text_column: Column of the texts; `text` by default.
        label_column: Column of the labels; `label` by default.
        pair_column: Column of second texts; none by default.
        image_column: Column of image paths, relative to the file, for a vision model; not needed
            for data with a column `image` and no `text`, image directories and image arrays.
    """

    text_column: str | None
    label_column: str | None
    pair_column: str | None
    image_column: str | None


class Loading(TypedDict, total=False):
    """How a backbone is loaded.

    Attributes:
        dtype: Data type of the frozen weights: `auto` (default), `float32`, `bfloat16`.
        device: A torch device; by default the GPU if there is one.
        trust_remote_code: Whether code from the backbone's repository may run; by default not.
    """

    dtype: str
    device: str | None
    trust_remote_code: bool


def check_keywords(function: str, options: Mapping[str, Any], typed: Any) -> None:
    """Raise TypeError for a keyword that a typed dictionary does not have."""
    for name in options:
        if name not in typed.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def columns_in(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names of columns among keywords: `{"text": "review"}` for `text_column`."""
    end = "_column"
    return {name.removesuffix(end): value for name, value in options.items() if name.endswith(end)}
