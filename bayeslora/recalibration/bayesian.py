"""Bayesian calibrators: draws of the map instead of one, so that a probability has an interval.

    temperature   p' = softmax(β log p)
    logistic      logit p'_c = w_c logit p_c + b_c, each class against the rest, renormalised

Priors and models are netcal's, with standard deviation 10 around the identity; Pyro's NUTS draws
the parameters (Küppers, Kronenberger, Schneider and Haselhoff 2021, IEEE Intelligent Vehicles
Symposium). netcal's variational fits are not offered, since 1,000 of their steps do not reach the
posterior, nor its logistic model of several classes, whose intercepts share a direction that only
the prior decides (`tests/recalibration/test_bayesian_recalibrators.py`).
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bayeslora.held_out import settled_order
from bayeslora.option_checks import Count, Seed
from bayeslora.predictions.record import Predictions
from bayeslora.processes import row_slices
from bayeslora.recalibration.linear import SMALLEST
from bayeslora.recalibration.recalibrate import FLOOR, Array, Recalibrator, log_probs, renormalised

LEVELS = (0.025, 0.975)
"""Quantiles of the draws at the ends of an interval."""


@dataclass(eq=False)
class BayesianCalibrator(Recalibrator):
    """A recalibrator with draws of its parameters; probabilities are means over the draws."""

    num_samples: Count = 250
    """Number of draws of the map."""
    seed: Seed = 0
    """Seed of the draws."""

    source: ClassVar[str] = "Küppers et al. 2021, IEEE Intelligent Vehicles Symposium; netcal"

    @abstractmethod
    def drawn(self, probs: Array) -> Array:
        """Return the probabilities of each draw, [S, N, C]."""

    def mapped(self, probs: Array) -> Array:
        """Return the means over the draws."""
        return np.concatenate([draws.mean(0) for draws in self._blocks(probs)])

    def apply(self, predictions: Predictions, name: str | None = None) -> Predictions:
        """Return the predictions as of `Recalibrator.apply`, with what the draws differ by.

        `intervals` are the central 95 % of the draws. `epistemic` is the mutual information of
        label and map, which more fit rows would remove, and `aleatoric` the rest of `total`.
        """
        new = super().apply(predictions, name)
        blocks = [_differences(draws) for draws in self._blocks(predictions.probs)]
        intervals, conditional = map(np.concatenate, zip(*blocks, strict=True))
        total = new.uncertainty("entropy")
        epistemic = np.clip(total - conditional, 0, total)
        metadata = {key: text for key, text in new.metadata.items() if key != "link"}
        return new.replace(
            intervals=intervals,
            total=total,
            aleatoric=total - epistemic,
            epistemic=epistemic,
            metadata={**metadata, "num_samples": str(self.num_samples)},
        )

    def _blocks(self, probs: Array) -> Iterator[Array]:
        """Yield the draws of the rows, block by block."""
        for block in row_slices(len(probs), probs.shape[1] * self.num_samples):
            yield self.drawn(probs[block])

    def _posterior(self, model: str, probs: Array, labels: NDArray[np.int64]) -> dict[str, Array]:
        """Return draws by the name of a parameter of `netcal.scaling.<model>`, [S, …] each."""
        from netcal import scaling
        from pyro import get_param_store

        # It writes to both streams, and clears Pyro's global store.
        with (
            warnings.catch_warnings(action="ignore"),
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
            get_param_store().scope(),
        ):
            calibrator = getattr(scaling, model)(
                method="mcmc", mcmc_steps=self.num_samples, independent_probabilities=probs.ndim > 1
            )
            calibrator.fit(probs, labels, random_state=self.seed, tensorboard=False)
        return {name: draws.numpy() for name, draws in calibrator.mcmc_model.items()}


def _differences(draws: Array) -> tuple[Array, Array]:
    """Return intervals [N, C, 2] and mean entropies [N] of draws [S, N, C]."""
    from scipy.special import entr

    return np.moveaxis(np.quantile(draws, LEVELS, axis=0), 0, -1), entr(draws).sum(-1).mean(0)


@dataclass(eq=False)
class BayesianTemperature(BayesianCalibrator):
    """A Bayesian recalibrator with one parameter; it never changes which class is most probable.

    Attributes:
        inverses: [S] β = 1/T of each draw; None before `fit`.
    """

    name: ClassVar[str] = "bayesian-temperature"
    summary: ClassVar[str] = "draws of the temperature: an interval for each probability"

    title = "Bayesian temperature scaling"
    by_class = False

    inverses: Array | None = field(default=None, init=False)

    def learn(self, probs: Array, labels: NDArray[np.int64]) -> None:
        """Fit to [N, C] probabilities and their [N] labels."""
        order = settled_order(probs, labels)
        draws = self._posterior("TemperatureScaling", probs[order], labels[order])
        self.inverses = np.maximum(draws["weights"][:, 0], SMALLEST)

    def drawn(self, probs: Array) -> Array:
        """Return the probabilities of each draw, [S, N, C]."""
        from scipy.special import softmax

        logits = np.multiply.outer(np.asarray(self.inverses), log_probs(probs))
        return np.asarray(softmax(logits, axis=-1))

    def num_parameters(self, num_classes: int) -> int:
        """Return 1."""
        return 1

    def report(self) -> dict[str, float | str]:
        """Return the temperature and its interval."""
        inverses = np.asarray(self.inverses)
        high, low = (1 / np.quantile(inverses, LEVELS)).tolist()
        return {
            "temperature": float(1 / inverses.mean()),
            "temperature_low": low,
            "temperature_high": high,
        }


@dataclass(eq=False)
class BayesianLogistic(BayesianCalibrator):
    """A Bayesian recalibrator with two parameters per class; it does not keep the ranking.

    Attributes:
        weights: [S, C] factor w of each draw; None before `fit`.
        intercepts: [S, C] intercept b of each draw.
    """

    name: ClassVar[str] = "bayesian-logistic"
    summary: ClassVar[str] = "draws of a logistic curve for each class: intervals"

    title = "Bayesian logistic calibration"

    weights: Array | None = field(default=None, init=False)
    intercepts: Array | None = field(default=None, init=False)

    def learn(self, probs: Array, labels: NDArray[np.int64]) -> None:
        """Fit to [N, C] probabilities and their [N] labels."""
        order = settled_order(probs, labels)
        each = [
            self._posterior(
                "LogisticCalibration", probs[order, c], (labels[order] == c).astype(int)
            )
            for c in range(probs.shape[1])
        ]
        self.weights = np.column_stack([draws["weights"] for draws in each])
        self.intercepts = np.column_stack([draws["bias"] for draws in each])

    def drawn(self, probs: Array) -> Array:
        """Return the probabilities of each draw, [S, N, C]."""
        from scipy.special import expit, logit

        weights, intercepts = np.asarray(self.weights), np.asarray(self.intercepts)
        logits = logit(np.clip(probs, FLOOR, 1 - FLOOR))
        curves = expit(weights[:, None] * logits + intercepts[:, None])
        return renormalised(curves, probs)

    def num_parameters(self, num_classes: int) -> int:
        """Return 2·C."""
        return 2 * num_classes

    def report(self) -> dict[str, float | str]:
        """Return the mean weight and the largest mean intercept (nats)."""
        means = np.asarray(self.intercepts).mean(0)
        return {
            "mean_weight": float(np.mean(np.asarray(self.weights))),
            "largest_intercept": float(np.abs(means).max()),
        }
