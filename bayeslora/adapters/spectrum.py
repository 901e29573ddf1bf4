"""Summary statistics of trained adapters: singular values, stable rank, drift, size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bayeslora.adapters.site import Site


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
    distances = [_distance(site.linears()[key].weight) for key in site.manifold()]
    return max(distances, default=0.0)


@dataclass(frozen=True)
class SiteSpectrum:
    """Statistics of the change that one adapter makes to the weight of its layer.

    Attributes:
        name: Dotted name of the layer.
        singular_values: Singular values of the change ΔW, descending, without the zeros beyond its
            rank.
        norm: ‖ΔW‖_F.
        relative_norm: ‖ΔW‖_F / ‖W‖_F, W the frozen weight; NaN if that is zero.
        stable_rank: ‖ΔW‖²_F / ‖ΔW‖²_2; NaN if the change is zero.
        drift: See `drift`.
        is_gated: Whether the change depends on the token, as in C-LoRA; the statistics are then
            those of the factors without the gate.
    """

    name: str
    singular_values: tuple[float, ...]
    norm: float
    relative_norm: float
    stable_rank: float
    drift: float
    is_gated: bool = False


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


def _distance(weight: Tensor) -> float:
    """Return ‖ZᵀZ − I‖_F, Z the taller of `weight` and its transpose."""
    Z = weight.detach().double()
    Z = Z if Z.shape[0] >= Z.shape[1] else Z.mT
    eye = torch.eye(Z.shape[1], dtype=Z.dtype, device=Z.device)
    return float(torch.linalg.matrix_norm(Z.mT @ Z - eye))
