"""Smooth ECE against the kernel sum over rows, written out with its mirror images."""

import numpy as np
import pytest
from scipy.optimize import brentq

from bayeslora.metrics.calibration import smece, top_label


def direct(confidence, correct, points=4000):
    """Return the fixed point of the integral over t, from N kernels mirrored in 0 and 1."""
    t = (np.arange(points) + 0.5) / points
    residual = np.asarray(correct) - confidence

    def error(width):
        images = np.concatenate(
            [c + shift for shift in (-2, 0, 2) for c in (confidence, -confidence)]
        )
        kernel = np.exp(-0.5 * ((t[:, None] - images) / width) ** 2) / (width * np.sqrt(2 * np.pi))
        return np.abs(kernel @ np.tile(residual, 6)).mean() / len(residual)

    return brentq(lambda width: error(width) - width, 1e-3, 1)


@pytest.mark.parametrize(("size", "bias"), [(50, 0.0), (200, 0.1), (400, -0.05)])
def test_it_equals_the_direct_sum(size, bias):
    generator = np.random.default_rng(size)
    confidence = np.sort(generator.beta(4, 1, size))
    correct = (generator.random(size) < confidence - bias).astype(float)
    # dividing a row between two of 512 points widens the kernel by 1/512 at most
    error = smece(top_label(confidence, correct))
    assert error == pytest.approx(direct(confidence, correct), abs=2e-4)


def test_extremes():
    assert smece(top_label(np.ones(5), np.ones(5))) == 0
    assert smece(top_label(np.ones(5), np.zeros(5))) == pytest.approx(1, abs=1e-6)
    assert smece(top_label([0.7], [1])) == pytest.approx(0.3, abs=1e-6)
