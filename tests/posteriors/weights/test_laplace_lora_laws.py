"""The laws of predictions for the linearised Laplace approximation over adapter weights.

It draws logits, not weights, so it is not a `WeightPosterior`.
"""

import torch
from small_network import SmallNetwork, SmallTexts, fitted, small_texts

from bayeslora import LaplaceLoRA
from bayeslora.testing.last_layer import PredictionLaws


class OneTokenTexts:
    """A fitted network as a head whose features are the single token of a text."""

    def __init__(self, network, weights):
        self.network, self.weights, self.config = network, weights, weights.config

    def predict(self, rows):
        texts = SmallTexts([row[None].double() for row in rows.values])
        states = self.network.scaled(self.network.features(texts, 1))
        return self.weights.gaussian_logits(self.network, texts, states, lambda _: None)


class TestLoRA(PredictionLaws):
    config = LaplaceLoRA(structure="kron", prior_precision=0.7)
    num_features = 4
    adapter = "lora"

    def fitted(self, rows=60):
        network = SmallNetwork(self.adapter)
        structure = self.config.structure
        return OneTokenTexts(network, fitted(network, small_texts(rows), structure=structure))

    def test_far_away_features_are_more_uncertain_where_anything_is(self, head, rows):
        """A network is not linear in its inputs; where it saturates, the variance stays finite."""
        variance = head.predict(rows.map(lambda values: 1e6 * values)).variance
        assert torch.isfinite(variance).all()
        assert (variance > 0).all()


class TestPolar(TestLoRA):
    adapter = "polar"


class TestDiagonal(TestLoRA):
    config = LaplaceLoRA(structure="diag", prior_precision=0.7)
