"""The low-rank adapter: a frozen linear layer plus a change of rank r.

    y = x Wᵀ + b + s · B(core(A(x))),                   W and b frozen, s = alpha / r
    y = x Wᵀ + b + s · ( B(A(x)) − B_0(A_0(x)) ),       where the adapter starts from a part of W

PoLAR's equation `ΔW = s·X·Θ·Yᵀ` reads `B = X`, `core = Θ`, `A = Yᵀ` here. The factors are plain
linear layers, so anything that hooks linear layers (K-FAC, Jacobians) finds them.

PiSSA and CorDA are published with a frozen residual `W − s·B_0·A_0` instead of W. The second line
is the same function. It costs another product of rank r; in return W stays the host's tensor,
shared with other adapters, with the same fingerprint, and is not rounded again in bfloat16; and the
initial change is exactly zero, since both products are equal.

A gate may modify the output of `A`: `B(core(gate(A(x))))`. The change of the weight then depends on
the input, so methods that need it as a matrix raise an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayeslora.adapters.site import Site, SiteSpectrum, trained_layer
from bayeslora.errors import InputError

Gate = Callable[[Tensor], Tensor]
"""From the outputs of `A`, [..., r], to gated outputs of the same shape."""


class Factors(NamedTuple):
    """Factors of one change `B·core·A`, float32.

    Attributes:
        A: [r, in].
        B: [out, r].
        core: [r, r], or None for the identity.
        orthonormal: Whether the columns of `B` and the rows of `A` stay orthonormal.
        centred: Whether the change is relative to these factors: `B·A` minus its initial value.
    """

    A: Tensor
    B: Tensor
    core: Tensor | None
    orthonormal: bool
    centred: bool = False


def balanced(U: Tensor, S: Tensor, Vh: Tensor, scale: float) -> Factors:
    """Return factors with `s·B·A = U diag(S) Vh`, √S in each, float32.

    The largest entry of each column of U is made positive, so that the factors do not depend on
    the arbitrary signs of a decomposition.

    Args:
        U: [out, r].
        S: [r], not negative.
        Vh: [r, in].
        scale: s > 0.
    """
    largest = U.gather(0, U.abs().argmax(0, keepdim=True))[0]
    signs = torch.where(largest < 0, -1.0, 1.0).to(U)
    roots = (S / scale).sqrt()
    A, B = (signs * roots)[:, None] * Vh, U * (signs * roots)
    return Factors(A.float(), B.float(), None, orthonormal=False, centred=True)


def blank_factors(out_features: int, in_features: int, r: int) -> Factors:
    """Return zeros in place of factors derived from the weight.

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    check_rank(out_features, in_features, r)
    A, B = torch.zeros(r, in_features), torch.zeros(out_features, r)
    return Factors(A, B, None, orthonormal=False, centred=True)


