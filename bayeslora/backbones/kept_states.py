"""The states of frozen layers on disk, for the next fit of the same texts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bayeslora.backbones.prefix import PrefixStates
from bayeslora.disk_cache import make_room, mark_used
from bayeslora.errors import InputError
from bayeslora.files import atomic_file
from bayeslora.tensor_files import open_tensors

_VALUES, _CHECKSUM = "values", "sha256"


def save_states(path: Path, states: PrefixStates) -> None:
    """Write states with a checksum.

    Raises:
        OSError: They cannot be written.
    """
    make_room(path)
    with atomic_file(path) as aside:
        values = states.values.contiguous()
        save_file({_VALUES: values}, str(aside), metadata={_CHECKSUM: _sha256(values)})
    mark_used(path)


def load_states(path: Path, spans: Tensor, width: int, dtype: torch.dtype) -> PrefixStates:
    """Read what `save_states` wrote for texts of the same lengths.

    Args:
        path: The file.
        spans: [N, 2] int64, as in `PrefixStates`.
        width: Hidden size d.
        dtype: Of the states.

    Raises:
        InputError: The file is damaged, or holds something else.
    """
    with open_tensors(path) as file:
        if list(file.keys()) != [_VALUES]:
            raise InputError(f"{path} holds no states of frozen layers")
        values: Tensor = file.get_tensor(_VALUES)
        checksum = (file.metadata() or {}).get(_CHECKSUM)
    if values.shape != (int(spans[-1, 1]), width) or values.dtype != dtype:
        raise InputError(f"{path} holds states of other texts")
    if _sha256(values) != checksum:
        raise InputError(f"{path} is damaged (its sha256 is another)")
    mark_used(path)
    return PrefixStates(values, spans)


def _sha256(values: Tensor) -> str:
    return hashlib.sha256(values.view(torch.uint8).numpy().data).hexdigest()
