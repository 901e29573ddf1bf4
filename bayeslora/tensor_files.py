"""Safetensors files that may be damaged, foreign, or no files at all; and ones with a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.errors import InputError
from bayeslora.files import atomic_file

_CHECKSUM = "sha256"

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
        raise InputError(f"{path} is damaged or truncated: {error}", code="damaged") from None


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return every tensor of a safetensors file by name.

    Raises:
        InputError: See `open_tensors`.
    """
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def write_sealed(path: str | Path, tensors: Mapping[str, Tensor], **about: str) -> None:
    """Write tensors with their checksum.

    Args:
        path: The file.
        tensors: By name.
        **about: What is said of them.

    Raises:
        OSError: They cannot be written.
    """
    from safetensors.torch import save_file

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as aside:
        save_file(whole, str(aside), metadata={**about, _CHECKSUM: _sha256(whole)})


def read_sealed(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what `write_sealed` wrote: the tensors, and what is said of them.

    Raises:
        InputError: See `open_tensors`, or a bit of a tensor is another.
    """
    with open_tensors(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = dict(file.metadata() or {})
    if about.pop(_CHECKSUM, None) != _sha256(tensors):
        raise InputError(f"{path} is damaged (its sha256 is another)", code="damaged")
    return tensors, about


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    import torch

    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].cpu().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
