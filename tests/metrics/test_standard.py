"""The sums behind scores agree with netcal and torchmetrics, but for what these do otherwise.

The table of docs/design.md names these tests.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bayeslora as bl
from bayeslora.metrics.calibration import aece, ece, top_label
from bayeslora.metrics.ood import detection, detection_areas, sorted_by_uncertainty

UNCERTAINTIES = st.lists(st.integers(-9, 9).map(lambda k: k / 3), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(UNCERTAINTIES, UNCERTAINTIES)
def test_torchmetrics_areas_equal_the_bootstraps_sums(inside, outside):
    pair = (np.array(inside), np.array(outside))
    # torchmetrics sums in single precision.
    ours = detection(sorted_by_uncertainty(*pair))[[0, 1, 3]]
    assert detection_areas(*pair) == pytest.approx(ours, abs=1e-6)


def test_values_outside_the_unit_interval_are_not_taken_for_logits():
    # A sigmoid in single precision would map both 40 and 50 to 1, a tie with AUROC 1/2.
    auroc, *_ = detection_areas(np.array([40.0]), np.array([50.0]))
    assert auroc == 1.0


def test_scores_of_the_confusion_matrix_are_torchmetrics():
    import torch
    from torchmetrics.functional import classification

    generator = np.random.default_rng(0)
    probs = generator.dirichlet(np.ones(4), 300)
    labels = (probs.cumsum(1) > generator.random((300, 1))).argmax(1)
    scores = bl.evaluate(bl.Predictions(probs, tuple("abcd"), labels), num_resamples=2)
    pair = torch.from_numpy(probs), torch.from_numpy(labels)
    theirs = {
        "accuracy": classification.multiclass_accuracy(*pair, 4, average="micro"),
        "f1": classification.multiclass_f1_score(*pair, 4, average="macro"),
        "balanced_accuracy": classification.multiclass_recall(*pair, 4, average="macro"),
        "mcc": classification.multiclass_matthews_corrcoef(*pair, 4),
    }
    for key, value in theirs.items():
        assert scores[key].value == pytest.approx(float(value), abs=1e-6)  # single precision
    matrix = classification.multiclass_confusion_matrix(*pair, 4)
    assert np.array_equal(scores.confusion, matrix)


def test_torchmetrics_gives_a_confidence_of_one_a_bin_of_its_own():
    """Three right of .95, 1 and .7: the last bin holds .95 and 1, of which one is right."""
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    probs, labels = [[0.95, 0.05], [1.0, 0.0], [0.7, 0.3]], [0, 1, 0]
    theirs = multiclass_calibration_error(torch.tensor(probs), torch.tensor(labels), 2, n_bins=10)
    assert float(theirs) == pytest.approx((0.05 + 1 + 0.3) / 3)
    ours = ece(top_label([0.95, 1.0, 0.7], [1, 0, 1]), 10)
    assert ours == pytest.approx((abs(1 - 1.95) + 0.3) / 3)


def test_netcal_has_no_equal_mass_bins_of_tied_confidences():
    from netcal.metrics import ECE

    confidence, correct = np.array([0.5] * 8 + [0.9] * 2), np.array([1, 0] * 5)
    with pytest.raises(ValueError, match="edge difference"):
        ECE(bins=5, equal_intervals=False).measure(confidence, correct)
    assert aece(top_label(confidence, correct), 5) == pytest.approx(0.2 * 0.4)


def test_every_test_that_design_names_exists():
    root = Path(__file__).parents[2]
    named = re.findall(r"`(test_\w+)`", (root / "docs" / "design.md").read_text(encoding="utf-8"))
    texts = [path.read_text(encoding="utf-8") for path in (root / "tests").rglob("test_*.py")]
    assert len(named) > 15
    assert not [name for name in named if not any(f"def {name}(" in text for text in texts)]
