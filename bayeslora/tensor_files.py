"""Reading safetensors files that may be damaged, foreign, or no files at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def open_tensors(path: str | Path) -> Iterator[Any]:
    """Yield an open safetensors file, with `keys`, `metadata` and `get_tensor`.

    Raises:
        InputError: It is missing, no regular file (a pipe would be waited for), damaged or
            truncated, or one of its tensors cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    place = Path(path)
    if not place.exists():
        raise InputError(f"{path} does not exist")
    if not place.is_file():
        raise InputError(f"{path} is not a regular file")
    try:
        with safe_open(str(path), "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or truncated: {error}") from None


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return every tensor of a safetensors file by name.

    Raises:
        InputError: See `open_tensors`.
    """
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
