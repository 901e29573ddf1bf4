"""One score for near and far shifts, from a row's distance and the doubt about its class.

    unfamiliarity = log d + ¼ log(1 − max_c p_c)

with d the squared Mahalanobis distance of the features to the nearest class. Rows near the border
of two classes have a low probability and an ordinary distance; rows far from all training rows may
be classified confidently but have a larger distance. With logarithms the ranking does not depend on
the scale of the distance, which depends on features and rows. The weight was chosen on development
sets: smaller weights are better for far rows of a decoder, larger ones for near rows and encoders
(`benchmarks/unfamiliarity_weight`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

_WEIGHT = 0.25
# Floors for rows whose predicted class has probability 1, and rows equal to their class mean.
_LEAST_DOUBT, _LEAST_DISTANCE = 1e-12, 1e-12


class Unfamiliarity(nn.Module):
    """The score; it has nothing to fit."""

    def forward(self, doubt: Tensor, distance: Tensor) -> Tensor:
        """Return the score [N].

        Args:
            doubt: [N] float64, 1 − highest probability.
            distance: [N] float64, squared Mahalanobis distance.
        """
        log_distance = distance.clamp_min(_LEAST_DISTANCE).log()
        score: Tensor = log_distance + _WEIGHT * doubt.clamp_min(_LEAST_DOUBT).log().to(distance)
        return score

    def extra_config(self) -> dict[str, Any]:
        """Return nothing: it has no shapes."""
        return {}
