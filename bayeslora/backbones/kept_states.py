"""Disk cache of the states of frozen layers, for later fits on the same texts."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bayeslora.backbones.prefix import PrefixStates
from bayeslora.disk_cache import make_room, mark_used
from bayeslora.errors import InputError
from bayeslora.tensor_files import read_sealed, write_sealed

_VALUES = "values"


def save_states(path: Path, states: PrefixStates) -> None:
    """Write states with a checksum.

    Raises:
        OSError: The file cannot be written.
    """
    make_room(path)
    write_sealed(path, {_VALUES: states.values})
    mark_used(path)


def load_states(path: Path, spans: Tensor, width: int, dtype: torch.dtype) -> PrefixStates:
    """Read what `save_states` wrote for texts of the same lengths.

    Args:
        path: The file.
        spans: [N, 2] int64, as in `PrefixStates`.
        width: Hidden size d.
        dtype: Dtype of the states.

    Raises:
        InputError: The file is damaged or has other content.
    """
    tensors, _ = read_sealed(path)
    if [*tensors] != [_VALUES]:
        raise InputError(f"{path} does not contain states of frozen layers")
    values = tensors[_VALUES]
    if values.shape != (int(spans[-1, 1]), width) or values.dtype != dtype:
        raise InputError(f"{path} contains states of other texts")
    mark_used(path)
    return PrefixStates(values, spans)
