"""PoLAR's directions from the loss gradient: the first step of full fine-tuning.

    G = ∂L/∂W = U Σ Vᵀ ,   X_0 = U_{:r} ,   Y_0 = V_{:r} ,   Θ_0 = 0

Initially only Θ moves, by XᵀGY. Among orthonormal X and Y these capture the most of G; random ones
capture r²/(out·in) of its squared norm. LoRA is initialised like this in Wang, Yu & Li 2024 (arXiv
2407.05000) and Zhang, Liu & Chen 2025 (arXiv 2502.01235); with PoLAR's factors it is ours. It was
an option of PoLAR until rule 7 of the study was decided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from bayeslora.adapters.base import TrainingRows
from bayeslora.adapters.low_rank import Factors, LowRank, check_rank
from bayeslora.adapters.polar import PoLAR
from bayeslora.adapters.site import Site
from bayeslora.errors import InputError

_ROWS = 1000


@dataclass(frozen=True)
class GradientPoLAR(PoLAR):
    """PoLAR, initialised from the gradient of the loss on up to 1,000 training rows."""

    name: ClassVar[str] = "polar_gradient"
    summary: ClassVar[str] = "PoLAR from the directions of the loss's gradient"

    @property
    def starts_from_rows(self) -> bool:
        """Training rows choose the directions."""
        return True

    @property
    def start_alike(self) -> str:
        """A gradient gives every member nearly the same directions."""
        return "choose adapter 'polar', which gives each member other directions"

    def begin(self, rows: TrainingRows) -> None:
        """Initialise every site at the leading singular vectors of its weight's gradient."""
        weight_gradients = gradients(rows.sites, lambda: rows.backward(_ROWS))
        for site, gradient in zip(rows.sites, weight_gradients, strict=True):
            cast(LowRank, site).begin(gradient_factors(gradient, self.r))


def gradient_factors(gradient: Tensor, r: int) -> Factors:
    """Return the leading singular vectors of a gradient around a zero core, float32.

    The largest entry of each column of X is positive, so that the result does not depend on the
    arbitrary signs of a decomposition.

    Args:
        gradient: Gradient of the loss with respect to the weight, [out, in].
        r: Rank, at most min(out, in).

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    out_features, in_features = gradient.shape
    check_rank(out_features, in_features, r)
    U, _, Vh = torch.linalg.svd(gradient.double(), full_matrices=False)
    X, Yt = U[:, :r], Vh[:r]
    largest = X.gather(0, X.abs().argmax(0, keepdim=True))[0]
    signs = torch.where(largest < 0, -1.0, 1.0).to(X)
    return Factors(
        (signs[:, None] * Yt).float(), (X * signs).float(), torch.zeros(r, r), orthonormal=True
    )


def gradients(sites: Sequence[Site], backward: Callable[[], object]) -> list[Tensor]:
    """Return the gradient of a loss with respect to the frozen weight of each site, [out, in].

    While `backward` runs, these weights are trainable: it takes the memory of full fine-tuning of
    these layers, without the optimiser state.

    Args:
        sites: Sites whose weights have no gradient, before and after the call.
        backward: Accumulates the gradient of the loss, in any number of `backward()` calls.

    Raises:
        InputError: No gradient reaches a weight, or it is not finite.
    """
    collected = []
    try:
        for site in sites:
            site.weight.requires_grad_(True)
        backward()
        for site in sites:
            gradient = site.weight.grad
            if gradient is None or not bool(gradient.isfinite().all()):
                raise InputError(
                    f"no finite gradient of the loss reaches the weight of {site.name}"
                )
            collected.append(gradient)
    finally:
        for site in sites:
            site.weight.requires_grad_(False)
            site.weight.grad = None
            for parameter in site.trainable().values():
                parameter.grad = None
    return collected
