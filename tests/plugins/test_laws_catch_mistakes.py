"""Each law of last-layer posteriors fails for a head that breaks it."""

import inspect
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from bayeslora.logits import GaussianLogits
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.point import PointHead
from bayeslora.posteriors.types import check_features
from bayeslora.testing.last_layer import LastLayerLaws


class Sound(PointHead):
    """A head that obeys every law: weights of variance 1 / N."""

    uses_training_features = True

    def __init__(self, config, num_features, num_classes, *, mean_sq_norm, seed):
        super().__init__(num_features, num_classes, prior_scale=2.0, mean_sq_norm=mean_sq_norm)
        self.config = config
        self.register_buffer("variance", torch.zeros((), dtype=torch.float64))

    def fit(self, train, validation=None, *, choose_prior=True):
        check_features(train)
        self.variance.fill_(1 / len(train))

    def mean(self, rows):
        return super().predict(rows).mean

    def predict(self, rows):
        squares = rows.values.double().square().sum(1, keepdim=True)
        mean = self.mean(rows)
        return GaussianLogits(mean, (self.variance * squares).expand_as(mean))


@dataclass(frozen=True)
class Options(Posterior):
    num_samples: int = 100
    extra: object = None
    name: ClassVar[str] = "sound"
    summary: ClassVar[str] = "s"
    source: ClassVar[str] = ""
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "one"
    head: ClassVar[type] = Sound


class TestSound(LastLayerLaws):
    config = Options()


class Single(Sound):
    def predict(self, rows):
        logits = super().predict(rows)
        return GaussianLogits(logits.mean.float(), logits.covariance.float())


class Forgetful(Sound):
    def __init__(self, config, *sizes, **options):
        super().__init__(config, *sizes, **options)
        self.config = None


class Random(Sound):
    def mean(self, rows):
        mean = super().mean(rows)
        return mean + torch.rand(mean.shape)


class Social(Sound):
    def mean(self, rows):
        return super().mean(rows.map(lambda values: values - values.mean(0)))


class Bounded(Sound):
    def predict(self, rows):
        return GaussianLogits(self.mean(rows), torch.ones(len(rows), len(self.weight)))


class Partial(Sound):
    def mean(self, rows):
        return super().mean(rows) + torch.eye(len(self.weight))[0]


class Growing(Sound):
    def fit(self, train, validation=None, *, choose_prior=True):
        self.variance.add_(1 / len(train))


class Meddling(Sound):
    def fit(self, train, validation=None, *, choose_prior=True):
        self.weight.data.mul_(2)


class Choosing(Sound):
    def report(self):
        return {"prior_scale": 4.0}


class Rough(Sound):
    def mean(self, rows):
        is_single = rows.values.dtype == torch.float32
        return super().mean(rows.to(torch.bfloat16) if is_single else rows)


class Trusting(Sound):
    def predict(self, rows):
        mean = rows.double().logits(self.weight.double())
        squares = rows.values.double().square().sum(1, keepdim=True)
        return GaussianLogits(mean, (self.variance * squares).expand_as(mean))


class Wide(Sound):
    def loss(self, rows, num_train):
        return super().loss(rows, num_train).expand(1)


class Leaking(Sound):
    def data_loss(self, rows):
        return self.loss(rows, 1)


class Speechless(Sound):
    def report(self):
        return {"variance": float("nan")}


class Volatile(Sound):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.register_buffer("variance", self.variance, persistent=False)
        self.register_buffer("mean_sq_norm", self.mean_sq_norm, persistent=False)


class Sprawling(Sound):
    def state_dict(self, *args, **options):
        return super().state_dict(*args, **options) | {"more": torch.zeros(())}


class Scaling(Sound):
    def set_mean(self, weight):
        super().set_mean(2 * weight)


MISTAKES = {
    "test_logits_are_a_proper_distribution": Single,
    "test_variance_reaches_the_probabilities": Forgetful,
    "test_same_seed_same_probabilities": Random,
    "test_rows_do_not_depend_on_their_company": Social,
    "test_far_away_features_are_more_uncertain_where_anything_is": Bounded,
    "test_permuted_labels_permute_the_logits": Partial,
    "test_fitting_twice_changes_nothing": Growing,
    "test_fit_leaves_trained_parameters_alone": Meddling,
    "test_a_prior_that_is_not_chosen_is_that_of_the_training": Choosing,
    "test_single_and_double_precision_features_agree": Rough,
    "test_features_that_are_not_finite_are_refused": Trusting,
    "test_loss_is_a_scalar_that_trains_every_parameter": Wide,
    "test_data_loss_reaches_the_features_alone": Leaking,
    "test_what_a_fit_says_is_json": Speechless,
    "test_saved_and_loaded_is_bit_equal": Volatile,
    "test_told_mean_square_norm_is_saved": Volatile,
    "test_an_unfitted_state_loads_too": Sprawling,
    "test_the_mean_is_where_it_was_set": Scaling,
}


def broken(law, head, options, tmp_path):
    """Call one law on a head with the arguments that pytest would pass."""
    suite = LastLayerLaws()
    config = type("Config", (Options,), {"head": head})
    suite.config = config(**options)
    arguments = {"head": suite.fitted, "tmp_path": lambda: tmp_path, "count": lambda: 60}
    arguments["value"] = lambda: math.inf
    arguments["rows"] = lambda: suite.toy(rows=20, seed=4)
    method = getattr(suite, law)
    method(**{name: arguments[name]() for name in inspect.signature(method).parameters})


@pytest.mark.parametrize("law", MISTAKES)
def test_a_mistake_is_caught_by_its_law(law, tmp_path):
    broken(law, Sound, {}, tmp_path)
    with pytest.raises((AssertionError, RuntimeError, ValueError, pytest.fail.Exception)):
        broken(law, MISTAKES[law], {}, tmp_path)


def test_draws_that_prediction_would_not_take_are_caught(tmp_path):
    with pytest.raises(AssertionError):
        broken("test_variance_reaches_the_probabilities", Sound, {"num_samples": 0}, tmp_path)


@pytest.mark.parametrize("extra", [{1}, float("nan"), {2: 3}], ids=repr)
def test_options_that_json_cannot_hold_are_caught(extra, tmp_path):
    with pytest.raises((AssertionError, TypeError, ValueError)):
        broken("test_the_options_can_be_listed_named_and_stored", Sound, {"extra": extra}, tmp_path)


def test_every_law_is_tried():
    laws = {name for name in dir(LastLayerLaws) if name.startswith("test_")}
    # The links, not the heads, decide the result of `num_samples=0`.
    elsewhere = {"test_no_samples_is_the_mean", "test_the_options_can_be_listed_named_and_stored"}
    assert laws - elsewhere == set(MISTAKES)
