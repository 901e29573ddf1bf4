"""The curvature of softmax cross-entropy in the weights of linear layers.

    H = Σ_n J_nᵀ (diag p_n − p_n p_nᵀ) J_n = Σ_n Σ_k j_nk j_nkᵀ,   j_nk = J_nᵀ (R_n)_·k
    R_n = diag(√p_n) − p_n √p_nᵀ,   R_n R_nᵀ = diag p_n − p_n p_nᵀ

H is the generalised Gauss-Newton matrix, equal to the Fisher matrix, summed over all rows. Each
structure stores eigenvalues e and rotates Jacobians to the eigenvectors, so that a prior of
precision δ enters exactly: log|H + δI| = Σ log(e + δ), and V = J (H + δI)⁻¹ Jᵀ weighs directions by
1 / (e + δ).

Source of the Kronecker form: Martens and Grosse 2015, arXiv 1503.05671; with many tokens per row,
the `expand` form of Eschenhagen et al. 2023, arXiv 2311.00636.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from bayeslora.posteriors.weights.laplace_lora.gradients import LayerGradients


class KronLayers(nn.Module):
    """B ⊗ A for each layer: A = mean over tokens of aaᵀ, B = sum over tokens and k of ggᵀ."""

    def __init__(self, shapes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(_Factor(size) for _, size in shapes)
        self.outputs = nn.ModuleList(_Factor(size) for size, _ in shapes)
        self._num_tokens = [0] * len(shapes)

    def add(self, layers: Sequence[LayerGradients]) -> None:
        """Add rows, whose gradients are j_nk for all k."""
        for index, (layer, (a, b)) in enumerate(zip(layers, self._factors(), strict=True)):
            inputs, gradients = layer.inputs.double(), layer.gradients.double()
            a.basis += torch.einsum("bti,btj->ij", inputs, inputs)
            b.basis += torch.einsum("kbto,kbtp->op", gradients, gradients)
            self._num_tokens[index] += layer.num_tokens

    def finish(self) -> None:
        """Decompose the sums, once all rows are added."""
        for (a, b), count in zip(self._factors(), self._num_tokens, strict=True):
            a.decompose(max(count, 1))
            b.decompose(1)

    def sums(self) -> list[Tensor]:
        """Return the diagonals of both factors of each layer, before `finish`."""
        return [torch.cat([a.basis.diagonal(), b.basis.diagonal()]) for a, b in self._factors()]

    def eigenvalues(self) -> list[Tensor]:
        """Return the products of both factors' eigenvalues, [out · in] for each layer."""
        return [torch.outer(b.values, a.values).flatten() for a, b in self._factors()]

    def turned(self, layers: Sequence[LayerGradients]) -> Iterator[Tensor]:
        """Yield Q_Bᵀ G Q_A for each layer, as [B, C, out · in]."""
        for layer, (a, b) in zip(layers, self._factors(), strict=True):
            yield (b.basis.T @ (layer.matrices() @ a.basis)).flatten(-2)

    def _factors(self) -> list[tuple[_Factor, _Factor]]:
        """Return the factors A and B of each layer."""
        pairs = zip(self.inputs, self.outputs, strict=True)
        return [cast("tuple[_Factor, _Factor]", pair) for pair in pairs]


