"""What a last layer is given: features, and logits that are known beforehand.

    classes    φ [N, d] and weights [C, d]:          z_nc = θ_cᵀφ_n + o_nc
    options    φ [N, C, d] and one weight [1, d]:    z_nc = wᵀφ_nc + o_nc

The known logits o are columns behind the features: C for classes, absent where all are zero, and
one for options. They say which classes or options a row lacks: `logits.ABSENT` there, zero
elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bayeslora.errors import InputError

GREATEST = 1e12
"""The largest number in a feature. Its fourth power is far from overflow."""


def split_known(features: Tensor, num_features: int) -> tuple[Tensor, Tensor | None]:
    """Return the features alone, [..., d], and the known logits [N, C]; None where there are none.

    Args:
        features: [N, d], [N, d + C], or of options [N, C, d + 1].
        num_features: d.
    """
    if features.shape[-1] == num_features:
        return features, None
    states, known = features[..., :num_features], features[..., num_features:]
    return states, known[..., 0] if features.ndim == 3 else known


def mean_logits(features: Tensor, weight: Tensor) -> Tensor:
    """Return the logits [N, C] that weights give.

    Args:
        features: [N, d], [N, d + C], or of options [N, C, d + 1].
        weight: [C, d], or of options [1, d].
    """
    states, known = split_known(features, weight.shape[-1])
    logits = states @ weight[0] if states.ndim == 3 else states @ weight.T
    return logits if known is None else logits + known


def centred_logits(features: Tensor, weight: Tensor) -> Tensor:
    """Return the logits [N, C] without the known ones, less their mean over classes or options.

    Features of options have a mean of zero already.

    Args:
        features: [N, d], [N, d + C], or of options [N, C, d + 1].
        weight: [C, d], or of options [1, d].
    """
    states, _ = split_known(features, weight.shape[-1])
    if states.ndim == 3:
        return states @ weight[0]
    return states @ (weight - weight.mean(0)).T


def weight_gradient(features: Tensor, residual: Tensor) -> Tensor:
    """Return Σ_nc r_nc ∂z_nc/∂W, shaped like the weights: [C, d], or of options [1, d].

    Args:
        features: [N, d], or of options [N, C, d], without known logits.
        residual: [N, C].
    """
    if features.ndim == 3:
        return torch.einsum("nc,ncd->d", residual, features)[None]
    return residual.T @ features


def feature_gradient(features: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    """Return Σ_c r_c ∂z_c/∂φ of each row, shaped like the features; zero at known logits.

    Args:
        features: [N, d], [N, d + C], or of options [N, C, d + 1].
        weight: [C, d], or of options [1, d].
        residual: [..., N, C].
    """
    found = residual[..., None] * weight[0] if features.ndim == 3 else residual @ weight
    missing = features.shape[-1] - weight.shape[-1]
    return torch.nn.functional.pad(found, (0, missing)) if missing else found


def check_features(features: Tensor, what: str = "features") -> None:
    """Raise InputError for rows that no algebra of a last layer could take.

    Args:
        features: [N, d], whatever their precision.
        what: What the rows are, for the message.

    Raises:
        InputError: A row holds NaN, an infinity, or a number beyond ±`GREATEST`.
    """
    rows = features.detach()
    # NaN is no smaller than anything, so that one comparison finds all three.
    wrong = ~(rows.abs() <= GREATEST).flatten(1).all(-1)
    count = int(wrong.sum())
    if count:
        first = int(wrong.nonzero()[0, 0])
        value = rows[first][~(rows[first].abs() <= GREATEST)][0].item()
        raise InputError(
            f"{count} of {len(rows)} rows of {what} hold a number that cannot be computed with, "
            f"such as {value:g} in row {first + 1}; allowed are finite numbers from "
            f"{-GREATEST:g} to {GREATEST:g}: correct these rows, or scale all of them"
        )


def check_fit(features: Tensor, validation: tuple[Tensor, Tensor] | None) -> None:
    """Do what `check_features` does for the rows of a fit [N, d] and those held out, if any."""
    check_features(features)
    if validation is not None:
        check_features(validation[0], "validation features")
