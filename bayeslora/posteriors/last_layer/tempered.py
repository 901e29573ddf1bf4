"""Temperature scaling as a last layer: a point estimate whose logits are divided by one number.

Source: Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599, section 4.2.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from bayeslora.logits import GaussianLogits
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.features import Features, check_fit
from bayeslora.posteriors.point import PointHead
from bayeslora.recalibration.temperature import best_inverse


class TemperedHead(PointHead):
    """Softmax regression with a temperature; a `LastLayer`.

    Attributes:
        temperature: T, the divisor of the logits, float64 scalar; 1 before `fit`.
    """

    uses_training_features = False
    temperature: Tensor

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    @classmethod
    def of(cls, config: Posterior, num_features: int, num_classes: int, **options: Any) -> Self:
        """Return the head of options, which have no prior."""
        del config, options
        return cls(num_features, num_classes)

    @torch.no_grad()
    def fit(
        self, train: Features, validation: Features | None = None, *, choose_prior: bool = True
    ) -> None:
        """Fit the temperature of lowest NLL on the validation rows, if any, else on `train`.

        Rows that the weights were trained on yield a temperature that is too low.
        """
        check_fit(train, validation)
        rows = train if validation is None else validation
        logits = super().predict(rows).mean
        self.temperature.fill_(1 / best_inverse(logits.cpu().numpy(), rows.targets.cpu().numpy()))

    @torch.no_grad()
    def predict(self, rows: Features) -> GaussianLogits:
        """Return the scaled logits, without variance, in float64."""
        return super().predict(rows).scaled(1 / float(self.temperature))

    def report(self) -> dict[str, float | str]:
        """Return the temperature."""
        return {"temperature": float(self.temperature)}
