"""An adapter site: the module that stands in for one linear layer.

    y = x Wᵀ + b + s · B(core(A(x))),   W and b frozen, s = alpha / r

PoLAR's equation `ΔW = s·X·Θ·Yᵀ` reads `B = X`, `core = Θ`, `A = Yᵀ` here. The factors are plain
linear layers, so anything that hooks linear layers (K-FAC, Jacobians) finds them.

A gate may change what `A` hands on, `B(core(gate(A(x))))`. The change of the weight is then another
one for every input: no matrix says it, and what asks for one is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayeslora.adapters.init import Factors
from bayeslora.errors import InputError

Gate = Callable[[Tensor], Tensor]
"""From the outputs of `A`, [..., r], to what goes on from there, of the same shape."""


@runtime_checkable
class Site(Protocol):
    """What posteriors, optimisers and files may ask of an adapter, whatever its form."""

    name: str
    """Dotted path of the module in its host."""
    scale: float
    """The factor s in front of the change."""
    weight: nn.Parameter
    """[out, in]: the frozen weight."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] for inputs [..., in]."""

    def delta(self) -> Tensor:
        """Return the change of the weight, [out, in]."""

    def merged(self) -> nn.Linear:
        """Return a plain layer that computes the same function."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the adapter's parameters by name."""

    def origin(self) -> dict[str, Tensor]:
        """Return the point that a prior over `trainable()` is centred on; the change there is 0."""

    def manifold(self) -> dict[str, str]:
        """Return the manifold of each parameter that has one: `stiefel`."""

    def linears(self) -> dict[str, nn.Linear]:
        """Return the linear layers that hold the parameters, each called once a forward pass."""


class LowRank(nn.Module):
    """A frozen linear layer plus a low-rank change; satisfies `Site`.

    Args:
        name: Dotted path of the replaced layer in its host.
        host: The layer to replace. Its weight and bias are shared, not copied, and frozen.
        factors: Where the adapter starts.
        scale: The factor s in front of the change.
        dropout: Probability of dropping an input of `A`; the frozen layer sees every input.
    """

    def __init__(
        self, name: str, host: nn.Linear, factors: Factors, scale: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.name = name
        self.scale = scale
        self.weight = host.weight.requires_grad_(False)
        self.bias = None if host.bias is None else host.bias.requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        device = host.weight.device
        self.A = _linear(factors.A, device)
        self.B = _linear(factors.B, device)
        self.core = None if factors.core is None else _linear(factors.core, device)
        self.orthonormal = factors.orthonormal
        # In a tuple a module is not registered: its tensors belong to whoever attached it.
        self._gate: tuple[Gate, ...] = ()
        if factors.orthonormal:
            # Not saved: they only say where point-estimated directions started from.
            self.register_buffer("_A0", self.A.weight.detach().clone(), persistent=False)
            self.register_buffer("_B0", self.B.weight.detach().clone(), persistent=False)
        self.train(host.training)

    @property
    def r(self) -> int:
        """Rank of the change."""
        return self.A.out_features

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return self.A.in_features

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return self.B.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] in the frozen layer's precision; the change is computed in its own."""
        base = F.linear(x, self.weight, self.bias)
        h = self.A(self.dropout(x.to(self.A.weight.dtype)))
        for gate in self._gate:
            h = gate(h)
        if self.core is not None:
            h = self.core(h)
        change: Tensor = self.scale * self.B(h)
        return base + change.to(base.dtype)

    @property
    def is_gated(self) -> bool:
        """Whether the change of the weight depends on the input."""
        return bool(self._gate)

    def attach(self, gate: Gate) -> None:
        """Let `gate` change the outputs of `A` in every pass from now on.

        Its tensors stay the caller's to train, move and save.
        """
        self._gate = (gate,)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return `(A [r, in], B·core [out, r])`, the change being `s` times their product.

        Raises:
            InputError: There is a gate.
        """
        if self.is_gated:
            raise InputError(
                f"the adapter at {self.name} cannot be merged or exported: a gate between its "
                "factors (as in posterior 'clora') makes the change of the weight depend on the "
                "input, so there is no one matrix to add or to write"
            )
        B = self.B.weight
        return self.A.weight, B if self.core is None else B @ self.core.weight

    def delta(self) -> Tensor:
        """Return the change of the weight, [out, in], in the adapter's precision.

        Raises:
            InputError: There is a gate.
        """
        A, B = self.factors()
        return self.scale * (B @ A)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return a plain layer with the change added in, in the host's precision and frozen.

        Raises:
            InputError: There is a gate.
        """
        weight = (self.weight.to(self.A.weight.dtype) + self.delta()).to(self.weight.dtype)
        bias = None if self.bias is None else self.bias.detach().clone()
        return _plain(weight, bias, self.training)

    def plain(self) -> nn.Linear:
        """Return the layer without the change, holding the very tensors of the replaced one."""
        return _plain(self.weight, self.bias, self.training)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the weights of `A`, `B` and, where there is one, `core`."""
        return {key: layer.get_parameter("weight") for key, layer in self.linears().items()}

    def origin(self) -> dict[str, Tensor]:
        """Return zeros, except for orthonormal factors: these return where they started."""
        point = {key: torch.zeros_like(value) for key, value in self.trainable().items()}
        if self.orthonormal:
            point |= {"A": self.get_buffer("_A0").clone(), "B": self.get_buffer("_B0").clone()}
        return point

    def manifold(self) -> dict[str, str]:
        """Return `stiefel` for `A` and `B` where they are orthonormal, else nothing."""
        return {"A": "stiefel", "B": "stiefel"} if self.orthonormal else {}

    def linears(self) -> dict[str, nn.Linear]:
        """Return the layers `A`, `B` and, where there is one, `core`."""
        layers = {"A": self.A, "B": self.B}
        return layers if self.core is None else {**layers, "core": self.core}

    def extra_repr(self) -> str:
        """Return what `print(model)` shows beside the factors."""
        return f"in={self.in_features}, out={self.out_features}, r={self.r}, scale={self.scale:g}"


def _linear(weight: Tensor, device: torch.device) -> nn.Linear:
    """Return a trainable layer without bias whose weight is a copy of `weight`."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone().to(device))
    return layer


def _plain(weight: Tensor, bias: Tensor | None, training: bool) -> nn.Linear:
    """Return a frozen layer that holds these tensors; parameters are kept as the same objects."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = _frozen(weight)
    if bias is not None:
        layer.bias = _frozen(bias)
    return layer.train(training)


def _frozen(tensor: Tensor) -> nn.Parameter:
    if isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor, requires_grad=False)
