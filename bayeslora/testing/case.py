"""The posterior under test: its configuration, heads, rows and tolerances."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from bayeslora.posteriors.base import DEFAULT_PRIOR_SCALE
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.registry import build_head
from bayeslora.posteriors.types import LastLayer
from bayeslora.testing.toy import toy


class LastLayerCase:
    """Settings of a last-layer posterior for a suite of laws.

    Attributes:
        config: Options under test; the only attribute without a default.
        num_classes: C of the toy rows; 2 for a binary method.
        num_features: d of the toy rows.
        training_prior_scale: Expected `report()["prior_scale"]`, if reported, after a fit with
            `choose_prior=False`.
        fit_tolerance: Tolerance, in nats of a logit, between two fits with the same optimum.
            Iterative fits stop within 1e-6 of their optimum's value, where it is flat: 5e-3.
        precision_tolerance: Tolerance between fits to float32 and to float64 features. float32
            features have a relative error of 6e-8; fits amplify it by far less than 1e4, hence
            1e-3.
        noise: Tolerance, in nats of a logit and relative, between two independent runs of a sampler
            for the same posterior; set it from the sampler's effective sample size. Laws about
            numbers from a single run stay exact.
    """

    config: Any
    num_classes: int = 3
    num_features: int = 5
    training_prior_scale: float = DEFAULT_PRIOR_SCALE
    fit_tolerance: float = 5e-3
    precision_tolerance: float = 1e-3
    noise: float = 0.0

    def build(self, **options: Any) -> LastLayer:
        """Return a new head; `options` are those of `build_head`."""
        return build_head(self.config, self.num_features, self.num_classes, **options)

    def start(self) -> Tensor:
        """Return random weights, [C, d], like those after training."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.num_classes, self.num_features, generator=generator)

    def make(self, **options: Any) -> LastLayer:
        """Return a float32 head with random means, as after training."""
        head = self.build(**options)
        head.set_mean(self.start())
        return head

    def toy(self, rows: int = 60, seed: int = 0) -> Features:
        """Return labelled rows, [N, d] float64."""
        return Features(*toy(rows, self.num_features, self.num_classes, seed))

    def held_out(self) -> Features:
        """Return validation rows."""
        return self.toy(seed=9)

    def fitted(self, rows: int = 60) -> LastLayer:
        """Return a head fitted to toy rows; override it to cache a slow fit."""
        head = self.make()
        head.fit(self.toy(rows), self.held_out())
        return head

    @classmethod
    @functools.cache
    def _first_fit(cls) -> LastLayer:
        return cls().fitted()

    @pytest.fixture
    def head(self) -> LastLayer:
        """A copy of a fitted head that all laws share."""
        return copy.deepcopy(self._first_fit())

    @pytest.fixture
    def rows(self) -> Features:
        """20 fresh rows without labels."""
        return Features(self.toy(rows=20, seed=4).values)
