"""Laws of how a last layer trains beside an adapter and is fitted afterwards."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from bayeslora.errors import InputError
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.types import LastLayer
from bayeslora.testing.case import LastLayerCase

F64 = torch.float64


class FitLaws(LastLayerCase):
    """A fit depends on the rows and the trained mean, on nothing else, and disturbs no training."""

    def test_permuted_labels_permute_the_logits(self, head: LastLayer, rows: Features) -> None:
        """No class is special."""
        order = torch.arange(self.num_classes).roll(1)
        train, held = (
            replace(part, labels=order[part.targets]) for part in (self.toy(), self.held_out())
        )
        moved = self.build()
        moved.set_mean(self.start()[order.argsort()])
        moved.fit(train, held)
        expected, found = head.predict(rows), moved.predict(rows)
        atol, rtol = self.fit_tolerance + self.noise, self.noise
        assert_close(found.mean[:, order], expected.mean, atol=atol, rtol=rtol)
        assert_close(found.variance[:, order], expected.variance, atol=atol, rtol=rtol)

    def test_fitting_twice_changes_nothing(self, head: LastLayer, rows: Features) -> None:
        """A fit starts from what training left, not from the fit before.

        Where the prior is wide and logits are large the optimum is flat relative to its size.
        """
        before = head.predict(rows)
        head.fit(self.toy(), self.held_out())
        after = head.predict(rows)
        atol = rtol = self.fit_tolerance
        assert_close(after.mean, before.mean, atol=atol, rtol=rtol)
        assert_close(after.covariance, before.covariance, atol=atol, rtol=rtol)

    def test_fit_leaves_trained_parameters_alone(self) -> None:
        """Training goes on after a fit that only scored an epoch."""
        head = self.make()
        before = [parameter.detach().clone() for parameter in head.parameters()]
        head.fit(self.toy())
        for old, new in zip(before, head.parameters(), strict=True):
            assert torch.equal(old, new)

    def test_a_prior_that_is_not_chosen_is_that_of_the_training(self) -> None:
        """`choose_prior=False` makes epochs comparable."""
        head = self.make()
        head.fit(self.toy(), self.held_out(), choose_prior=False)
        expected = self.training_prior_scale
        assert head.report().get("prior_scale", expected) == pytest.approx(expected)

    def test_single_and_double_precision_features_agree(self, rows: Features) -> None:
        """Fits compute in float64 whatever they are given."""
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
        """With finite gradients."""
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
        """By the fit and by the prediction, and the message counts the rows.

        `bayeslora.posteriors.features.check_features` does so.
        """
        rows = self.toy()
        rows.values[5, 1] = value
        with pytest.raises(InputError, match="1 of 60 rows"):
            self.make().fit(rows)
        with pytest.raises(InputError, match="1 of 60 rows"):
            head.predict(rows)

    @pytest.mark.parametrize("value", [math.nan, 1e200, 1e11])
    def test_strange_rows_are_refused_or_answered(
        self, head: LastLayer, rows: Features, value: float
    ) -> None:
        """NaN never comes back: not for huge features, nor from held-out rows out of range."""
        strange, held = self.toy(), self.held_out()
        for part in (strange, held):
            part.values[5, 1] = value
        if not math.isnan(value):
            self._assert_proper(self.make(), strange, None, rows)
            self._assert_proper(head, None, None, strange)
        self._assert_proper(self.make(), self.toy(), held, rows)

    def _assert_proper(
        self, head: LastLayer, train: Features | None, held: Features | None, asked: Features
    ) -> None:
        """Assert that the fit or the prediction is refused, or all logits are finite."""
        try:
            if train is not None:
                head.fit(train, held)
            logits = head.predict(asked)
        except InputError:
            return
        assert torch.isfinite(logits.mean).all()
        assert torch.isfinite(logits.covariance).all()
