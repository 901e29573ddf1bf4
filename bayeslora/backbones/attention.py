"""Attention of bfloat16 models on a CPU, in float32 where texts are short."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from torch import Tensor

SHORT_ATTENTION = "bayeslora_short"
"""Its name among transformers' implementations of attention."""

# PyTorch's own bfloat16 kernel: its backward pass takes three to six times as long at 12 to 40
# tokens, as long at 128, and less from 256 on.
_MOST_TOKENS = 128
_COMPARES = re.compile(r"_attn_implementation\s*(==|!=|in\b|not in\b)")


def use_short_attention(model: Any) -> None:
    """Make a transformers model run attention over short texts in float32.

    Models whose attention is not transformers' own `sdpa`, or that ask for its name elsewhere as
    those with sparse attention do, are left as they are.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return
    if not getattr(model, "_supports_attention_backend", False) or _asks_for_the_name(model):
        return
    AttentionInterface.register(SHORT_ATTENTION, _short)
    AttentionMaskInterface.register(SHORT_ATTENTION, sdpa_mask)
    model.set_attn_implementation(SHORT_ATTENTION)


def _asks_for_the_name(model: Any) -> bool:
    """Return whether the code of a model compares the name of its attention with others."""
    try:
        source = inspect.getsource(inspect.getmodule(type(model)))  # type: ignore[arg-type]
    except (OSError, TypeError):
        return True
    return _COMPARES.search(source) is not None


def _short(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend from [B, H, T, d] queries; arguments and result are those of transformers' `sdpa`."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    # What is added to the scores has the dtype of the model.
    added = options.get("position_bias") is not None or (
        attention_mask is not None and attention_mask.dtype != torch.bool
    )
    if added or key.shape[2] > _MOST_TOKENS:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    attended, _ = sdpa_attention_forward(
        module, query.float(), key.float(), value.float(), attention_mask, **options
    )
    return attended.to(query.dtype), None
