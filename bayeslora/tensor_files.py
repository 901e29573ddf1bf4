"""Safetensors files, possibly damaged or foreign, and files with a checksum."""

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
        InputError: It is missing, not a regular file (reading a pipe would block), damaged or
            truncated, or one of its tensors cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    source = Path(path)
    if not source.exists():
        raise InputError(f"{path} does not exist")
    if not source.is_file():
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
        path: Output file.
        tensors: Tensors by name.
        **about: Metadata.

    Raises:
        OSError: They cannot be written.
    """
    from safetensors.torch import save_file

    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as temporary:
        save_file(contiguous, str(temporary), metadata={**about, _CHECKSUM: _sha256(contiguous)})


def read_sealed(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata written by `write_sealed`.

    Raises:
        InputError: See `open_tensors`, or the checksum differs.
    """
    with open_tensors(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = dict(file.metadata() or {})
    if about.pop(_CHECKSUM, None) != _sha256(tensors):
        raise InputError(f"{path} is damaged (its SHA-256 differs)", code="damaged")
    return tensors, about


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
