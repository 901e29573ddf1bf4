"""The posterior that laws are tried on: its configuration, its heads, its rows, its tolerances."""

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
    """What a suite of laws needs to know of a last-layer posterior.

    Attributes:
        config: The options under test; the only attribute without a default.
        num_classes: C of the toy rows; 2 for a method of two classes.
        num_features: d of the toy rows.
        training_prior_scale: What `report()["prior_scale"]` is, where it is reported, after a fit
            that was told not to choose the prior.
        fit_tolerance: How far, in nats of a logit, two fits may lie apart that have one optimum.
            Iterative fits stop within 1e-6 of their optimum's value, where it is flat: 5e-3.
        precision_tolerance: How far fits to float32 and to float64 features may lie apart.
            float32 features carry a relative error of 6e-8; fits amplify it by far less than 1e4,
            hence 1e-3.
        noise: How far, in nats of a logit and relative, two independent runs of a sampler for one
            posterior may lie apart; set it from the sampler's effective number of draws. Laws of
            numbers that come from one run stay exact.
    """

    config: Any
    num_classes: int = 3
    num_features: int = 5
    training_prior_scale: float = DEFAULT_PRIOR_SCALE
    fit_tolerance: float = 5e-3
    precision_tolerance: float = 1e-3
    noise: float = 0.0

    def build(self, **options: Any) -> LastLayer:
        """Return a fresh head; `options` are those of `build_head`."""
        return build_head(self.config, self.num_features, self.num_classes, **options)

    def start(self) -> Tensor:
        """Return [C, d] random weights, like those that training leaves."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.num_classes, self.num_features, generator=generator)

    def make(self, **options: Any) -> LastLayer:
        """Return a float32 head with random means, the state that training leaves."""
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
        """Return a head fitted to so many rows; override it to cache a slow fit."""
        head = self.make()
        head.fit(self.toy(rows), self.held_out())
        return head

    @classmethod
    @functools.cache
    def _first_fit(cls) -> LastLayer:
        return cls().fitted()

    @pytest.fixture
    def head(self) -> LastLayer:
        """A fitted head, a copy of one that all laws share."""
        return copy.deepcopy(self._first_fit())

    @pytest.fixture
    def rows(self) -> Features:
        """20 fresh rows without labels."""
        return Features(self.toy(rows=20, seed=4).values)
