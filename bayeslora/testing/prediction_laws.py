"""Laws of what a fitted last layer predicts."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from bayeslora.links import link_probabilities
from bayeslora.logits import Logits, SampledLogits
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.types import LastLayer
from bayeslora.testing.case import LastLayerCase

F64 = torch.float64


def _without_samples(logits: Logits) -> Logits:
    """Return what a prediction of `num_samples=0` gives to the link."""
    return logits.at_mean() if isinstance(logits, SampledLogits) else logits


class PredictionLaws(LastLayerCase):
    """Logits are a proper distribution for each row by itself, and repeatable."""

    def test_logits_are_float64_and_of_one_row_each(self, head: LastLayer, rows: Features) -> None:
        """Also for float32 features, and no gradient leaves a prediction."""
        logits = head.predict(rows.to(torch.float32))
        assert logits.mean.dtype == logits.covariance.dtype == F64
        assert logits.mean.shape == (20, self.num_classes)
        assert not logits.mean.requires_grad

    def test_probabilities_are_finite_and_sum_to_one(self, head: LastLayer, rows: Features) -> None:
        """Within the rounding of a sum in float64."""
        probs = link_probabilities(head.predict(rows)).probs
        assert torch.isfinite(probs).all()
        assert_close(probs.sum(1), torch.ones(20, dtype=F64), atol=1e-12, rtol=0)

    def test_variances_are_not_negative(self, head: LastLayer, rows: Features) -> None:
        """Rounding included: clamp what is meant to be zero."""
        assert (head.predict(rows).variance >= 0).all()

    def test_variance_reaches_the_probabilities(self, head: LastLayer, rows: Features) -> None:
        """Logits with variance need an option `num_samples`, and a head that keeps its `config`.

        Without the option a classifier predicts the mean; without `config` epochs and feature
        scores would be judged by another link than predictions are made with.
        """
        logits = head.predict(rows)
        if isinstance(logits, SampledLogits) or logits.is_point:
            return
        assert getattr(self.config, "num_samples", 0) > 0
        kept = getattr(head, "config", None)
        for name in ("link", "num_samples"):
            assert getattr(kept, name, None) == getattr(self.config, name, None)

    def test_no_samples_is_the_mean(self, head: LastLayer, rows: Features) -> None:
        """`num_samples=0` is a softmax of the mean logits, bit by bit."""
        logits = head.predict(rows)
        probs = link_probabilities(_without_samples(logits), num_samples=0).probs
        assert_close(probs, logits.mean.softmax(1), atol=0, rtol=0)

    def test_same_seed_same_probabilities(self, head: LastLayer, rows: Features) -> None:
        """A prediction draws nothing from a global generator."""
        first, second = (link_probabilities(head.predict(rows), seed=3).probs for _ in range(2))
        assert torch.equal(first, second)

    def test_rows_do_not_depend_on_their_company(self, head: LastLayer, rows: Features) -> None:
        """Batches and the order of rows change nothing but the last bits of products."""
        order = torch.tensor([7, 2, 19])
        whole, part = head.predict(rows), head.predict(rows.take(order))
        assert_close(part.mean, whole.mean[order], atol=1e-12, rtol=0)
        assert_close(part.covariance, whole.covariance[order], atol=1e-11, rtol=0)

    def test_far_away_features_are_more_uncertain_where_anything_is(
        self, head: LastLayer, rows: Features
    ) -> None:
        """Logits are linear in the features, so ten times the features is a hundred times v."""
        far = head.predict(Features(10 * rows.values)).variance
        assert_close(far, 100 * head.predict(rows).variance, rtol=1e-9, atol=1e-12)
