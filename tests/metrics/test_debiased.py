"""Debiased ECE: the mean of a folded normal, the authors' draws, and less bias than ECE."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from bayeslora.metrics.calibration import bin_sums, ece, ece_debiased, folded_mean, top_label


@pytest.mark.parametrize(("mean", "noise"), [(0.0, 0.1), (0.05, 0.1), (0.3, 0.02), (0.2, 0.0)])
def test_the_mean_of_a_folded_normal_is_its_integral(mean, noise):
    result = folded_mean(np.array(mean), np.array(noise))
    if noise:
        points = [mean - 8 * noise, 0, mean + 8 * noise]
        exact = quad(lambda x: abs(x) * norm.pdf(x, mean, noise), points[0], points[2], points=[0])
        assert result == pytest.approx(exact[0], abs=1e-8)
    else:
        assert result == mean


def test_it_is_the_authors_estimate_with_their_draws_averaged():
    generator = np.random.default_rng(0)
    confidence = generator.random(400)
    rows = top_label(confidence, generator.random(400) < confidence**1.3)
    sums = bin_sums(rows, 10)(None)
    accuracy = sums.right / sums.size
    stated = accuracy - sums.gap / sums.size
    noise = np.sqrt(accuracy * (1 - accuracy) / sums.size)
    drawn = accuracy + noise * generator.normal(size=(40000, 10))
    errors = np.abs(drawn - stated) @ sums.size / 400
    # the mean of 40,000 draws of deviation 0.02 errs by 1e-4; five times that
    assert ece_debiased(sums) == pytest.approx(2 * ece(rows, 10) - errors.mean(), abs=5e-4)


def test_it_is_nearer_to_the_truth_than_ece():
    generator = np.random.default_rng(1)
    errors = []
    for _ in range(200):
        confidence = 0.5 + 0.5 * generator.random(300)
        sums = bin_sums(top_label(confidence, generator.random(300) < confidence - 0.05))(None)
        errors.append([float(sums.ece), float(ece_debiased(sums))])
    plain, debiased = np.mean(errors, axis=0)
    assert abs(debiased - 0.05) < 0.5 * (plain - 0.05)
