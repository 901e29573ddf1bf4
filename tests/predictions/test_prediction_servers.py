"""Log-probabilities of language-model servers are read as predictions."""

import json
import logging
import math

import numpy as np
import pytest
from refusal import refused

from bayeslora import Predictions

PROBS = [{"yes": 0.7, "no": 0.3}, {"yes": 0.25, "no": 0.75}]
LABELS = ["yes", "yes"]


def by_class(probs):
    return {"logprobs": {name: math.log(p) for name, p in probs.items()}}


def tokens(probs):
    return [{"token": name, "logprob": math.log(p), "bytes": None} for name, p in probs.items()]


def top(probs):
    return {"top_logprobs": tokens(probs)}


def chat(probs):
    content = [{"token": "yes", "logprob": -0.1, "top_logprobs": tokens(probs)}]
    return {"object": "chat.completion", "choices": [{"logprobs": {"content": content}}]}


def completion(probs):
    listed = {name: math.log(p) for name, p in probs.items()}
    return {"choices": [{"logprobs": {"tokens": ["yes"], "top_logprobs": [listed]}}]}


def batch(probs):
    return {"custom_id": "x", "response": {"status_code": 200, "body": chat(probs)}}


def load(tmp_path, lines):
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return Predictions.load(path)


@pytest.mark.parametrize("line", [by_class, top, chat, completion, batch])
def test_lines_of_every_kind(tmp_path, line):
    rows = [
        line(probs) | {"label": label, "custom_id": str(k)}
        for k, (probs, label) in enumerate(zip(PROBS, LABELS, strict=True))
    ]
    predictions = load(tmp_path, rows)
    assert predictions.classes == ("no", "yes")
    np.testing.assert_allclose(predictions.probs, [[0.3, 0.7], [0.75, 0.25]], rtol=1e-12)
    labelled = load(tmp_path, [*rows, line(PROBS[0]) | {"label": "no", "custom_id": "2"}])
    assert labelled.labels.tolist() == [1, 1, 0]
    assert labelled.ids == ("0", "1", "2")


def test_spaces_around_a_token_and_its_case_do_not_count(tmp_path):
    predictions = load(tmp_path, [top({" yes": 0.5, "yes": 0.2, "no": 0.3})])
    np.testing.assert_allclose(predictions.probs, [[0.3, 0.7]])
    rows = [top({" YES": 0.5, "yes": 0.2, "No": 0.3}) | {"label": name} for name in ("no", "yes")]
    np.testing.assert_allclose(load(tmp_path, rows).probs, [[0.3, 0.7]] * 2)
    rows = [top({"A": 0.6, "a": 0.4}) | {"label": name} for name in ("A", "a")]  # two classes
    np.testing.assert_allclose(load(tmp_path, rows).probs, [[0.6, 0.4]] * 2)


def test_a_class_that_is_not_listed_gets_its_bound_and_other_tokens_are_left_out(tmp_path, caplog):
    rows = [
        top({"a": 0.6, "b": 0.2, "The": 0.1}) | {"label": "a"},  # c: at most 0.1
        top({"a": 0.5, "c": 0.02, "The": 0.1}) | {"label": "b"},  # b: at most 0.02
        top({"a": 0.9}) | {"label": "c"},  # b and c: 0.1 in all
    ]
    with caplog.at_level(logging.WARNING):
        probs = load(tmp_path, rows).probs
    np.testing.assert_allclose(probs[0], np.array([6, 2, 1]) / 9)
    np.testing.assert_allclose(probs[1], np.array([50, 2, 2]) / 54)
    np.testing.assert_allclose(probs[2], [0.9, 0.05, 0.05])
    assert "3 rows" in caplog.text
    assert "The" in caplog.text
    assert f"{100 * (0.1 + 0.46) / 3:.1f} %" in caplog.text


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ({"logprobs": {"yes": "x"}}, ("row 2", "'x'")),
        ({"logprobs": {"yes": -0.1, "no": "x"}}, ("row 2", "'x'")),
        ({"logprobs": {"yes": -0.3, "no": -1.2}}, ("row 2", "1.042")),
        ({"logprobs": {"yes": 0.5, "no": 0.1}}, ("row 2", "0.5")),
        ({"top_logprobs": []}, ("row 2", "[]")),
        ({"choices": [{"logprobs": None}]}, ("row 2", "choices")),
        ({"logprobs": {"maybe": -0.1}}, ("row 2", "'maybe'", "'no'")),
    ],
)
def test_a_line_without_log_probabilities_is_named(tmp_path, line, named):
    with refused("input", *named):
        load(tmp_path, [by_class(PROBS[0]) | {"label": "no"}, line | {"label": "yes"}])


def test_without_classes_it_says_what_is_missing(tmp_path):
    with refused("input", "'label'"):
        load(tmp_path, [by_class({"yes": 0.9})])
