"""Attention of bfloat16 models on a CPU, in float32 for short texts."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from torch import Tensor

SHORT_ATTENTION = "bayeslora_short"
"""Name of the implementation in transformers' attention registry."""

# The backward pass of PyTorch's bfloat16 kernel takes three to six times as long at 12 to 40
# tokens, equally long at 128, and less from 256 on.
_MOST_TOKENS = 128
_COMPARES = re.compile(r"_attn_implementation\s*(==|!=|in\b|not in\b)")


def use_short_attention(model: Any) -> None:
    """Make a transformers model compute attention over short texts in float32.

    Models are not changed if their attention is not transformers' `sdpa` or if their code compares
    its name, as in models with sparse attention.
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
    """Return whether the code of a model compares the name of its attention implementation."""
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
    """Compute attention for queries [B, H, T, d], with the interface of transformers' `sdpa`."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    # Additive terms of the scores have the dtype of the model.
    added = options.get("position_bias") is not None or (
        attention_mask is not None and attention_mask.dtype != torch.bool
    )
    if added or key.shape[2] > _MOST_TOKENS:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    attended, _ = sdpa_attention_forward(
        module, query.float(), key.float(), value.float(), attention_mask, **options
    )
    return attended.to(query.dtype), None
