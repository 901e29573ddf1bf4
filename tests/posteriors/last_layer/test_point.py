"""Point heads: MLE and MAP."""

import torch

from bayeslora import MAP, MLE
from bayeslora.posteriors.registry import build_head
from bayeslora.posteriors.types import Features
from bayeslora.testing.last_layer import toy


def test_map_is_mle_plus_the_negative_log_prior_a_row():
    features, labels = toy()
    mle = build_head(MLE(), 4, 3).double()
    map_head = build_head(MAP(prior_scale=3.0), 4, 3, mean_sq_norm=2.0).double()
    weight = torch.arange(12.0, dtype=torch.float64).view(3, 4) / 10
    mle.set_mean(weight)
    map_head.set_mean(weight)
    prior = torch.distributions.Normal(0.0, 3.0 / 2.0**0.5)
    zero = prior.log_prob(torch.zeros(3, 4, dtype=torch.float64)).sum()
    penalty = (zero - prior.log_prob(weight).sum()) / 60
    difference = map_head.loss(Features(features, labels), 60) - mle.loss(
        Features(features, labels), 60
    )
    torch.testing.assert_close(difference, penalty)
    torch.testing.assert_close(
        map_head.data_loss(Features(features, labels)), mle.loss(Features(features, labels), 60)
    )
