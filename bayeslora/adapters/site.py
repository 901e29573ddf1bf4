"""An adapted layer: the module that stands in for one linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

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


class Site(nn.Module):
    """A frozen linear layer plus a trained change of its weight.

    Subclasses define `forward`, `change` and `linears`, and override other methods if needed.

    Attributes:
        has_factors: Whether the change is a product of low-rank factors, as in `LowRank`.
        name: Dotted path of the module in its host.
        scale: The factor s in front of the change.
        weight: [out, in], the frozen weight.
        bias: [out] or None, frozen.
        centred: Whether `origin()` is a part of the frozen weight, which decay to 0 would shrink.

    Args:
        name: Dotted path of the replaced layer in its host.
        host: The layer to replace. Its weight and bias are shared, not copied, and frozen.
        scale: The factor s in front of the change.
    """

    has_factors: ClassVar[bool] = False
    centred: bool = False

    def __init__(self, name: str, host: nn.Linear, scale: float = 1.0) -> None:
        super().__init__()
        self.name = name
        self.scale = scale
        self.weight = host.weight.requires_grad_(False)
        self.bias = None if host.bias is None else host.bias.requires_grad_(False)

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return self.weight.shape[0]

    @property
    def is_gated(self) -> bool:
        """Whether the change of the weight depends on the input."""
        return False

    @property
    def dropout_probability(self) -> float:
        """Probability that an input of the change is dropped while training."""
        return 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] for inputs [..., in], in the frozen layer's precision."""
        raise NotImplementedError

    def change(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return `(A [k, in], B [out, k])`; the change of the weight is `s·B·A`.

        Args:
            dtype: Dtype of the result; None means the adapter's.
        """
        raise NotImplementedError

    @property
    def can_set_change(self) -> bool:
        """Whether `set_change` is possible."""
        return False

    def set_change(self, A: Tensor, B: Tensor) -> None:
        """Set the change to the nearest one to `s·B·A` that the parameters can express.

        Args:
            A: [k, in].
            B: [out, k].
        """
        raise NotImplementedError

    def linears(self) -> dict[str, nn.Linear]:
        """Return the linear layers that hold the parameters, each called once per forward pass."""
        raise NotImplementedError

    def check_fixed(self) -> None:
        """Raise InputError if the change of the weight is not a single matrix."""

    def delta(self) -> Tensor:
        """Return the change of the weight, [out, in], in the adapter's precision.

        Raises:
            InputError: See `check_fixed`.
        """
        self.check_fixed()
        A, B = self.change()
        return self.scale * (B @ A)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return a frozen linear layer with the change merged in, in the host's precision.

        Raises:
            InputError: See `check_fixed`.
        """
        delta = self.delta()
        weight = (self.weight.to(delta.dtype) + delta).to(self.weight.dtype)
        bias = None if self.bias is None else self.bias.detach().clone()
        return frozen_layer(weight, bias, self.training)

    def plain(self) -> nn.Linear:
        """Return the layer without the change; it holds the tensors of the replaced layer."""
        return frozen_layer(self.weight, self.bias, self.training)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the adapter's parameters by name: the weights of `linears()`."""
        return {key: layer.get_parameter("weight") for key, layer in self.linears().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save: `trainable()` and those needed to load them."""
        return dict(self.trainable())

    def shapes(self, stored: Mapping[str, Tensor]) -> dict[str, torch.Size]:
        """Return the shapes that stored tensors must have.

        Args:
            stored: The file's tensors of this site, named as in `tensors()`; some may be missing.

        Raises:
            InputError: A tensor that determines shapes is invalid.
        """
        return {key: value.shape for key, value in self.tensors().items()}

    def resize(self, stored: Mapping[str, Tensor]) -> None:
        """Adopt the shapes that stored tensors determine; see `shapes`."""

    def origin(self) -> dict[str, Tensor]:
        """Return the centre of a prior over `trainable()`, where the change is 0."""
        return {key: torch.zeros_like(value) for key, value in self.trainable().items()}

    def manifold(self) -> dict[str, str]:
        """Return the manifold (`stiefel`) of each constrained parameter."""
        return {}
