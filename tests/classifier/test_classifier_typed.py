"""A classifier in interactive use: texts in, probabilities out, a short repr."""

import dataclasses
import re

import numpy as np
import pytest
from tiny import CLASSES
from usage import TEST

import bayeslora as bl


def test_a_text_and_texts_are_predicted(shared):
    texts = [row["text"] for row in TEST]
    many = shared.predict(texts)
    assert len(many) == len(texts)
    assert many.labels is None
    np.testing.assert_array_equal(many.probs, shared.predict((texts, None)).probs)
    single = shared.predict(texts[0])
    assert len(single) == 1
    # Another batch rounds differently in bfloat16.
    np.testing.assert_allclose(single.probs[0], many.probs[0], atol=2e-2)
    assert single[0].prediction in CLASSES


def test_any_iterable_is_data(shared, tmp_path):
    expected = shared.predict(TEST).probs
    texts = [row["text"] for row in TEST]
    for data in ((text for text in texts), map(dict, TEST), dict(enumerate(TEST)).values()):
        np.testing.assert_array_equal(shared.predict(data).probs, expected)
    shared.predict_to_file((row for row in TEST), tmp_path / "p.parquet")
    stored = bl.Predictions.load(tmp_path / "p.parquet")
    np.testing.assert_array_equal(stored.probs, expected)
    assert stored.labels is not None
    for data in (iter([]), iter([1, 2]), {"text": "x"}, {"a text"}, b"a text", 5):
        with pytest.raises(bl.InputError):
            shared.predict(data)


def test_probabilities_alone(shared):
    probs = shared.predict_proba(TEST, num_samples=0)
    np.testing.assert_array_equal(probs, shared.predict(TEST, num_samples=0).probs)
    strangers = [{**row, "label": "sports"} for row in TEST]
    np.testing.assert_array_equal(shared.predict_proba(strangers, num_samples=0), probs)


def test_a_classifier_says_what_it_is(shared, model):
    new = bl.BayesianClassifier("smollm2-135m", "lora", "laplace")
    assert "lora + laplace on smollm2-135m: not fitted" in repr(new)
    assert "not fitted" in new._repr_html_()
    text = repr(shared)
    assert all(part in text for part in ("polar + vbll", *CLASSES, "rows"))
    assert "\n" not in text
    assert repr(bl.BayesianClassifier.from_pretrained(model, progress=False)) == text


def test_hostile_names_are_text_in_a_notebook(shared, monkeypatch):
    record = dataclasses.replace(shared.record, classes=["<script>x</script>", "b"])
    monkeypatch.setattr(shared.network, "record", record)
    html = shared._repr_html_()
    assert "<script" not in html
    assert re.search("&lt;script", html)
