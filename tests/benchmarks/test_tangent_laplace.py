"""The toy study of posteriors over PoLAR's directions: its algebra and its table."""

import sys

import pytest
import torch

from bayeslora.adapters.polar import polar_retraction
from benchmarks.tangent_laplace import __main__ as study

ROWS = 16


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(study, "EPOCHS", 4)
    monkeypatch.setattr(study, "TEST_ROWS", 50)


@pytest.fixture
def trained():
    world = study.world_of(0, ROWS)
    return world, study.adapted(world, 0)


def test_jacobians_have_no_part_off_the_tangent_space(trained):
    world, net = trained
    result = study.jacobians(net, world.train[0])["B"].unflatten(2, (2, study.WIDTH, study.RANK))
    for place, site in enumerate(net.layers):
        product = site.B.weight.mT @ result[:, :, place]
        torch.testing.assert_close(product, -product.mT, atol=1e-10, rtol=0)


def test_jacobians_are_differences_of_logits_along_a_curve_on_the_manifold(trained):
    world, net = trained
    x, step = world.train[0], 1e-5
    Z = net.layers[0].B.weight.clone()
    generator = torch.Generator().manual_seed(5)
    along = study.tangent(Z, torch.randn(Z.shape, generator=generator).double())
    J = study.jacobians(net, x)["B"][..., : Z.numel()]

    def logits(by):
        net.layers[0].B.weight.copy_(polar_retraction(Z + by * along))
        return net(x)

    slope = (logits(step) - logits(-step)) / (2 * step)
    # Central differences in float64: rounding over the step, 1e-16 / 1e-5.
    torch.testing.assert_close(J @ along.flatten(), slope, atol=1e-7, rtol=1e-6)


def test_turning_the_directions_within_their_span_changes_no_score(trained):
    world, net = trained
    blocks = study.BLOCKS["directions"]
    before = study.scores(net, world, blocks)
    generator = torch.Generator().manual_seed(7)
    for site in net.layers:
        Q = torch.linalg.qr(torch.randn(study.RANK, study.RANK, generator=generator).double())[0]
        site.B.weight.copy_(site.B.weight @ Q)
        site.B0.copy_(site.B0 @ Q)
        site.core.weight.copy_(Q.mT @ site.core.weight)
    assert study.scores(net, world, blocks) == pytest.approx(before, abs=1e-6)


def test_it_fills_its_table_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    arguments = ["--out", str(tmp_path), "--sizes", str(ROWS), "--seeds"]
    for seeds in ("1", "2"):
        monkeypatch.setattr(sys, "argv", ["tangent_laplace", *arguments, seeds])
        study.main()
    rows = study.Results(tmp_path, study.KEY).rows()
    assert [(row["seed"], row["method"]) for row in rows] == [
        (seed, method) for seed in (0, 1) for method in sorted(study.BLOCKS)
    ]
    assert "directions less core" in (tmp_path / "summary.md").read_text(encoding="utf-8")
