"""Predictions of other libraries: arrays of scikit-learn, and a plain Trainer."""

import numpy as np
import pytest
import tiny
from refusal import refused
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from bayeslora.metrics.evaluate import evaluate
from bayeslora.predictions.record import Predictions


@pytest.fixture(scope="module")
def wine():
    """Return a classifier on the scaled wine data, and held-out rows."""
    data = load_wine()
    inputs = (data.data - data.data.mean(0)) / data.data.std(0)
    names = np.array(["barolo", "grignolino", "barbera"])[data.target]
    held_out = np.arange(len(names)) % 3 == 0
    classifier = LogisticRegression(C=0.1).fit(inputs[~held_out], names[~held_out])
    return classifier, inputs[held_out], names[held_out]


def test_the_scores_of_a_scikit_learn_classifier_are_scikit_learn_s(wine):
    classifier, inputs, names = wine
    probs = classifier.predict_proba(inputs)
    made = Predictions.from_arrays(
        probs, names, classes=classifier.classes_, kind="probs", name="logistic"
    )
    assert made.classes == ("barbera", "barolo", "grignolino")
    scores = evaluate(made, num_resamples=2)
    assert scores.name == "logistic"
    close = pytest.approx  # two sums of the same terms in float64
    assert scores["accuracy"].value == close(accuracy_score(names, classifier.predict(inputs)))
    assert scores["nll"].value == close(log_loss(names, probs), rel=1e-10)
    theirs = brier_score_loss(names, probs, scale_by_half=False)
    assert scores["brier"].value == close(theirs, rel=1e-10)


def test_decision_values_are_the_same_predictions_as_logits(wine):
    classifier, inputs, names = wine
    about = {"classes": classifier.classes_, "labels": names}
    values = classifier.decision_function(inputs)
    from_logits = Predictions.from_arrays(values, kind="logits", **about)
    from_probs = Predictions.from_arrays(classifier.predict_proba(inputs), kind="probs", **about)
    np.testing.assert_allclose(from_logits.probs, from_probs.probs, rtol=1e-10)


EVEN = np.full((3, 2), 0.5)


@pytest.mark.parametrize(
    ("values", "options", "refusal"),
    [
        (EVEN, {"kind": "prob"}, ("unknown", "kind", "'prob'", "'probs'")),
        ([[1.0, 2.0]], {"kind": "probs"}, ("input", "row 1", "3")),
        ([[1.0, np.inf]], {"kind": "logits"}, ("input", "row 1, column 'logit_1': inf")),
        ([[[0.5, 0.5]]], {"kind": "probs"}, ("input", "[1, 1, 2]")),
        (EVEN, {"kind": "probs", "classes": ["a", "b", "c"]}, ("input", "3 classes", "[3, 2]")),
        (EVEN, {"kind": "probs", "classes": ["a", "a"]}, ("input", "class 2", "'a'")),
        (EVEN, {"kind": "probs", "labels": [0, 1]}, ("input", "labels", "[3]", "[2]")),
        (EVEN, {"kind": "probs", "labels": [0, 1, 2]}, ("input", "row 3, column 'label'", "'2'")),
        (EVEN, {"kind": "probs", "labels": [0, 1, 0.5]}, ("input", "row 3", "'0.5'")),
        (EVEN, {"kind": "probs", "labels": [[0], [1], [1]]}, ("input", "labels", "[3, 1]")),
        (EVEN, {"kind": "probs", "ids": ["x"]}, ("input", "1 ids", "3 rows")),
    ],
)
def test_wrong_arrays_are_named(values, options, refusal):
    with refused(*refusal):
        Predictions.from_arrays(values, **options)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Return the output of plain transformers for a tiny classifier, and its class names."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    folder = tmp_path_factory.mktemp("classifier")
    path = tiny.tiny_classifier(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path)
    rows = tiny.toy_rows(30, seed=5)
    data = [{**tokenizer(row["text"]), "labels": tiny.CLASSES.index(row["label"])} for row in rows]
    arguments = TrainingArguments(folder / "out", report_to=[], disable_tqdm=True, use_cpu=True)
    trainer = Trainer(model, arguments, data_collator=DataCollatorWithPadding(tokenizer))
    return trainer.predict(data), model.config.id2label


def test_the_output_of_a_plain_trainer(output):
    raw, names = output
    made = Predictions.from_prediction_output(raw, names, name="plain")
    assert made.classes == tiny.CLASSES
    weights = np.exp(raw.predictions.astype(np.float64))
    np.testing.assert_allclose(made.probs, weights / weights.sum(1, keepdims=True), rtol=1e-12)
    # the Trainer's own loss, in single precision, is the NLL
    nll = evaluate(made, num_resamples=2)["nll"].value
    assert nll == pytest.approx(raw.metrics["test_loss"], rel=1e-5)


def test_rows_that_transformers_ignores_have_no_label(output):
    raw, names = output
    labels = raw.label_ids.copy()
    labels[:3] = -100
    states = np.zeros((30, 2, 4))
    some = raw._replace(predictions=(raw.predictions, states), label_ids=labels)
    made = Predictions.from_prediction_output(some, {str(k): name for k, name in names.items()})
    assert made.labels[:3].tolist() == [-1, -1, -1]
    assert made.labels[3:].tolist() == labels[3:].tolist()
    assert made.classes == tiny.CLASSES
    none = raw._replace(label_ids=None)
    assert Predictions.from_prediction_output(none).labels is None


@pytest.mark.parametrize(
    ("changes", "names", "named"),
    [
        ({"predictions": np.zeros((30, 1))}, None, ("classes",)),
        ({"predictions": np.zeros((30, 5, 3))}, None, ("[30, 5, 3]",)),
        ({"label_ids": np.zeros((30, 3))}, None, ("labels", "[30, 3]")),
        ({"label_ids": np.full(30, 3)}, None, ("row 1: label 3", "2")),
        ({}, {0: "a", 2: "b"}, ("2 classes", "[30, 3]")),
        ({}, ["a", "b"], ("2 classes", "[30, 3]")),
    ],
)
def test_outputs_of_other_tasks_are_refused(output, changes, names, named):
    with refused("input", *named):
        Predictions.from_prediction_output(output[0]._replace(**changes), names)
