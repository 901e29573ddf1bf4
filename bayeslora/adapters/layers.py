"""Linear layers from tensors, without random initialisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def trained_layer(weight: Tensor, device: torch.device) -> nn.Linear:
    """Return a trainable layer without bias whose weight is a copy of `weight`."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    # The layout of a loaded tensor: products round differently in another layout.
    start = weight.detach().to(device).clone(memory_format=torch.contiguous_format)
    layer.weight = nn.Parameter(start)
    return layer


def frozen_layer(weight: Tensor, bias: Tensor | None, training: bool) -> nn.Linear:
    """Return a frozen layer that holds these tensors; parameters stay the same objects."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = _frozen(weight)
    if bias is not None:
        layer.bias = _frozen(bias)
    return layer.train(training)


def _frozen(tensor: Tensor) -> nn.Parameter:
    if isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor, requires_grad=False)