def check_rank(out_features: int, in_features: int, r: int) -> None:
    """Check a rank.

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    limit = min(out_features, in_features)
    if not 1 <= r <= limit:
        raise InputError(
            f"r must be between 1 and {limit} for a layer with {out_features} outputs and "
            f"{in_features} inputs, got {r}"
        )


def _never() -> None:
    """Return None: the gate may differ between inputs."""


class LowRank(Site):
    """A frozen linear layer plus a low-rank change.

    Attributes:
        A0: [r, in] buffer, initial `A`; only if orthonormal or centred.
        B0: [out, r] buffer, initial `B`, likewise.
        num_blocks: Number of equal parts of the rank, which no rotation may mix.

    Args:
        name: Dotted path of the replaced layer in its host.
        host: The layer to replace. Its weight and bias are shared, not copied, and frozen.
        factors: Initial factors.
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
        # A tuple does not register a module: its tensors belong to the caller that attached it.
        self._gate: tuple[Gate, ...] = ()
        self._constant: Callable[[], Tensor | None] = _never
        self.num_blocks = 1
        self.centred = factors.centred
        if factors.orthonormal or factors.centred:
            # Orthonormal factors need not be saved: they only record the initial directions.
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
            # Not one product of rank 2r: rounding would make the initial change nonzero.
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
        """Apply `gate` to the outputs of `A` in every later pass.

        The caller trains, moves and saves its tensors.

        Args:
            gate: Replaces an existing gate.
            num_blocks: Number of parts of the rank that the gate scales separately.
            constant: Returns the factor of each part, [num_blocks], if it is currently the same for
                all inputs, else None.
        """
        self._gate = (gate,)
        self._constant = constant or _never
        self.num_blocks = num_blocks

    def check_fixed(self) -> None:
        """Raise InputError if the change of the weight is not a single matrix.

        Raises:
            InputError: A gate depends on the input.
        """
        if self.is_gated:
            raise InputError(
                f"the adapter at {self.name} cannot be merged or exported: a gate between its "
                "factors (as in adapter 'ilora' or posterior 'clora') makes the change of the "
                "weight depend on the input",
                code="gated",
            )

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the trained factors `(A [r, in], B·core [out, r])`; see also `change`."""
        B = self.B.weight
        return self.A.weight, B if self.core is None else B @ self.core.weight

    def change(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return `(A [k, in], B [out, k])`; the change is `s·B·A`, and k is r, or 2r if centred.

        `B·A − B_0·A_0 = (B − B_0)·A + B_0·(A − A_0)`: this form avoids cancellation. A gate that
        depends on the input is left out.

        Args:
            dtype: Dtype of the computation and the result; None means the adapter's.
        """
        dtype = dtype or self.A.weight.dtype
        A, B = self.A.weight.to(dtype), self.B.weight.to(dtype)
        gates = self._constant() if self._gate else None
        if gates is not None:
            B = B * gates.to(B).repeat_interleave(self.r // self.num_blocks)
        if self.core is not None:
            return A, B @ self.core.weight.to(dtype)
        if not self.centred:
            return A, B
        A0, B0 = self.A0.to(dtype), self.B0.to(dtype)
        return torch.cat([A, A - A0]), torch.cat([B - B0, B0], 1)

    @property
    def can_set_change(self) -> bool:
        """Whether the parameters are free factors, or orthonormal ones around a core."""
        keys = {"A", "B", "core"} if self.orthonormal else {"A", "B"}
        return self.trainable().keys() == keys and not self.centred and not self._gate

    @torch.no_grad()
    def set_change(self, A: Tensor, B: Tensor) -> None:
        """Set the factors to those of the change of rank r nearest to `s·B·A` (Eckart & Young)."""
        missing = max(0, self.r - len(A))  # zeros, which the decompositions complete
        A, B = F.pad(A.double(), (0, 0, 0, missing)), F.pad(B.double(), (0, missing))
        QA, RA = torch.linalg.qr(A.T)
        QB, RB = torch.linalg.qr(B)
        U, S, Vh = torch.linalg.svd(RB @ RA.T)
        U, S, Vh = QB @ U[:, : self.r], S[: self.r], Vh[: self.r] @ QA.T
        if self.core is None:
            U, Vh = U * S.sqrt(), S.sqrt()[:, None] * Vh
        else:
            self.core.weight.copy_(S.diag())
        self.A.weight.copy_(Vh)
        self.B.weight.copy_(U)

    @torch.no_grad()
    def begin(self, factors: Factors) -> None:
        """Reset to factors of the same kind and shapes, in place."""
        for layer, start in ((self.A, factors.A), (self.B, factors.B)):
            layer.weight.copy_(start)
        if self.core is not None and factors.core is not None:
            self.core.weight.copy_(factors.core)
        if self.orthonormal or self.centred:
            self.A0.copy_(factors.A)
            self.B0.copy_(factors.B)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save: `trainable()`, and `A0` and `B0` if centred."""
        starts = {"A0": self.A0, "B0": self.B0} if self.centred else {}
        return {**self.trainable(), **starts}

    def origin(self) -> dict[str, Tensor]:
        """Return copies of the initial `A` and `B` if orthonormal or centred, else zeros."""
        point = super().origin()
        if self.orthonormal or self.centred:
            point |= {"A": self.A0.clone(), "B": self.B0.clone()}
        return point

    def manifold(self) -> dict[str, str]:
        """Return `stiefel` for `A` and `B` if they are orthonormal, else nothing."""
        return {"A": "stiefel", "B": "stiefel"} if self.orthonormal else {}

    def linears(self) -> dict[str, nn.Linear]:
        """Return the layers `A`, `B` and, if present, `core`."""
        layers = {"A": self.A, "B": self.B}
        return layers if self.core is None else {**layers, "core": self.core}


def singular_values(site: Site) -> Tensor:
    """Return the singular values of the change that can be nonzero, descending, [k] float64.

    k is r, or 2r for a change relative to a start (less on smaller layers), or the number of
    columns. With `B = Q_b R_b` and `Aᵀ = Q_a R_a` they are the singular values of the k × k matrix
    `s·R_b·R_aᵀ`, whether or not the factors are orthonormal; no out × in matrix is formed. A gate
    is left out.
    """
    A, B = (factor.detach() for factor in site.change(torch.float64))
    middle = torch.linalg.qr(B).R @ torch.linalg.qr(A.mT).R.mT
    values: Tensor = abs(site.scale) * torch.linalg.svdvals(middle)
    return values


def drift(site: Site) -> float:
    """Return max ‖ZᵀZ − I‖_F over the site's factors on a manifold; 0 if it has none."""
    distances = [0.0]
    for key in site.manifold():
        Z = site.linears()[key].weight.detach().double()
        Z = Z if Z.shape[0] >= Z.shape[1] else Z.mT
        eye = torch.eye(Z.shape[1], dtype=Z.dtype, device=Z.device)
        distances.append(float(torch.linalg.matrix_norm(Z.mT @ Z - eye)))
    return max(distances)


def spectrum(site: Site) -> SiteSpectrum:
    """Return the statistics of one site, computed in float64."""
    values = singular_values(site)
    return spectrum_of(site.name, values, site.weight.detach().double(), drift(site), site.is_gated)


def spectrum_of(
    name: str, values: Tensor, frozen: Tensor, drift: float = 0.0, is_gated: bool = False
) -> SiteSpectrum:
    """Return the statistics of a change with these singular values to a frozen weight."""
    norm, size = (float(torch.linalg.vector_norm(tensor)) for tensor in (values, frozen))
    relative = norm / size if size else math.nan
    rank = stable_rank(values)
    return SiteSpectrum(name, tuple(values.tolist()), norm, relative, rank, drift, is_gated)


def summary(sites: Sequence[Site]) -> dict[str, float]:
    """Return the statistics of a set of sites for the training log.

    Returns:
        `num_sites`; `num_parameters`; `delta_norm`, the Frobenius norm of all changes together;
        `stable_rank`, its mean over sites with a nonzero change (NaN if all are zero);
        `drift`, the largest over sites.
    """
    spectra = [singular_values(site) for site in sites]
    ranks = [rank for rank in map(stable_rank, spectra) if not math.isnan(rank)]
    squared = sum(float((values**2).sum()) for values in spectra)
    parameters = sum(value.numel() for site in sites for value in site.trainable().values())
    return {
        "num_sites": float(len(sites)),
        "num_parameters": float(parameters),
        "delta_norm": math.sqrt(squared),
        "stable_rank": sum(ranks) / len(ranks) if ranks else math.nan,
        "drift": max(map(drift, sites), default=0.0),
    }


def stable_rank(values: Tensor) -> float:
    """Return ‖ΔW‖²_F / ‖ΔW‖²_2 of singular values, from 1 to the rank; NaN if they are zero.

    It is the effective number of directions of the change (Rudelson & Vershynin 2007,
    arXiv:math/0503442).
    """
    largest = values.max() if len(values) else 0.0
    return float(((values / largest) ** 2).sum()) if largest > 0 else math.nan
