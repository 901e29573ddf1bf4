"""Laws of last-layer posteriors, as a test suite to inherit.

    from bayeslora.testing.last_layer import LastLayerLaws

    class TestTheirs(LastLayerLaws):
        config = Theirs(prior_scale=1.0)

pytest then runs one test per law, on heads that `build_head` of `bayeslora.posteriors.registry`
builds from the configuration, fitted to a few rows of `toy`. No backbone is loaded and nothing is
registered: the suite runs in seconds, also before a package is installed. See `LastLayerCase` for
further attributes. If a law does not apply to a method, override it with one that does, and explain
why in its docstring.
"""

from __future__ import annotations

import copy
import functools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from bayeslora import options
from bayeslora.errors import InputError
from bayeslora.links import link_probabilities
from bayeslora.logits import Logits, SampledLogits
from bayeslora.posteriors.base import DEFAULT_PRIOR_SCALE, Posterior
from bayeslora.posteriors.registry import build_head
from bayeslora.posteriors.types import Features, LastLayer


def toy(
    rows: int = 60, size: int = 4, classes: int = 3, seed: int = 0, separation: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return features of Gaussian clusters, and labels that contain every class.

    Args:
        rows: Number of rows N.
        size: Number of features d.
        classes: Number of classes C.
        seed: Seed of centres and rows.
        separation: Standard deviation of the centres, relative to that within a cluster.

    Returns:
        Features [N, d] float64 with mean ‖φ‖² = 1, and labels [N] int64.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes
    centres = separation * torch.randn(classes, size, generator=generator, dtype=torch.float64)
    features = centres[labels] + torch.randn(rows, size, generator=generator, dtype=torch.float64)
    return features / features.square().sum(1).mean().sqrt(), labels


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


def _without_samples(logits: Logits) -> Logits:
    """Return the input of the link in a prediction with `num_samples=0`."""
    return logits.at_mean() if isinstance(logits, SampledLogits) else logits


class PredictionLaws(LastLayerCase):
    """Logits are a proper and reproducible distribution for each row, independent of other rows."""

    def test_logits_are_a_proper_distribution(self, head: LastLayer, rows: Features) -> None:
        """They are float64, also for float32 features, have no gradient, and no negative variance.

        Clamp variances that should be zero. Probabilities sum to one up to rounding.
        """
        logits = head.predict(rows.to(torch.float32))
        assert logits.mean.dtype == logits.covariance.dtype == F64
        assert logits.mean.shape == (20, self.num_classes)
        assert not logits.mean.requires_grad
        assert (logits.variance >= 0).all()
        probs = link_probabilities(logits).probs
        assert_close(probs.sum(1), torch.ones(20, dtype=F64), atol=1e-12, rtol=0)

    def test_variance_reaches_the_probabilities(self, head: LastLayer, rows: Features) -> None:
        """Logits with variance need an option `num_samples`, and a head with an attribute `config`.

        Without the option a classifier predicts the mean; without `config` epochs and feature
        scores would be evaluated with another link than predictions.
        """
        logits = head.predict(rows)
        if isinstance(logits, SampledLogits) or logits.is_point:
            return
        assert getattr(self.config, "num_samples", 0) > 0
        config = getattr(head, "config", None)
        for name in ("link", "num_samples"):
            assert getattr(config, name, None) == getattr(self.config, name, None)

    def test_no_samples_is_the_mean(self, head: LastLayer, rows: Features) -> None:
        """`num_samples=0` gives the softmax of the mean logits, bit-equal."""
        logits = head.predict(rows)
        probs = link_probabilities(_without_samples(logits), num_samples=0).probs
        assert_close(probs, logits.mean.softmax(1), atol=0, rtol=0)

    def test_same_seed_same_probabilities(self, head: LastLayer, rows: Features) -> None:
        """A prediction does not use the global generator."""
        first, second = (link_probabilities(head.predict(rows), seed=3).probs for _ in range(2))
        assert torch.equal(first, second)

    def test_rows_do_not_depend_on_their_company(self, head: LastLayer, rows: Features) -> None:
        """Batches and the order of rows change only the last bits of products."""
        order = torch.tensor([7, 2, 19])
        whole, part = head.predict(rows), head.predict(rows.take(order))
        assert_close(part.mean, whole.mean[order], atol=1e-12, rtol=0)
        assert_close(part.covariance, whole.covariance[order], atol=1e-11, rtol=0)

    def test_far_away_features_are_more_uncertain_where_anything_is(
        self, head: LastLayer, rows: Features
    ) -> None:
        """Logits are linear in the features: tenfold features give a hundredfold variance."""
        far = head.predict(Features(10 * rows.values)).variance
        assert_close(far, 100 * head.predict(rows).variance, rtol=1e-9, atol=1e-12)


F64 = torch.float64


class FitLaws(LastLayerCase):
    """A fit depends only on the rows and the trained mean, and does not disturb training."""

    def test_permuted_labels_permute_the_logits(self, head: LastLayer, rows: Features) -> None:
        """No class is special."""
        order = torch.arange(self.num_classes).roll(1)
        train, validation = (
            replace(part, labels=order[part.targets]) for part in (self.toy(), self.held_out())
        )
        moved = self.build()
        moved.set_mean(self.start()[order.argsort()])
        moved.fit(train, validation)
        expected, actual = head.predict(rows), moved.predict(rows)
        atol, rtol = self.fit_tolerance + self.noise, self.noise
        assert_close(actual.mean[:, order], expected.mean, atol=atol, rtol=rtol)
        assert_close(actual.variance[:, order], expected.variance, atol=atol, rtol=rtol)

    def test_fitting_twice_changes_nothing(self, head: LastLayer, rows: Features) -> None:
        """A fit starts from the trained parameters, not from the previous fit.

        With a wide prior and large logits the optimum is flat relative to its size.
        """
        before = head.predict(rows)
        head.fit(self.toy(), self.held_out())
        after = head.predict(rows)
        atol = rtol = self.fit_tolerance
        assert_close(after.mean, before.mean, atol=atol, rtol=rtol)
        assert_close(after.covariance, before.covariance, atol=atol, rtol=rtol)

    def test_fit_leaves_trained_parameters_alone(self) -> None:
        """Training continues after a fit that only scores an epoch."""
        head = self.make()
        before = [parameter.detach().clone() for parameter in head.parameters()]
        head.fit(self.toy())
        for old, new in zip(before, head.parameters(), strict=True):
            assert torch.equal(old, new)

    def test_a_prior_that_is_not_chosen_is_that_of_the_training(self) -> None:
        """`choose_prior=False` makes epochs comparable."""
        head = self.make()
        head.fit(self.toy(), choose_prior=False)
        expected = self.training_prior_scale
        assert head.report().get("prior_scale", expected) == pytest.approx(expected)

    def test_single_and_double_precision_features_agree(self, rows: Features) -> None:
        """Fits compute in float64, whatever the dtype of the features."""
        outcomes = []
        for dtype in (torch.float32, F64):
            head = self.make()
            head.fit(self.toy().to(dtype))
            outcomes.append(head.predict(rows.to(dtype)))
        single, double = outcomes
        tolerance = self.precision_tolerance + self.noise
        assert_close(single.mean, double.mean, atol=tolerance, rtol=self.noise)
        assert_close(single.covariance, double.covariance, atol=tolerance, rtol=tolerance)

    def test_loss_is_a_scalar_that_trains_every_parameter(self) -> None:
        """All gradients are finite."""
        head = self.make()
        loss = head.loss(self.toy().to(torch.float32), 60)
        assert loss.shape == ()
        torch.autograd.backward(loss)
        for parameter in head.parameters():
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()

    def test_data_loss_reaches_the_features_alone(self) -> None:
        """The adapter's step leaves no gradients in the head."""
        head = self.make()
        rows = self.toy().to(torch.float32)
        rows.values.requires_grad_()
        torch.autograd.backward(head.data_loss(rows))
        assert rows.values.grad is not None
        assert rows.values.grad.abs().sum() > 0
        assert all(parameter.grad is None for parameter in head.parameters())

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_features_that_are_not_finite_are_refused(self, head: LastLayer, value: float) -> None:
        """Both the fit and the prediction raise an error that counts the rows.

        `bayeslora.posteriors.types.check_features` implements the check.
        """
        rows = self.toy()
        rows.values[5, 1] = value
        with pytest.raises(InputError, match="1 of 60 rows"):
            self.make().fit(rows)
        with pytest.raises(InputError, match="1 of 60 rows"):
            head.predict(rows)


class RecordLaws(LastLayerCase):
    """Options are JSON, state is tensors, and together they define the posterior."""

    def test_the_options_can_be_listed_named_and_stored(self) -> None:
        """The class has its class variables, and options round-trip through JSON."""
        config = type(self.config)
        assert issubclass(config, Posterior)
        stored = json.loads(json.dumps(options.as_mapping(self.config), allow_nan=False))
        assert options.resolve("posterior", stored, {config.name: config}) == self.config

    def test_what_a_fit_says_is_json(self, head: LastLayer) -> None:
        """`extra_config` and `report` are written to `bayeslora.json`."""
        for record in (head.extra_config(), head.report()):
            assert json.loads(json.dumps(record, allow_nan=False)) == record

    @pytest.mark.parametrize("count", [60, 3])
    def test_saved_and_loaded_is_bit_equal(
        self, rows: Features, tmp_path: Path, count: int
    ) -> None:
        """Tensors and `extra_config` suffice, also for fewer rows than features."""
        head = self.fitted(count)
        file = tmp_path / "posterior.safetensors"
        save_file({name: item.contiguous() for name, item in head.state_dict().items()}, file)
        loaded = self.build(extra=head.extra_config())
        loaded.load_state_dict(load_file(file))
        expected, actual = head.predict(rows), loaded.predict(rows)
        assert torch.equal(actual.mean, expected.mean)
        assert torch.equal(actual.covariance, expected.covariance)
        assert torch.equal(loaded.mean_weight, head.mean_weight)
        assert loaded.extra_config() == head.extra_config()
        assert loaded.report() == head.report()

    def test_an_unfitted_state_loads_too(self) -> None:
        """Training checkpoints contain an unfitted state."""
        loaded = self.build()
        loaded.load_state_dict(self.make().state_dict())

    def test_the_mean_is_where_it_was_set(self) -> None:
        """Other posteriors start from it, as does `calibrate`."""
        head = self.make()
        assert head.mean_weight.shape == (self.num_classes, self.num_features)
        torch.testing.assert_close(head.mean_weight.float(), self.start(), atol=0, rtol=0)

    def test_told_mean_square_norm_is_saved(self) -> None:
        """It converts prior scales to precisions, so it is part of the state: a scalar tensor."""
        head = self.make()
        head.set_mean_sq_norm(7.0)
        assert 7.0 in [float(item) for item in head.state_dict().values() if item.ndim == 0]


class LastLayerLaws(PredictionLaws, FitLaws, RecordLaws):
    """Laws of the predictions, fits and records of a last-layer posterior.

    Subclasses set `config`; the other attributes of `LastLayerCase` have defaults.
    """
