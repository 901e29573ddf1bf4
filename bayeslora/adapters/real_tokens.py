"""Distinguish the states of real tokens from those of padding."""

from __future__ import annotations

import torch
from torch import Tensor

from bayeslora.errors import InputError


def real_tokens(name: str, states: Tensor, mask: Tensor) -> Tensor:
    """Return a boolean mask [...] of the states of a batch that belong to real tokens.

    If a layer sees one state per row, all of them are real.

    Args:
        name: Name of the layer in the error message.
        states: [B, T, d], [B·T, d], or [B, d].
        mask: [B, T], 1 at real tokens.

    Raises:
        InputError: The states have another shape.
    """
    rows, tokens = mask.shape
    leading = states.shape[:-1]
    if leading == (rows,):
        return torch.ones(rows, dtype=torch.bool, device=states.device)
    if leading not in {(rows, tokens), (rows * tokens,)}:
        raise InputError(
            f"{name} has inputs of shape {list(states.shape)}, expected {rows} rows of {tokens} "
            f"tokens, or {rows} rows; choose other target_modules"
        )
    return mask.bool().reshape(leading).to(states.device)
