"""Write `mapie.json`: the thresholds that MAPIE finds for the candidates and the order of `decide`.

pip install mapie==1.6.0
python tests/decisions/record_mapie.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy.stats import binom, poisson

GOLDEN = Path(__file__).with_name("mapie.json")
LEAST = 20
# Rows, sharpness, risk and confidence by name.
CASES = {
    "calibrated": (150, 1.0, 0.1, 0.95),
    "overconfident": (150, 1.6, 0.1, 0.9),
    "underconfident": (200, 0.7, 0.12, 0.9),
    "a small risk": (200, 1.0, 0.03, 0.8),
    "a large risk": (200, 1.0, 0.3, 0.95),
    "few rows": (40, 1.0, 0.25, 0.9),
    "too few rows": (25, 1.0, 0.02, 0.95),
}


def rows_of(name):
    """Return the confidence of rows, all different, and whether the answer is wrong."""
    rows, sharp, *_ = CASES[name]
    chance = np.random.default_rng(len(name))
    logits = chance.normal(0, 3, (rows, 3))
    true, stated = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (logits, sharp * logits))
    labels = (chance.random((rows, 1)) > true.cumsum(1)).sum(1).clip(max=2)
    return stated.max(1), stated.argmax(1) != labels


def candidates(scores, risk, confidence):
    """Return thresholds in the order of the tests.

    They lie just above each confidence, from `LEAST` rows on, and begin where the confidences make
    it most likely that the test passes.
    """
    falling = np.sort(scores)[::-1]
    counts = np.arange(LEAST, len(scores) + 1)
    expected = np.cumsum(1 - falling)[counts - 1]
    passing = (binom.cdf(np.arange(n + 1), n, risk) <= 1 - confidence for n in counts)
    most = np.array([each.sum() - 1 for each in passing])
    likely = np.where(most >= 0, poisson.cdf(most, expected), -1.0)
    below = np.append(falling, 0.0)[counts]
    return np.where(below > 0, np.nextafter(below, 1), 0.0)[likely.argmax() :]


def main():
    from mapie.risk_control import BinaryClassificationController, BinaryClassificationRisk

    wrong_answers = BinaryClassificationRisk(
        risk_occurrence=lambda y_true, y_pred: y_pred.ravel() != y_true.ravel(),
        risk_condition=lambda y_true, y_pred: y_pred.ravel() == 1,
        higher_is_better=False,
    )
    answers = {"version": version("mapie")}
    for name, (_, _, risk, confidence) in CASES.items():
        scores, wrong = rows_of(name)
        controller = BinaryClassificationController(
            lambda x: np.column_stack([1 - x, x]),
            wrong_answers,
            risk,
            confidence,
            best_predict_param_choice="recall",
            list_predict_params=candidates(scores, risk, confidence),
            fwer_method="fixed_sequence",
        )
        controller.calibrate(scores, (~wrong).astype(int))
        valid = controller.valid_predict_params
        answers[name] = {
            "threshold": float(min(valid)) if len(valid) else None,
            "p": np.ravel(controller.p_values).round(6).tolist(),
        }
    GOLDEN.write_text(json.dumps(answers) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
