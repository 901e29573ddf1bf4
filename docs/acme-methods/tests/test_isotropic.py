import pytest
import torch
from acme_methods.isotropic import Isotropic

from bayeslora.posteriors.registry import build_head
from bayeslora.posteriors.types import Features
from bayeslora.testing.last_layer import LastLayerLaws, toy


class TestIsotropic(LastLayerLaws):
    config = Isotropic()


def test_variance_at_zero_weights():
    """Each p is 1/2: 60 rows of mean ‖φ‖² = 1 add 60 / 2 to tr H, the prior 1/2² per weight."""
    head = build_head(Isotropic(prior_scale=2.0), num_features=4, num_classes=2)
    head.fit(Features(*toy(rows=60, size=4, classes=2)))
    variance = head.predict(Features(torch.eye(4))).variance
    assert variance.flatten().tolist() == pytest.approx([1 / (30 / 8 + 1 / 4)] * 8)
