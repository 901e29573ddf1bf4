"""The laws of last-layer posteriors, for each of ours."""

import pytest

from bayeslora import (
    MAP,
    MLE,
    VBLL,
    Ensemble,
    Laplace,
    LaplaceLoRA,
    MCDropout,
    Prototypes,
    TemperatureScaling,
)
from bayeslora.errors import InputError
from bayeslora.posteriors.build import build
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.registry import POSTERIORS
from bayeslora.testing.last_layer import LastLayerLaws
from bayeslora.testing.toy import toy


class TestMLE(LastLayerLaws):
    config = MLE()


class TestMAP(LastLayerLaws):
    config = MAP()


class TestTemperature(LastLayerLaws):
    config = TemperatureScaling()


class TestLaplaceLoRAHead(LastLayerLaws):
    """Its covariance is that of the whole network; the head beside it is a point."""

    config = LaplaceLoRA()


class TestDropoutHead(LastLayerLaws):
    config = MCDropout()


class TestEnsembleHead(LastLayerLaws):
    config = Ensemble()


class TestVBLL(LastLayerLaws):
    config = VBLL(num_samples=200)


class TestDiagonalJensenVBLL(LastLayerLaws):
    config = VBLL(prior_scale=2.0, polish_bound="jensen", covariance="diagonal")


class TestDenseTrainingVBLL(LastLayerLaws):
    config = VBLL(prior_scale="empirical-bayes", training_covariance="dense", bound="mc")


class TestRefinedVBLL(LastLayerLaws):
    config = VBLL(prior_scale=2.0, laplace_refinement=True, bound="knowles_minka")


class TestFullVBLL(LastLayerLaws):
    config = VBLL(
        prior_scale=2.0,
        covariance="full",
        polish_bound="tilted",
        training_covariance="full",
        bound="tilted",
    )


@pytest.mark.slow
class TestLowRankVBLL(LastLayerLaws):
    config = VBLL(prior_scale=2.0, covariance="low_rank", training_covariance="low_rank", rank=3)


class TestFullLaplace(LastLayerLaws):
    config = Laplace(structure="full")


class TestKronLaplace(LastLayerLaws):
    config = Laplace(structure="kron")


class TestPrototypes(LastLayerLaws):
    config = Prototypes()


class TestDiagLaplace(LastLayerLaws):
    config = Laplace(structure="diag", prior_precision="validation", num_samples=200)


@pytest.mark.parametrize("num_train", [0, -3, None])
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_a_number_of_rows_that_is_none_is_refused(posterior, num_train):
    """It divides the prior's part of the loss."""
    features, labels = toy()
    head = build(POSTERIORS[posterior](), 4, 3)
    with pytest.raises(InputError, match=f"num_train .*got {num_train}"):
        head.loss(Features(features.float(), labels), num_train)
