"""Which of the states that a layer saw belong to real tokens, and which to padding."""

from __future__ import annotations

import torch
from torch import Tensor

from bayeslora.errors import InputError


def real_tokens(name: str, states: Tensor, mask: Tensor) -> Tensor:
    """Return which of a batch's states are those of real tokens, [...] truth values.

    A layer may see one state a row, and then all of them are.

    Args:
        name: What saw them, as the message says it.
        states: [B, T, d], [B·T, d], or [B, d].
        mask: [B, T], 1 at real tokens.

    Raises:
        InputError: The states are of another shape.
    """
    rows, tokens = mask.shape
    leading = states.shape[:-1]
    if leading == (rows,):
        return torch.ones(rows, dtype=torch.bool, device=states.device)
    if leading not in {(rows, tokens), (rows * tokens,)}:
        raise InputError(
            f"{name} sees inputs of shape {list(states.shape)}, which are neither {rows} rows of "
            f"{tokens} tokens nor {rows} rows; choose other target_modules"
        )
    return mask.bool().reshape(leading).to(states.device)
