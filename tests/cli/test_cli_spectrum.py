"""`bayeslora info --spectrum`: what an adapter did to each weight."""

import json

import pytest
import torch

from bayeslora.classifier import BayesianClassifier


def test_each_layer_has_the_numbers_of_its_change(run, world):
    result = run("info", world.model, "--spectrum", "--json")
    assert result.code == 0, result.err
    (sites,) = json.loads(result.out)["members"]
    network = BayesianClassifier.from_pretrained(world.model, progress=False).network
    assert [item["name"] for item in sites] == [site.name for site in network.sites]
    for item, site in zip(sites, network.sites, strict=True):
        delta = site.delta().detach().double()
        values = torch.linalg.svdvals(delta)[: site.r]
        # The change is formed in float32 here, and in float64 from its factors there.
        torch.testing.assert_close(
            torch.tensor(item["singular_values"]).double(), values, atol=1e-5, rtol=1e-4
        )
        assert item["norm"] == pytest.approx(float(delta.norm()), rel=1e-4)
        ratio = delta.norm() / site.weight.double().norm()
        assert item["relative_norm"] == pytest.approx(float(ratio), rel=1e-4)
        assert 1 <= item["stable_rank"] <= site.r
        assert item["drift"] < 1e-5


def test_the_table_has_a_line_a_layer(run, world):
    result = run("info", world.model, "--spectrum")
    assert result.code == 0, result.err
    head, *lines = result.out.splitlines()
    assert head.split("  ")[0] == "layer"
    assert len(lines) == 4
    assert lines[0].startswith("layers.0.self_attn.q_proj ")
    assert "%" in lines[0]


def test_what_has_no_spectrum_is_refused(run, refused, world, tmp_path):
    assert "--spectrum requires a model" in refused("info", "--spectrum")
    calibrated = ("calibrate", world.classifier, world.train, "--out", tmp_path / "foreign")
    assert run(*calibrated, "--quiet").code == 0
    assert "has no bayeslora adapter" in refused("info", tmp_path / "foreign", "--spectrum")
