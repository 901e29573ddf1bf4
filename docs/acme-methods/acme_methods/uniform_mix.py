"""A mixture of the stated probabilities with the uniform distribution."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from bayeslora.option_checks import Share
from bayeslora.recalibration.recalibrate import Recalibrator


@dataclass(eq=False)
class UniformMix(Recalibrator):
    """A mixture with the uniform distribution, whose share has the lowest NLL of `fit`'s rows."""

    largest: Share = 0.5
    """Largest share of it."""

    name: ClassVar[str] = "uniform_mix"
    summary: ClassVar[str] = "a mixture with the uniform distribution"
    source: ClassVar[str] = "Acme 2026"
    title: ClassVar[str] = "uniform mixture"
    by_class: ClassVar[bool] = False

    share: float | None = field(default=None, init=False)

    def learn(self, probs: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
        """Find the share, between 0 and `largest`."""
        stated = np.take_along_axis(probs, labels[:, None], 1)[:, 0]

        def nll(share: float) -> float:
            return float(-np.log((1 - share) * stated + share / probs.shape[1]).mean())

        result = minimize_scalar(nll, bounds=(1e-6, self.largest), method="bounded")
        self.share = float(result.x)

    def mapped(self, probs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mixture."""
        share = self.share or 0.0
        return (1 - share) * probs + share / probs.shape[1]

    def num_parameters(self, num_classes: int) -> int:
        """Return 1."""
        return 1

    def report(self) -> dict[str, float | str]:
        """Return the share."""
        return {"share": self.share or 0.0}
