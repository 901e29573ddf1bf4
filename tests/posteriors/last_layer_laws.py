"""Laws that every last-layer posterior obeys; inherit and give a configuration."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_features import toy

from bayeslora.links import link_probabilities
from bayeslora.posteriors.build import build

F64 = torch.float64
CLASSES = 3
SIZE = 5


class LastLayerLaws:
    """A subclass sets `config`, and gets one test a law.

    A posterior of Markov chains also sets `noise`: how far, in nats of a logit, two sets of chains
    for the same posterior may lie apart. Laws of numbers that come from one set stay exact.
    """

    config: object
    noise = 0.0

    def make(self, **options):
        """A float32 head with random means, the state that training leaves."""
        head = build(self.config, SIZE, CLASSES, **options)
        generator = torch.Generator().manual_seed(0)
        head.set_mean(torch.randn(CLASSES, SIZE, generator=generator))
        return head

    def fitted(self, rows=60):
        """A head fitted on toy rows."""
        head = self.make()
        head.fit(*toy(rows=rows, size=SIZE), toy(rows=60, size=SIZE, seed=9))
        return head

    def without_samples(self, logits):
        """What a prediction of `num_samples=0` gives to the link."""
        return logits

    @pytest.fixture
    def head(self):
        return self.fitted()

    @pytest.fixture
    def rows(self):
        return toy(rows=20, size=SIZE, seed=4)[0]

    def test_logits_are_float64_and_of_one_row_each(self, head, rows):
        logits = head.predict(rows.float())
        assert logits.mean.dtype == logits.covariance.dtype == F64
        assert logits.mean.shape == (20, CLASSES)
        assert not logits.mean.requires_grad

    def test_probabilities_are_finite_and_sum_to_one(self, head, rows):
        probs = link_probabilities(head.predict(rows)).probs
        assert torch.isfinite(probs).all()
        torch.testing.assert_close(probs.sum(1), torch.ones(20, dtype=F64), atol=1e-12, rtol=0)

    def test_variances_are_not_negative(self, head, rows):
        assert (head.predict(rows).variance >= 0).all()

    def test_no_samples_is_the_mean(self, head, rows):
        logits = head.predict(rows)
        probs = link_probabilities(self.without_samples(logits), num_samples=0).probs
        torch.testing.assert_close(probs, logits.mean.softmax(1), atol=0, rtol=0)

    def test_same_seed_same_probabilities(self, head, rows):
        first, second = (link_probabilities(head.predict(rows), seed=3).probs for _ in range(2))
        assert torch.equal(first, second)

    def test_rows_do_not_depend_on_their_company(self, head, rows):
        order = torch.tensor([7, 2, 19])
        whole, part = head.predict(rows), head.predict(rows[order])
        # Products of other shapes round differently in the last bits.
        torch.testing.assert_close(part.mean, whole.mean[order], atol=1e-12, rtol=0)
        torch.testing.assert_close(part.covariance, whole.covariance[order], atol=1e-11, rtol=0)

    def test_permuted_labels_permute_the_logits(self, head, rows):
        order = torch.tensor([2, 0, 1])
        features, labels = toy(rows=60, size=SIZE)
        held, held_labels = toy(rows=60, size=SIZE, seed=9)
        moved = build(self.config, SIZE, CLASSES)
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(CLASSES, SIZE, generator=generator)
        moved.set_mean(start[order.argsort()])
        moved.fit(features, order[labels], (held, order[held_labels]))
        expected, found = head.predict(rows), moved.predict(rows)
        # Iterative fits stop within 1e-6 of their optimum's value.
        near = {"atol": 5e-3 + self.noise, "rtol": self.noise}
        torch.testing.assert_close(found.mean[:, order], expected.mean, **near)
        torch.testing.assert_close(found.variance[:, order], expected.variance, **near)

    def test_fitting_twice_changes_nothing(self, head, rows):
        before = head.predict(rows)
        head.fit(*toy(rows=60, size=SIZE), toy(rows=60, size=SIZE, seed=9))
        after = head.predict(rows)
        # Iterative fits stop at a relative change of the bound, which is flat where the prior is
        # wide and logits are large.
        torch.testing.assert_close(after.mean, before.mean, atol=5e-3, rtol=5e-3)
        torch.testing.assert_close(after.covariance, before.covariance, atol=5e-3, rtol=5e-3)

    def test_fit_leaves_trained_parameters_alone(self):
        head = self.make()
        before = [parameter.detach().clone() for parameter in head.parameters()]
        head.fit(*toy(size=SIZE))
        for old, new in zip(before, head.parameters(), strict=True):
            assert torch.equal(old, new)

    def test_a_prior_that_is_not_chosen_is_that_of_the_training(self):
        head = self.make()
        head.fit(*toy(size=SIZE), toy(rows=60, size=SIZE, seed=9), choose_prior=False)
        assert head.report().get("prior_scale", 2.0) == pytest.approx(2.0)

    def test_single_and_double_precision_features_agree(self, rows):
        features, labels = toy(rows=60, size=SIZE)
        outcomes = []
        for dtype in (torch.float32, F64):
            head = self.make()
            head.fit(features.to(dtype), labels)
            outcomes.append(head.predict(rows.to(dtype)))
        # float32 features carry a relative error of 6e-8; fits amplify it, by far less than 1e4.
        near = {"atol": 1e-3 + self.noise, "rtol": self.noise}
        torch.testing.assert_close(outcomes[0].mean, outcomes[1].mean, **near)
        near = {"atol": 1e-3 + self.noise, "rtol": 1e-3 + self.noise}
        torch.testing.assert_close(outcomes[0].covariance, outcomes[1].covariance, **near)

    def test_far_away_features_are_more_uncertain_where_anything_is(self, head, rows):
        near, far = head.predict(rows).variance, head.predict(10 * rows).variance
        torch.testing.assert_close(far, 100 * near, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("count", [60, 3])
    def test_saved_and_loaded_is_bit_equal(self, rows, tmp_path: Path, count):
        head = self.fitted(count)
        file = tmp_path / "posterior.safetensors"
        save_file({name: item.contiguous() for name, item in head.state_dict().items()}, file)
        loaded = build(self.config, SIZE, CLASSES, extra=head.extra_config())
        loaded.load_state_dict(load_file(file))
        expected, found = head.predict(rows), loaded.predict(rows)
        assert torch.equal(found.mean, expected.mean)
        assert torch.equal(found.covariance, expected.covariance)
        assert loaded.extra_config() == head.extra_config()
        assert loaded.report() == head.report()

    def test_an_unfitted_state_loads_too(self):
        loaded = build(self.config, SIZE, CLASSES)
        loaded.load_state_dict(self.make().state_dict())

    def test_loss_is_a_scalar_that_trains_every_parameter(self):
        head = self.make()
        features, labels = toy(size=SIZE)
        loss = head.loss(features.float(), labels, 60)
        assert loss.shape == ()
        loss.backward()
        assert all(torch.isfinite(item.grad).all() for item in head.parameters())

    def test_data_loss_reaches_the_features_alone(self):
        head = self.make()
        features, labels = toy(size=SIZE)
        features = features.float().requires_grad_()
        head.data_loss(features, labels).backward()
        assert features.grad.abs().sum() > 0
        assert all(item.grad is None for item in head.parameters())

    def test_told_mean_square_norm_is_saved(self):
        head = self.make()
        head.set_mean_sq_norm(7.0)
        assert 7.0 in [float(item) for item in head.state_dict().values() if item.ndim == 0]
