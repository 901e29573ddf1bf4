"""Images as rows: directories with one directory per class, array files, and single images.

An image is identified by its path, and an image in an array by `<path>#<row>`, with rows from 0.
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
_ARRAYS = (".npz", ".npy")
_SMALL = 96  # pixels of a thumbnail's longer side, at most
_IN_ARRAY = re.compile(rf"(?P<array>{DIGITS}|.+\.np[yz])#(?P<row>[0-9]+)")


def is_image(path: str | Path) -> bool:
    """Return whether a path has the suffix of an image."""
    return Path(path).suffix.lower() in SUFFIXES


def holds_images(path: str | Path) -> bool:
    """Return whether a path is a directory or an array file, which `image_columns` reads."""
    return Path(path).suffix.lower() in _ARRAYS or Path(path).is_dir()


def image_columns(path: str | Path) -> dict[str, list[Any]]:
    """Return the columns of a directory or an array file: `image` and optionally `label`.

    Args:
        path: A directory with images, or with one directory of images per class; or a `.npy` file
            with images [N, H, W] or [N, H, W, 3]; or a `.npz` file with `images` and optionally
            `labels` [N], integers or strings. Images are uint8, or floats between 0 and 1.

    Raises:
        InputError: The path is none of these.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    arrays = _array(str(path), _changed(path))
    images = arrays["images"]
    columns: dict[str, list[Any]] = {IMAGE: [f"{path.name}#{row}" for row in range(len(images))]}
    if "labels" in arrays:
        labels = arrays["labels"]
        if labels.ndim != 1 or len(labels) != len(images) or labels.dtype.kind not in "iuUS":
            raise InputError(
                f"{path}: labels must be {len(images)} integers or strings, one per image, got "
                f"{labels.dtype} of shape {list(labels.shape)}"
            )
        columns["label"] = (
            labels.astype(str).tolist() if labels.dtype.kind == "S" else labels.tolist()
        )
    return columns


def _folder(folder: Path) -> dict[str, list[Any]]:
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
    elif any(len(part) > 1 for part in parts):
        alone = next(path for path, part in zip(paths, parts, strict=True) if len(part) == 1)
        raise InputError(
            f"{folder} contains both folders and images, such as {alone.name}; put every image "
            "into the folder of its class, or use no folders"
        )
    return columns


def located(image: str, source: str) -> str:
    """Resolve the path of an image relative to the location of its table.

    Args:
        image: Path in the table.
        source: `Table.source`: a directory, a file, or a placeholder such as `<list>` for data in
            memory.
    """
    path = Path(source)
    if source.startswith("<") or _is_digit(image):
        return image
    return str((path if path.is_dir() else path.parent) / image)


def _is_digit(image: str) -> bool:
    match = _IN_ARRAY.fullmatch(image)
    return match is not None and match["array"] == DIGITS


def read_image(image: str) -> NDArray[np.uint8]:
    """Return the RGB pixels of an image, [H, W, 3].

    Raises:
        InputError: The image does not exist or cannot be read; the message names it.
    """
    match = _IN_ARRAY.fullmatch(image)
    return _read_file(image) if match is None else _read_row(match["array"], int(match["row"]))


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


def _read_row(array: str, row: int) -> NDArray[np.uint8]:
    if array == DIGITS:
        images = _digits()["images"]
    elif Path(array).is_file():
        images = _array(array, _changed(Path(array)))["images"]
    else:
        raise InputError(f"image {array}#{row} does not exist")
    if row >= len(images):
        raise InputError(f"image {array}#{row} does not exist: the file has {len(images)} images")
    pixels = images[row]
    if pixels.dtype != np.uint8:
        pixels = (pixels * 255).round().astype(np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def thumbnail(image: str) -> str:
    """Return a thumbnail as a data URI of a PNG file; empty if there is no such image.

    Args:
        image: Path of an image, or any text.
    """
    if not (is_image(image) or _IN_ARRAY.fullmatch(image)):
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


def _changed(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_mtime_ns, state.st_size


@lru_cache(maxsize=2)
def _array(path: str, _changed: tuple[int, int]) -> Mapping[str, NDArray[Any]]:
    """Return checked `images` and, if present, `labels` of an array file; cached."""
    try:
        # Opened here, since numpy does not close files that it cannot read.
        with Path(path).open("rb") as file:
            content: Any = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                arrays = {"images": content}
            else:
                with content:
                    arrays = {
                        name: content[name] for name in ("images", "labels") if name in content
                    }
    except Exception as error:  # numpy raises anything for a damaged or forged header
        raise InputError(f"{path} cannot be read: {first_line(error)}") from None
    if "images" not in arrays:
        raise InputError(f"{path} has no array 'images'")
    images = arrays["images"]
    if images.ndim == 4 and images.shape[3] == 1:
        arrays["images"] = images = images[..., 0]
    shaped = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    is_share = images.dtype.kind == "f" and images.size and 0 <= images.min() <= images.max() <= 1
    if not shaped or not images.size or not (images.dtype == np.uint8 or is_share):
        raise InputError(
            f"{path}: images must have shape [N, H, W] or [N, H, W, 3] and be uint8, or floats "
            f"between 0 and 1, got {images.dtype} of shape {list(images.shape)}"
        )
    return arrays
