"""The study of last layers on fixed features."""

import pytest
import torch

from bayeslora.engine.training.starts import LinearProbe
from bayeslora.posteriors.features import Features
from benchmarks.many_classes.__main__ import ARMS, arms, scores, write


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    means, labels = torch.randn(6, 8, generator=generator), torch.arange(6).repeat_interleave(10)
    values = means[labels] + 0.5 * torch.randn(60, 8, generator=generator)
    return Features(values / values.square().sum(1).mean().sqrt(), labels)


@pytest.mark.parametrize("arm", ["MAP head", "ML, rate 0.02, started", "the same, empirical Bayes"])
def test_an_arm_is_better_than_chance_and_no_worse_at_its_best_scale(rows, arm):
    probe = LinearProbe.fitted(rows, 6, 0)
    row = scores(ARMS[arm].fitted(rows, probe, 0), rows)
    assert row["best"] <= row["nll"] + 1e-9 < torch.log(torch.tensor(6.0))
    assert row["accuracy"] > 0.5


def test_a_prior_around_zero_leaves_means_too_small(rows):
    """The finding of the study, on ten rows for each of six classes."""
    probe = LinearProbe.fitted(rows, 6, 0)
    names = "VBLL, rate 0.005, prior 2", "VBLL, the same, started (default)"
    before, now = (scores(ARMS[name].fitted(rows, probe, 0), rows)["factor"] for name in names)
    assert before > 1.5 * now


def test_dear_arms_are_left_out_with_many_classes(tmp_path):
    assert set(arms(20)) == set(ARMS)
    assert not any("dense" in name or "cross-validation" in name for name in arms(77))
    cell = {"backbone": "minilm", "classes": 77, "each": 8, "seed": 0, "arm": "MAP head"}
    write(tmp_path, [cell | {"nll": 0.25, "best": 0.125}])
    assert "| MAP head | 0.250 / 0.125 |" in (tmp_path / "summary.md").read_text(encoding="utf-8")
