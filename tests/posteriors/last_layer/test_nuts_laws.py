"""The laws of last-layer posteriors for Markov chains, as far as one-second chains can show."""

import copy
import functools

from bayeslora import NUTS
from bayeslora.testing.last_layer import LastLayerLaws


class TestNUTS(LastLayerLaws):
    config = NUTS(num_chains=2, num_warmup=80, num_samples=250)
    # Logits of these rows have posterior deviations of about 1.5, and two chains of 250 draws
    # have about 200 effective draws: standard errors are 0.11 for means and 10 % for variances.
    noise = 0.3

    def fitted(self, rows=60):
        return copy.deepcopy(self._fitted_once(rows))

    @classmethod
    @functools.cache
    def _fitted_once(cls, rows):
        return LastLayerLaws.fitted(cls(), rows)
