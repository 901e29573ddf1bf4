"""PoLAR's directions from the loss gradient: the first step of full fine-tuning.

    G = ∂L/∂W = U Σ Vᵀ ,   X_0 = U_{:r} ,   Y_0 = V_{:r} ,   Θ_0 = 0

Initially only Θ moves, by XᵀGY. Among orthonormal X and Y these capture the most of G; random ones
capture r²/(out·in) of its squared norm. LoRA is initialised like this in Wang, Yu & Li 2024 (arXiv
2407.05000) and Zhang, Liu & Chen 2025 (arXiv 2502.01235); with PoLAR's factors it is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bayeslora.adapters.factors import Factors, check_rank
from bayeslora.adapters.site import Site
from bayeslora.errors import InputError


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
