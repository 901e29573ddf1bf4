"""Write `quapy.json`: the shares of classes that QuaPy finds by expectation maximisation.

pip install quapy==0.2.3
python tests/recalibration/record_quapy.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("quapy.json")
CASES = {
    # name: shares among the fit rows, shares among the new ones, distance of the classes
    "two classes": ((0.5, 0.5), (0.9, 0.1), 1.5),
    "a rare class": ((0.1, 0.6, 0.3), (0.5, 0.3, 0.2), 2.0),
    "a class that is gone": ((0.3, 0.3, 0.4), (0.5, 0.5, 0.0), 1.5),
    "no shift": ((0.2, 0.3, 0.5), (0.2, 0.3, 0.5), 1.0),
    "many classes": (tuple(range(1, 11)), tuple(range(10, 0, -1)), 2.5),
    "few rows": ((0.4, 0.6), (0.6, 0.4), 2.0),
}
SHOWN = 5
"""Rows whose probabilities are stored."""


def rows_of(name):
    """Return probabilities [N, C] under the old shares, and these shares [C]."""
    before, after, distance = CASES[name]
    before, after = (np.array(shares) / sum(shares) for shares in (before, after))
    chance = np.random.default_rng(len(name))
    rows = 30 if name == "few rows" else 600
    # Unit Gaussians at the corners of a simplex: Bayes' rule is exact.
    corners = distance * np.eye(len(before))
    labels = chance.choice(len(before), rows, p=after)
    texts = corners[labels] + chance.normal(size=(rows, len(before)))
    weighted = np.exp(texts @ corners.T) * before
    return weighted / weighted.sum(1, keepdims=True), before


def main():
    from quapy.method.aggregative import EMQ

    EMQ.MAX_ITER = 10**6
    answers = {"version": version("quapy")}
    for name in CASES:
        probs, before = rows_of(name)
        shares, posterior = EMQ.EM(before, probs, epsilon=1e-13)
        answers[name] = {"shares": shares.tolist(), "probs": posterior[:SHOWN].tolist()}
    GOLDEN.write_text(json.dumps(answers) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
