"""Sample logs of lm-evaluation-harness, in the formats of its versions."""

import json

import numpy as np
import pytest
from refusal import refused

from bayeslora.metrics.evaluate import evaluate
from bayeslora.predictions.record import Predictions

NAME = "samples_toy_task_2026-01-31T10-20-30.123456.jsonl"
QUESTIONS = [
    # question, options, index of the correct option, log-likelihoods
    ("What barks?", ["a dog", "a cat", "rain"], 0, [-1.0, -2.5, -9.0]),
    ("What is wet?", ["bread", "rain", "a hot stone"], 1, [-4.0, -3.5, -6.0]),
    ("What purrs?", ["a dog", "a cat", "a warm loaf of bread"], 2, [-7.0, -2.0, -8.5]),
]


def sample(number, question, options, target, scores, *, new=True, texts=True, **changes):
    """Return a line as written by `--log_samples`; `new` writes numbers as text."""
    context = f"Question: {question}\nAnswer:"
    pairs = [(context, f" {option}") for option in options]
    responses = [[str(s), "False"] if new else [s, False] for s in scores]
    keyed = {f"gen_args_{k}": {"arg_0": a, "arg_1": b} for k, (a, b) in enumerate(pairs)}
    record = {
        "doc_id": number,
        "doc": {"question": question, "choices": options, "source": f"book {number}"},
        "target": str(target) if new else target,
        "arguments": keyed if new else [list(pair) for pair in pairs],
        "resps": [[response] for response in responses],
        "filtered_resps": responses,
        "doc_hash": "0" * 64,
        "acc": float(np.argmax(scores) == target),
    }
    if new:
        record |= {"filter": "none", "metrics": ["acc"]}
    if not texts:
        del record["arguments"]
    return record | changes


def log(tmp_path, lines, name=NAME):
    path = tmp_path / "org__tiny-model" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def toy(tmp_path, *, new=True, **changes):
    lines = [sample(k, *parts, new=new, **changes) for k, parts in enumerate(QUESTIONS)]
    return log(tmp_path, lines)


@pytest.mark.parametrize("new", [True, False])
def test_both_forms_read_the_same(tmp_path, new):
    predictions = Predictions.load(toy(tmp_path, new=new))
    weights = np.exp([scores for *_, scores in QUESTIONS])
    expected = weights / weights.sum(1, keepdims=True)
    np.testing.assert_allclose(predictions.probs, expected, rtol=1e-12)  # exp of ten at most
    assert predictions.classes == ("A", "B", "C")
    assert predictions.labels.tolist() == [0, 1, 2]
    assert predictions.ids == ("0", "1", "2")
    assert predictions.name == "tiny-model toy_task"
    assert predictions.metadata["task"] == "toy_task"


def test_scores_are_the_harness_s_own(tmp_path):
    path = toy(tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    scores = evaluate(path, num_resamples=2)
    assert scores["accuracy"].value == pytest.approx(np.mean([line["acc"] for line in lines]))
    weights = np.exp([scores for *_, scores in QUESTIONS])
    errors = weights / weights.sum(1, keepdims=True) - np.eye(3)
    assert scores["brier"].value == pytest.approx(np.mean((errors**2).sum(1)), rel=1e-12)


def test_options_that_a_question_lacks_have_no_probability(tmp_path):
    lines = [
        sample(0, "Which?", ["x", "y"], 1, [-1.0, -2.0]),
        sample(1, "Which?", ["x", "y", "z", "w"], 3, [-3.0, -2.0, -1.0, -4.0]),
    ]
    predictions = Predictions.load(log(tmp_path, lines))
    assert predictions.classes == ("A", "B", "C", "D")
    assert predictions.probs[0, 2:].tolist() == [0, 0]
    scores = evaluate(predictions, ood={"same": predictions}, num_resamples=5)
    assert all(np.isfinite(score.value) for score in scores.scores.values())
    assert predictions.uncertainty("entropy")[0] <= np.log(2)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([0, 1, 2], [0, 1, 2]),
        (["0", "1", "2"], [0, 1, 2]),
        ([[0], "[1]", 2], [0, 1, 2]),
        (["A", "b", "(C)"], [0, 1, 2]),
        (["a dog", " rain", "a cat"], [0, 1, 1]),
        ([None, "", "-1"], None),
        (["1", None, "-100"], [1, -1, -1]),
    ],
)
def test_a_target_is_an_index_a_letter_or_a_text(tmp_path, targets, expected):
    lines = [
        sample(k, *parts, acc="?", target_hash="") | {"target": target}
        for k, (parts, target) in enumerate(zip(QUESTIONS, targets, strict=True))
    ]
    labels = Predictions.load(log(tmp_path, lines)).labels
    assert labels is None if expected is None else labels.tolist() == expected


def test_fields_of_the_document_are_kept_where_they_are_asked_for(tmp_path):
    predictions = Predictions.load(toy(tmp_path), columns=["question", "source"])
    assert list(predictions.columns["question"]) == [question for question, *_ in QUESTIONS]
    assert list(predictions.columns["source"]) == ["book 0", "book 1", "book 2"]
    with refused("unknown", "'sauce'", "'source'"):
        Predictions.load(toy(tmp_path), columns=["sauce"])


LINE = sample(0, *QUESTIONS[0])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"filtered_resps": ["It barks."]}, ("row 2", "'It barks.'")),
        ({"filtered_resps": [["42"]], "arguments": [["q", {"until": []}]]}, ("log-likelihoods",)),
        ({"filtered_resps": [["-1.0", "False"]]}, ("row 2",)),
        ({"filtered_resps": []}, ("row 2",)),
        (
            {"filtered_resps": [["inf", "False"], ["-1", "False"]]},
            ("row 2, column 'logit_a dog': inf",),
        ),
        ({"target": "3"}, ("row 2, 'target': '3'",)),
        ({"target": "maybe"}, ("row 2, 'target': 'maybe'",)),
        ({"target": "[0, 2]"}, ("row 2, 'target': '[0, 2]'",)),
        ({"target": [0, 2]}, ("row 2, 'target': '[0, 2]'",)),
        ({"doc_id": 0}, ("row 2: id '0'", "row 1")),
    ],
)
def test_a_wrong_line_is_named(tmp_path, changes, named):
    path = log(tmp_path, [LINE, {**LINE, "doc_id": 1, **changes}])
    with refused("input", *named):
        Predictions.load(path)
