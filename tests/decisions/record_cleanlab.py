"""Write `cleanlab.json`: what cleanlab finds among rows with some wrong labels.

pip install cleanlab==2.9.0
python tests/decisions/record_cleanlab.py
"""

import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("cleanlab.json")
CASES = {
    "two classes": (300, 2, 0.1, 1.5),
    "few rows": (40, 3, 0.2, 1.0),
    "an unsure model": (500, 5, 0.05, 0.5),
    "a sure model": (600, 4, 0.08, 4.0),
    "many classes": (800, 30, 0.1, 2.0),
    "a class without a label": (200, 6, 0.1, 2.0),
}


def rows_of(name):
    """Return probabilities [N, C], labels [N], some of them wrong, and which are."""
    rows, classes, noise, sharp = CASES[name]
    chance = np.random.default_rng(len(name))
    missing = 1 if name == "a class without a label" else 0
    true = chance.integers(classes - missing, size=rows)
    logits = chance.normal(size=(rows, classes)) + sharp * np.eye(classes)[true]
    # The model prefers some classes.
    logits += np.linspace(0, 1, classes)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wrong = chance.random(rows) < noise
    other = (true + 1 + chance.integers(classes - missing - 1, size=rows)) % (classes - missing)
    return probs, np.where(wrong, other, true), wrong


def main():
    from cleanlab.count import compute_confident_joint, num_label_issues
    from cleanlab.filter import find_label_issues

    answers = {}
    for name in CASES:
        probs, labels, _ = rows_of(name)
        rows = find_label_issues(
            labels, probs, return_indices_ranked_by="self_confidence", n_jobs=1
        )
        estimate = num_label_issues(labels, probs, estimation_method="off_diagonal_calibrated")
        joint = compute_confident_joint(labels, probs)
        answers[name] = {"rows": rows.tolist(), "estimate": int(estimate), "joint": joint.tolist()}
    GOLDEN.write_text(json.dumps(answers) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