class DiagLayers(nn.Module):
    """The diagonal of H: h_i = Σ_n Σ_k (j_nk)_i²."""

    def __init__(self, shapes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        for index, shape in enumerate(shapes):
            self.register_buffer(f"h{index}", torch.zeros(shape, dtype=torch.float64))
        self._names = [f"h{index}" for index in range(len(shapes))]

    def add(self, layers: Sequence[LayerGradients]) -> None:
        """Add rows, whose gradients are j_nk for all k."""
        for name, layer in zip(self._names, layers, strict=True):
            self.get_buffer(name).add_(layer.matrices().square().sum((0, 1)))

    def finish(self) -> None:
        """Do nothing: the sums are the eigenvalues."""

    def sums(self) -> list[Tensor]:
        """Return h of each layer."""
        return [self.get_buffer(name) for name in self._names]

    def eigenvalues(self) -> list[Tensor]:
        """Return h, [out · in] for each layer."""
        return [diagonal.flatten() for diagonal in self.sums()]

    def turned(self, layers: Sequence[LayerGradients]) -> Iterator[Tensor]:
        """Yield the unchanged Jacobians, [B, C, out · in]."""
        return (layer.matrices().flatten(-2) for layer in layers)


class JointLayers(nn.Module):
    """H over the weights of all layers together, [P, P]."""

    def __init__(self, shapes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.hessian = _Factor(sum(out * size for out, size in shapes))
        self._sizes = [out * size for out, size in shapes]

    def add(self, layers: Sequence[LayerGradients]) -> None:
        """Add rows, whose gradients are j_nk for all k."""
        j = _joined(layers).flatten(0, 1)
        self.hessian.basis += j.T @ j

    def finish(self) -> None:
        """Decompose the sum, once all rows are added."""
        self.hessian.decompose(1)

    def sums(self) -> list[Tensor]:
        """Return the diagonal of each layer, before `finish`."""
        return list(torch.split(self.hessian.basis.diagonal(), self._sizes))

    def eigenvalues(self) -> list[Tensor]:
        """Return the eigenvalues, [P]."""
        return [self.hessian.values]

    def turned(self, layers: Sequence[LayerGradients]) -> Iterator[Tensor]:
        """Yield J Q, [B, C, P]."""
        yield _joined(layers) @ self.hessian.basis


class _Factor(nn.Module):
    """A symmetric matrix [n, n] while it is summed, then its eigenvectors and eigenvalues."""

    basis: Tensor
    values: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("basis", torch.zeros(size, size, dtype=torch.float64))
        self.register_buffer("values", torch.zeros(size, dtype=torch.float64))

    def decompose(self, count: int) -> None:
        values, basis = torch.linalg.eigh(self.basis / count)
        self.basis, self.values = basis.contiguous(), values.clamp_min(0)


def _joined(layers: Sequence[LayerGradients]) -> Tensor:
    """Return the Jacobians of all layers side by side, [B, K, P]."""
    return torch.cat([layer.matrices().flatten(-2) for layer in layers], -1)


AnyLayers = KronLayers | DiagLayers | JointLayers
"""Structures of H over layers of shapes [(out, in), …], with float64 buffers.

`add` adds rows with gradients j_nk for all k, and `finish` decomposes the sums.
"""

LAYER_STRUCTURES: dict[str, type[AnyLayers]] = {
    "diag": DiagLayers,
    "full": JointLayers,
    "kron": KronLayers,
}


def fisher_root(probs: Tensor) -> Tensor:
    """Return R [N, C, C] with R Rᵀ = diag p − p pᵀ for [N, C] probabilities."""
    root = probs.sqrt()
    return torch.diag_embed(root) - probs[:, :, None] * root[:, None, :]


def log_determinant(curvature: AnyLayers, precision: float) -> float:
    """Return log|H + δI| over all weights."""
    return float(
        sum((eigenvalues + precision).log().sum() for eigenvalues in curvature.eigenvalues())
    )


def covariances(
    curvature: AnyLayers, layers: Sequence[LayerGradients], precisions: Sequence[float]
) -> Tensor:
    """Return V = J (H + δI)⁻¹ Jᵀ of each row under each δ, [D, B, C, C].

    Args:
        curvature: Curvature after `finish`.
        layers: Gradients of the C logits, K = C.
        precisions: D values of δ.
    """
    result = torch.zeros(())
    for values, jacobian in zip(curvature.eigenvalues(), curvature.turned(layers), strict=True):
        roots = [jacobian * (values + precision).rsqrt() for precision in precisions]
        # M Mᵀ is symmetric and positive semi-definite.
        result = result.to(jacobian) + torch.stack([root @ root.mT for root in roots])
    return result
