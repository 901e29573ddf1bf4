"""The low-rank adapter: a frozen linear layer plus a change of rank r.

    y = x Wᵀ + b + s · B(core(A(x))),                   W and b frozen, s = alpha / r
    y = x Wᵀ + b + s · ( B(A(x)) − B_0(A_0(x)) ),       where the adapter starts from a part of W

PoLAR's equation `ΔW = s·X·Θ·Yᵀ` reads `B = X`, `core = Θ`, `A = Yᵀ` here. The factors are plain
linear layers, so anything that hooks linear layers (K-FAC, Jacobians) finds them.

PiSSA and CorDA are published with a frozen residual, `W − s·B_0·A_0`, in the place of W. The second
line is the same function. It costs another product of rank r, and in return W stays the host's own
tensor: shared with other adapters on it, the same in its fingerprint, not rounded again where it is
bfloat16; and the change at the start is exactly zero, since both products are then the same.

A gate may change what `A` hands on, `B(core(gate(A(x))))`. The change of the weight is then another
one for every input: no matrix says it, and what asks for one is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayeslora.adapters.factors import Factors
from bayeslora.adapters.layers import trained_layer
from bayeslora.adapters.site import Site
from bayeslora.errors import InputError

Gate = Callable[[Tensor], Tensor]
"""From the outputs of `A`, [..., r], to what goes on from there, of the same shape."""


def _never() -> None:
    """Return None: the gate may differ between inputs."""


class LowRank(Site):
    """A frozen linear layer plus a low-rank change.

    Attributes:
        A0: [r, in] buffer, where `A` started; only where it is orthonormal or centred.
        B0: [out, r] buffer, likewise for `B`.
        num_blocks: Parts of equal size that the rank falls into; no rotation may mix them.

    Args:
        name: Dotted path of the replaced layer in its host.
        host: The layer to replace. Its weight and bias are shared, not copied, and frozen.
        factors: Where the adapter starts.
        scale: The factor s in front of the change.
        dropout: Probability of dropping an input of `A`; the frozen layer sees every input.
    """

    has_factors = True
    A0: Tensor
    B0: Tensor

    def __init__(
        self, name: str, host: nn.Linear, factors: Factors, scale: float, dropout: float = 0.0
    ) -> None:
        super().__init__(name, host, scale)
        self.dropout = nn.Dropout(dropout)
        device = host.weight.device
        self.A = trained_layer(factors.A, device)
        self.B = trained_layer(factors.B, device)
        self.core = None if factors.core is None else trained_layer(factors.core, device)
        self.orthonormal = factors.orthonormal
        # In a tuple a module is not registered: its tensors belong to whoever attached it.
        self._gate: tuple[Gate, ...] = ()
        self._constant: Callable[[], Tensor | None] = _never
        self.num_blocks = 1
        self.centred = factors.centred
        if factors.orthonormal or factors.centred:
            # Orthonormal ones need not be saved: they only say where directions started from.
            for key, layer in (("A0", self.A), ("B0", self.B)):
                start = layer.weight.detach().clone()
                self.register_buffer(key, start, persistent=factors.centred)
        self.train(host.training)

    @property
    def r(self) -> int:
        """Rank of the change."""
        return self.A.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] in the frozen layer's precision; the change is computed in its own."""
        base = F.linear(x, self.weight, self.bias)
        x = self.dropout(x.to(self.A.weight.dtype))
        h = self.A(x)
        for gate in self._gate:
            h = gate(h)
        if self.core is not None:
            h = self.core(h)
        product: Tensor = self.B(h)
        if self.centred:
            # Not one product of rank 2r: its sums would round, and the start would be a change.
            product = product - F.linear(F.linear(x, self.A0), self.B0)
        return base + (self.scale * product).to(base.dtype)

    @property
    def dropout_probability(self) -> float:
        """Probability that an input of `A` is dropped while training."""
        return self.dropout.p

    @property
    def is_gated(self) -> bool:
        """Whether the change of the weight depends on the input."""
        return bool(self._gate) and self._constant() is None

    def attach(
        self,
        gate: Gate,
        *,
        num_blocks: int = 1,
        constant: Callable[[], Tensor | None] | None = None,
    ) -> None:
        """Apply `gate` to the outputs of `A` in every pass from now on.

        Its tensors stay the caller's to train, move and save.

        Args:
            gate: Takes the place of one that is there.
            num_blocks: Parts of the rank that the gate treats apart.
            constant: Returns what the gate multiplies each part by, [num_blocks], where that is
                the same for all inputs now, and None where it is not.
        """
        self._gate = (gate,)
        self._constant = constant or _never
        self.num_blocks = num_blocks

    def check_fixed(self) -> None:
        """Raise InputError if no one matrix is the change of the weight.

        Raises:
            InputError: There is a gate.
        """
        if self.is_gated:
            raise InputError(
                f"the adapter at {self.name} cannot be merged or exported: a gate between its "
                "factors (as in adapter 'ilora' or posterior 'clora') makes the change of the "
                "weight depend on the input, so there is no one matrix to add or to write",
                code="gated",
            )

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return what is trained, `(A [r, in], B·core [out, r])`; see `change` for the change."""
        B = self.B.weight
        return self.A.weight, B if self.core is None else B @ self.core.weight

    def change(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return `(A [k, in], B [out, k])` with the change `s·B·A`; k is r, or 2r if centred.

        `B·A − B_0·A_0 = (B − B_0)·A + B_0·(A − A_0)`: in this form nothing large cancels. A gate
        that depends on the input is left out.

        Args:
            dtype: Of the result and of the work; None takes the adapter's own.
        """
        kind = dtype or self.A.weight.dtype
        A, B = self.A.weight.to(kind), self.B.weight.to(kind)
        gates = self._constant() if self._gate else None
        if gates is not None:
            B = B * gates.to(B).repeat_interleave(self.r // self.num_blocks)
        if self.core is not None:
            return A, B @ self.core.weight.to(kind)
        if not self.centred:
            return A, B
        A0, B0 = self.A0.to(kind), self.B0.to(kind)
        return torch.cat([A, A - A0]), torch.cat([B - B0, B0], 1)

    @torch.no_grad()
    def begin(self, factors: Factors) -> None:
        """Start anew from factors of the same kind and shapes, in place."""
        for layer, start in ((self.A, factors.A), (self.B, factors.B)):
            layer.weight.copy_(start)
        if self.core is not None and factors.core is not None:
            self.core.weight.copy_(factors.core)
        if self.orthonormal or self.centred:
            self.A0.copy_(factors.A)
            self.B0.copy_(factors.B)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a file has to hold: `trainable()`, and `A0` and `B0` where it is centred."""
        starts = {"A0": self.A0, "B0": self.B0} if self.centred else {}
        return {**self.trainable(), **starts}

    def origin(self) -> dict[str, Tensor]:
        """Return copies of where `A` and `B` started if orthonormal or centred; else zeros."""
        point = super().origin()
        if self.orthonormal or self.centred:
            point |= {"A": self.A0.clone(), "B": self.B0.clone()}
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
