"""What every last layer asks of the features that it is given."""

from __future__ import annotations

from torch import Tensor

from bayeslora.errors import InputError

GREATEST = 1e12
"""The largest number in a feature. Its fourth power is far from overflow."""


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
    wrong = ~(rows.abs() <= GREATEST).all(-1)
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
