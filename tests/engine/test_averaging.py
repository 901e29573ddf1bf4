"""Networks of cross-validation, averaged and trained further."""

import pytest
import torch
from tiny import QUICK_VBLL, toy_rows

from bayeslora.adapters.registry import resolve_adapter
from bayeslora.classifier import BayesianClassifier
from bayeslora.engine.starts import Average

ROWS = toy_rows(24)


def fitted(backbone, adapter, posterior, **options):
    clf = BayesianClassifier(backbone, adapter, posterior, dtype="float32", progress=False)
    return clf.fit(ROWS, epochs=2, batch_size=8, **options)


def site(adapter, seed=0):
    generator = torch.Generator().manual_seed(seed)
    host = torch.nn.Linear(6, 7)
    (made,) = resolve_adapter(adapter).make_sites(host, {"layer": host}, generator)
    with torch.no_grad():
        for parameter in made.trainable().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made


@pytest.mark.parametrize("adapter", ["polar:r=3", "lora:r=3", "lora:r=3,use_rslora=true"])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_nearest_change_is_set(adapter, rank):
    """The oracle is the singular value decomposition of the dense matrix."""
    made = site(adapter)
    generator = torch.Generator().manual_seed(1)
    A, B = torch.randn(rank, 6, generator=generator), torch.randn(7, rank, generator=generator)
    made.set_change(A, B)
    U, S, Vh = torch.linalg.svd(made.scale * (B @ A))
    torch.testing.assert_close(
        made.delta(), U[:, :3] * S[:3] @ Vh[:3], rtol=0, atol=1e-5 * float(S[0])
    )
    for key in made.manifold():
        factor = made.trainable()[key]
        gram = factor @ factor.T if key == "A" else factor.T @ factor
        torch.testing.assert_close(gram, torch.eye(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("adapter", "posterior"),
    [("polar:r=2", f"{QUICK_VBLL},polish_mean=trained"), ("lora:r=2", "mle")],
)
def test_a_fit_with_cv_is_the_average_of_its_networks(backbone, adapter, posterior, monkeypatch):
    added = []

    class Watched(Average):
        def add(self, network):
            deltas = [site.delta().detach().double() for site in network.sites]
            added.append((deltas, network.head.trained_mean / network.feature_scale))
            super().add(network)

    monkeypatch.setattr("bayeslora.engine.cross_validation.Average", Watched)
    clf = fitted(backbone, adapter, posterior, cv=3)
    assert len(added) == clf.record.results["averaged"] == 3
    network = clf.network
    for place, layer in enumerate(network.sites):
        mean = torch.stack([deltas[place] for deltas, _ in added]).mean(0)
        U, S, Vh = torch.linalg.svd(mean)
        nearest = (U[:, :2] * S[:2] @ Vh[:2]).float()
        torch.testing.assert_close(layer.delta(), nearest, rtol=0, atol=1e-6)
    weight = torch.stack([weight for _, weight in added]).mean(0)
    if posterior == "mle":  # its factor is in the scale of the features
        weight = weight * clf.record.results["logit_scale"]["factor"]
    torch.testing.assert_close(
        network.head.trained_mean / network.feature_scale, weight, rtol=1e-4, atol=1e-6
    )
