"""Data and predictions files that tests of the command line read."""

import json

import numpy as np

from bayeslora.predictions.record import Predictions

NOWHERE = "/nowhere/backbone"
GOOD = '{"text": "a cat", "label": "x"}\n{"text": "a dog", "label": "y"}\n'


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def fake(path, *, rows=60, seed=0, name="", sharp=2.0, outside=False, ids="row-", **parts):
    """Write predictions whose labels are drawn from probabilities less sharp than stated.

    Rows with the same `ids` have the same labels for every seed.
    """
    classes = ("a", "b", "c")
    labels = np.arange(rows) % 3
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, 3))
    logits[np.arange(rows), labels] += 0.0 if outside else 1.0
    probs = np.exp(sharp * logits)
    probs /= probs.sum(1, keepdims=True)
    epistemic = generator.random(rows) + (0.5 if outside else 0.0)
    predictions = Predictions(
        probs,
        classes,
        None if outside else labels,
        ids=tuple(f"{ids}{row}" for row in range(rows)),
        epistemic=epistemic,
        name=name or path.stem,
        **parts,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    predictions.save(path)
    return path
