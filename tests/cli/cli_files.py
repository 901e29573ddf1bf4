"""Data and predictions files that tests of the command line read."""

import json

import numpy as np

from bayeslora.predictions.record import Predictions

NOWHERE = "/nowhere/backbone"
GOOD = '{"text": "a cat", "label": "x"}\n{"text": "a dog", "label": "y"}\n'

DATA = {
    "missing file": (None, ["data.jsonl does not exist"]),
    "empty file": (b"", ["data.jsonl", "empty"]),
    "blank file": (b"\n \n", ["data.jsonl", "empty"]),
    "encoding": (GOOD.encode() + b'{"text": "caf\xe9"}', ["row 3", "0xe9", "UTF-8"]),
    "broken line": (GOOD.encode() + b'{"text": "a\n', ["data.jsonl", "3"]),
    "no object": (b"[1, 2]\n", ["data.jsonl"]),
    "no text column": (
        b'{"txet": "a", "label": "x"}\n',
        ["no column 'text'", "did you mean 'txet'", "--text-column"],
    ),
    "no label column": (b'{"text": "a"}\n', ["no column 'label'", "'text'", "--label-column"]),
    "empty text": (GOOD.encode() + b'{"text": "", "label": "x"}', ["row 3", "'text'", "blank"]),
    "blank text": (GOOD.encode() + b'{"text": " ", "label": "x"}', ["row 3", "'text'", "blank"]),
    "number for text": (b'{"text": 5, "label": "x"}\n', ["row 1", "'text'", "5", "not a string"]),
    "missing label": (
        GOOD.encode() + b'{"text": "a", "label": null}',
        ["row 3", "'label'", "missing"],
    ),
    "NaN label": (
        GOOD.encode() + b'{"text": "a", "label": NaN}',
        ["row 3"],
    ),
    "fractional label": (b'{"text": "a", "label": 0.5}\n', ["row 1", "'label'", "0.5", "integer"]),
    "one class": (
        b'{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}',
        ["all 2 rows", "'x'", "two classes"],
    ),
    "mixed labels": (
        b'{"text": "a", "label": "x"}\n{"text": "b", "label": 1}',
        ["row 2", "integer label 1", "row 1", "'x'"],
    ),
    "repeated id": (
        b'{"id": 1, "text": "a", "label": "x"}\n{"id": 1, "text": "b", "label": "y"}',
        ["row 2", "'id'", "row 1"],
    ),
    "one option": (
        b'{"question": "a", "choices": ["b"], "answer_index": 0}',
        ["row 1", "'choices'", "2"],
    ),
}
"""Bad content of `data.jsonl` by case, with parts of the message."""


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
