"""Input of a last layer: features, labels, and logits that are known in advance.

    classes    φ [N, d] and weights [C, d]:          z_nc = θ_cᵀφ_n + o_nc
    options    φ [N, C, d] and one weight [1, d]:    z_nc = wᵀφ_nc + o_nc

The known logits o mark classes or options that a row lacks: `logits.ABSENT` there, zero elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayeslora.errors import InputError

GREATEST = 1e12
"""The largest number in a feature. Its fourth power is far from overflow."""


@dataclass(frozen=True, eq=False)
class Features:
    """Rows as a last layer sees them.

    Attributes:
        values: [N, d] floats, or of options [N, C, d].
        labels: [N] int64 class indices; None if unknown.
        known: [N, C] logits known in advance; None for zero.
        middle: [N, d] mean states of the tokens in the middle of the backbone, which only feature
            scores use; None if there are none.
    """

    values: Tensor
    labels: Tensor | None = None
    known: Tensor | None = None
    middle: Tensor | None = None

    def __len__(self) -> int:
        """Return N."""
        return len(self.values)

    @property
    def targets(self) -> Tensor:
        """The labels [N].

        Raises:
            ValueError: The rows have no labels.
        """
        if self.labels is None:
            raise ValueError("these rows have no labels")
        return self.labels

    def logits(self, weight: Tensor) -> Tensor:
        """Return the logits [N, C] under weights [C, d], or [1, d] for options."""
        logits = mean_logits(self.values, weight)
        return logits if self.known is None else logits + self.known

    def take(self, rows: Tensor | slice) -> Features:
        """Return a subset of the rows, by index [n] int64 or mask [N] bool."""
        labels, known, middle = (
            None if part is None else part[rows] for part in (self.labels, self.known, self.middle)
        )
        return Features(self.values[rows], labels, known, middle)

    def split(self, size: int) -> Iterator[Features]:
        """Yield the rows in chunks of `size`."""
        for start in range(0, max(1, len(self)), size):
            yield self.take(slice(start, start + size))

    def to(self, target: torch.device | torch.dtype) -> Features:
        """Return the rows on another device, or with floats of another dtype."""
        moved = self.map(lambda floats: floats.to(target))
        if self.labels is None or isinstance(target, torch.dtype):
            return moved
        return replace(moved, labels=self.labels.to(target))

    def double(self) -> Features:
        """Return the rows in float64."""
        return self.to(torch.float64)

    def detach(self) -> Features:
        """Return the rows without their graph."""
        return self.map(torch.Tensor.detach)

    def map(self, change: Callable[[Tensor], Tensor]) -> Features:
        """Return the rows with a function applied to values, known logits and middle states."""
        known, middle = (
            None if part is None else change(part) for part in (self.known, self.middle)
        )
        return Features(change(self.values), self.labels, known, middle)


def mean_logits(values: Tensor, weight: Tensor) -> Tensor:
    """Return the logits [N, C] under weights, without the known logits.

    Args:
        values: [N, d], or of options [N, C, d].
        weight: [C, d], or of options [1, d].
    """
    return values @ weight[0] if values.ndim == 3 else values @ weight.T


def centred_logits(values: Tensor, weight: Tensor) -> Tensor:
    """Return the logits [N, C] minus their mean over classes or options, without the known logits.

    Features of options already have zero mean.

    Args:
        values: [N, d], or of options [N, C, d].
        weight: [C, d], or of options [1, d].
    """
    if values.ndim == 3:
        return values @ weight[0]
    return values @ (weight - weight.mean(0)).T


def weight_gradient(values: Tensor, residual: Tensor) -> Tensor:
    """Return Σ_nc r_nc ∂z_nc/∂W, shaped like the weights: [C, d], or of options [1, d].

    Args:
        values: [N, d], or of options [N, C, d].
        residual: [N, C].
    """
    if values.ndim == 3:
        return torch.einsum("nc,ncd->d", residual, values)[None]
    return residual.T @ values


def feature_gradient(values: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    """Return Σ_c r_c ∂z_c/∂φ of each row, shaped like the features.

    Args:
        values: [N, d], or of options [N, C, d].
        weight: [C, d], or of options [1, d].
        residual: [..., N, C].
    """
    return residual[..., None] * weight[0] if values.ndim == 3 else residual @ weight


def check_features(rows: Features, name: str = "features") -> None:
    """Raise InputError if a last layer cannot compute with the features.

    Args:
        rows: Rows of any precision.
        name: Name of the features, for the message.

    Raises:
        InputError: A row holds NaN, an infinity, or a number beyond ±`GREATEST`.
    """
    values = rows.values.detach()
    # Comparisons with NaN are false, so this one catches all three.
    invalid = ~(values.abs() <= GREATEST).flatten(1).all(-1)
    count = int(invalid.sum())
    if count:
        first = int(invalid.nonzero()[0, 0])
        value = values[first][~(values[first].abs() <= GREATEST)][0].item()
        raise InputError(
            f"{count} of {len(rows)} rows of {name} contain invalid values, such as {value:g} in "
            f"row {first + 1}; values must be finite and from {-GREATEST:g} to {GREATEST:g}: "
            "correct these rows, or scale all of them"
        )


def check_fit(train: Features, validation: Features | None) -> None:
    """Apply `check_features` to the training rows of a fit and its validation rows, if any."""
    check_features(train)
    if validation is not None:
        check_features(validation, "validation features")
