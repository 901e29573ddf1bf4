"""What a person types for data: a string that is a text, or the path of a file."""

from __future__ import annotations

import os
import re
from typing import Any

from bayeslora.errors import InputError

_DATA_FILE = re.compile(
    r"\.(jsonl|ndjson|json|csv|tsv|parquet)(\.(gz|bz2|xz|zst))?\s*$", re.IGNORECASE
)
_ENDING = re.compile(r"\w\.[a-z][a-z0-9]{1,7}$", re.IGNORECASE)
"""A word that ends like the name of a file; a full stop after a word is no such ending."""


def as_texts(data: Any) -> Any:
    """Return `data`, with a string that is a text rather than the path of a file put in a list.

    A string is a path where there is a file of that name, where it ends like a data file
    (`.jsonl`, `.csv.gz`), and where it is one word with a slash or an ending such as `.txt`.
    The wrong name of a file is then an error and not a text to classify.

    Raises:
        InputError: A string looks like the path of a file, and there is none.
    """
    # Path.exists raises where a text is longer than names of files may be.
    if not isinstance(data, str) or os.path.exists(data):  # noqa: PTH110
        return data
    if _looks_like_a_path(data.strip()):
        raise InputError(
            f"{data.strip()} does not exist; a text that looks like the name of a file is given in "
            "a list: [text]"
        )
    return [data]


def are_texts(data: object) -> bool:
    """Return whether these are texts alone: a list, a tuple, an array or a series of strings."""
    if isinstance(data, list | tuple):
        return bool(data) and isinstance(data[0], str)
    return hasattr(data, "tolist") and getattr(data, "ndim", 0) == 1


def _looks_like_a_path(text: str) -> bool:
    if _DATA_FILE.search(text):
        return True
    is_word = not any(map(str.isspace, text))
    return is_word and ("/" in text or os.sep in text or _ENDING.search(text) is not None)
