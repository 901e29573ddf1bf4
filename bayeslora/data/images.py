"""Images as rows: directories with one directory per class, and single images.

An image is identified by its path, and a digit of scikit-learn by `digits#<row>`, with rows from 0.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.data.examples import IMAGE, Examples
from bayeslora.data.splits import stratified_sample
from bayeslora.errors import InputError, first_line

DIGITS = "digits"
"""The images of `sklearn.datasets.load_digits`, of shape 8 × 8, as an array."""

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_SMALL = 96  # pixels of a thumbnail's longer side, at most
_DIGIT = re.compile(rf"{DIGITS}#([0-9]+)")


def is_image(path: str | Path) -> bool:
    """Return whether a path has the suffix of an image."""
    return Path(path).suffix.lower() in SUFFIXES


def image_columns(folder: str | Path) -> dict[str, list[Any]]:
    """Return the columns of a directory: `image` and, if it has one directory per class, `label`.

    Raises:
        InputError: It has no images.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and is_image(path))
    parts = [path.relative_to(folder).parts for path in paths]
    if not paths:
        raise InputError(
            f"{folder} is a directory without images ({', '.join(sorted(SUFFIXES))}); for texts "
            "pass a file: .jsonl, .json, .csv, .tsv or .parquet"
        )
    columns = {IMAGE: [str(Path(*part)) for part in parts]}
    if all(len(part) > 1 for part in parts):
        columns["label"] = [part[0] for part in parts]
    return columns


def located(image: str, source: str) -> str:
    """Resolve the path of an image relative to the location of its table.

    Args:
        image: Path in the table.
        source: `Table.source`: a directory, a file, or a placeholder such as `<list>` for data in
            memory.
    """
    path = Path(source)
    if source.startswith("<") or _DIGIT.fullmatch(image):
        return image
    return str((path if path.is_dir() else path.parent) / image)


def read_image(image: str) -> NDArray[np.uint8]:
    """Return the RGB pixels of an image, [H, W, 3].

    Raises:
        InputError: The image does not exist or cannot be read; the message names it.
    """
    digit = _DIGIT.fullmatch(image)
    if digit is None:
        return _read_file(image)
    pixels = (_digits()["images"][int(digit[1])] * 255).round().astype(np.uint8)
    return np.repeat(pixels[:, :, None], 3, axis=2)


def _read_file(image: str) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    if not Path(image).is_file():
        raise InputError(f"image {image} does not exist")
    try:
        with Image.open(image) as opened:
            pixels = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"image {image} cannot be read: {first_line(error)}") from None
    return pixels


def thumbnail(image: str) -> str:
    """Return a thumbnail as a data URI of a PNG file; empty if there is no such image.

    Args:
        image: Path of an image, or any text.
    """
    if not (is_image(image) or _DIGIT.fullmatch(image)):
        return ""
    from PIL import Image

    try:
        picture = Image.fromarray(read_image(image))
    except InputError:
        return ""
    picture.thumbnail((_SMALL, _SMALL))
    factor = _SMALL // max(picture.size)
    picture = picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def load_digits(split: str) -> Examples:
    """Return 1,000 training, 297 validation or 500 test digits, stratified by class, 0 to 9."""
    labels: NDArray[np.int64] = _digits()["labels"]
    test = stratified_sample(labels, 500, 0)
    rest = np.setdiff1d(np.arange(len(labels)), test)
    train = rest[stratified_sample(labels[rest], 1000, 0)]
    rows = {"train": train, "test": test, "validation": np.setdiff1d(rest, train)}[split]
    return Examples(
        ids=tuple(map(str, rows)),
        texts=tuple(f"{DIGITS}#{row}" for row in rows),
        pairs=None,
        labels=tuple(str(labels[row]) for row in rows),
        rows=tuple(range(1, len(rows) + 1)),
        source=f"{DIGITS} ({split})",
        images=True,
    )


@lru_cache(maxsize=1)
def _digits() -> Mapping[str, NDArray[Any]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return {"images": bunch.images / 16.0, "labels": bunch.target}
