"""What people type first, with the libraries that they use."""

import json
import os
import subprocess
import sys

import datasets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fake_hub import fake_hub
from refusal import refused
from sklearn.base import clone
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from tiny import tiny_classifier, toy_rows
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from usage import from_transformers, new, same

import bayeslora as bl
from bayeslora.sklearn import TextClassifier

ROWS = toy_rows(24)
TEXTS = [row["text"] for row in ROWS]
LABELS = [row["label"] for row in ROWS]
CLASSES = sorted({*LABELS})


def quick(llama):
    return new(llama, "none", "map")


@pytest.fixture(scope="module")
def expected(llama):
    return quick(llama).fit((TEXTS, LABELS)).predict(TEXTS)


@pytest.mark.parametrize(
    "data",
    [
        (TEXTS, LABELS),
        (pd.Series(TEXTS, index=range(5, 29)), pd.Series(LABELS, index=range(5, 29))),
        (np.array(TEXTS), np.array(LABELS)),
        (pd.Series(TEXTS, dtype="string"), pd.Series(LABELS, dtype="category")),
    ],
    ids=["lists", "series", "arrays", "categories"],
)
def test_labels_are_a_second_argument(data, llama, expected):
    assert same(quick(llama).fit(*data).predict(TEXTS), expected)


def of_datasets():
    names = datasets.ClassLabel(names=CLASSES)
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    codes = [CLASSES.index(label) for label in LABELS]
    return datasets.Dataset.from_dict({"text": TEXTS, "label": codes}, features=features)


@pytest.mark.parametrize("change", [lambda rows: rows, lambda rows: rows.to_iterable_dataset()])
def test_a_dataset_keeps_the_names_of_its_classes(change, llama, expected):
    assert same(quick(llama).fit(change(of_datasets())).predict(TEXTS), expected)


def test_booleans_are_labels(llama):
    model = quick(llama).fit(TEXTS, [label == CLASSES[0] for label in LABELS])
    assert model.classes == ("False", "True")


def test_scores_of_arrays_are_those_of_scikit_learn():
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 24)
    for labels, table in (
        (LABELS, probs),
        (pd.Series(LABELS), pd.DataFrame(probs, columns=CLASSES)),
    ):
        scores = bl.evaluate(labels, table)
        assert scores["nll"].value == pytest.approx(log_loss(LABELS, probs), rel=1e-9)
        assert scores.class_names == tuple(CLASSES)


def test_probabilities_of_the_second_class_are_enough():
    labels = np.arange(24) % 2
    probs = np.random.default_rng(0).uniform(0.1, 0.9, 24)
    for values, kind in (
        (probs, "probs"),
        (np.log(probs / (1 - probs)), "logits"),
        (np.log(probs), "logprobs"),
    ):
        predictions = bl.Predictions.from_arrays(values, labels, kind=kind)
        np.testing.assert_allclose(predictions.probs[:, 1], probs, rtol=1e-12)
    assert bl.evaluate(labels, probs)["nll"].value == pytest.approx(log_loss(labels, probs))


def test_sums_may_differ_and_logits_may_be_minus_infinity():
    scaled = bl.Predictions.from_arrays([[2, 1], [1, 3]], [3, 7], renormalise=True)
    assert scaled.classes == ("3", "7")
    np.testing.assert_allclose(scaled.probs, [[2 / 3, 1 / 3], [1 / 4, 3 / 4]])
    assert bl.Predictions.from_arrays([[0, -np.inf]], kind="logits").probs.tolist() == [[1, 0]]
    with pytest.raises(bl.InputError, match="row 1"):
        bl.Predictions.from_arrays([[-np.inf, -np.inf]], kind="logits")


@pytest.fixture(scope="module")
def pipe(foreign):
    model = AutoModelForSequenceClassification.from_pretrained(foreign).eval()
    return pipeline(
        "text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(foreign)
    )


def test_a_pipeline_is_scored_and_calibrated(pipe, foreign):
    made = bl.Predictions.from_pipeline(pipe(TEXTS, top_k=None), LABELS)
    wrapped = from_transformers(pipe, "mle").calibrate(ROWS)
    there = from_transformers(foreign, "mle").calibrate(ROWS).predict(ROWS)
    assert same(wrapped.predict(ROWS), there)
    order = [there.classes.index(name) for name in made.classes]
    np.testing.assert_allclose(made.probs, there.probs[:, order], atol=1e-5)
    for outputs in (pipe(TEXTS), [pipe(TEXTS[:1], top_k=2)[0]]):
        with pytest.raises(bl.InputError, match="top_k=None"):
            bl.Predictions.from_pipeline(outputs, classes=CLASSES)


def test_it_is_an_estimator(llama):
    model = TextClassifier(llama, "none", "map", seed=1, fit_options={"feature_scores": "none"})
    assert clone(model).get_params() == model.get_params()
    codes = np.array([CLASSES.index(label) + 5 for label in LABELS])
    steps = Pipeline([("strip", FunctionTransformer(lambda texts: texts)), ("model", model)])
    assert cross_val_score(steps, TEXTS, codes, cv=2).shape == (2,)
    search = GridSearchCV(model, {"posterior": ["map", "laplace"]}, cv=2, scoring="neg_log_loss")
    assert search.fit(np.array(TEXTS), codes).best_params_["posterior"] in {"map", "laplace"}
    assert search.classes_.tolist() == [5, 6, 7]
    assert {*search.predict(TEXTS)} <= {5, 6, 7}
    two = clone(model).fit(TEXTS, codes == 5)
    display = CalibrationDisplay.from_estimator(two, TEXTS, codes == 5)
    assert len(display.prob_true)
    plt.close("all")


def test_a_model_goes_to_the_hub_and_back(model, tmp_path):
    program = (
        "import sys, bayeslora as bl\n"
        "clf = bl.BayesianClassifier.from_pretrained(sys.argv[1], device='cpu', progress=False)\n"
        "clf.push_to_hub('me/mine', private=True)\n"
        "back = bl.BayesianClassifier.from_pretrained('me/mine', device='cpu', progress=False)\n"
        "assert (back.predict_proba(['a cat']) == clf.predict_proba(['a cat'])).all()\n"
        "try:\n"
        "    bl.BayesianClassifier.from_pretrained('me/other')\n"
        "except bl.InputError as error:\n"
        "    assert 'me/other' in str(error)\n"
        "else:\n"
        "    raise SystemExit(1)\n"
        "from bayeslora.cli import main\n"
        "for name in ('me/mine', 'me/theirs'):\n"
        "    assert main(['evaluate', name, sys.argv[2], '--json']) == 0\n"
    )
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, toy_rows(12))), encoding="utf-8")
    tiny_classifier(tmp_path / "hub" / "me" / "theirs")
    with fake_hub(tmp_path / "hub") as address:
        variables = {
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": "hf_x",
        }
        subprocess.run(
            [sys.executable, "-c", program, str(model), str(rows)],
            env=os.environ | variables,
            check=True,
        )


def test_labels_may_be_in_another_column_and_a_misspelt_one_is_refused(tmp_path):
    table = {"target": ["b", "a"], "prob_a": [0.2, 0.7], "prob_b": [0.8, 0.3]}
    scores = bl.evaluate(table, label_column="target")
    assert (scores.n_labelled, scores["accuracy"].value) == (2, 1.0)
    path = tmp_path / "p.csv"
    path.write_text("target,p\nb,0.8\na,0.3\n")
    columns = {"label_column": "target", "probability_columns": {"p": "b"}}
    loaded = bl.Predictions.load(path, **columns)
    assert [loaded.classes[label] for label in loaded.labels] == ["b", "a"]
    with refused("unknown", "'targt'", "'target'"):
        bl.evaluate(table, label_column="targt")


def test_keywords_of_scikit_learn_and_sets_beside_arrays():
    probs = np.array([[0.2, 0.8], [0.7, 0.3]])
    unseen = bl.Predictions.from_arrays(probs)
    scores = bl.evaluate(y_true=["b", "a"], y_prob=probs, ood={"unseen": unseen})
    assert scores["nll"].value == pytest.approx(-np.log([0.8, 0.7]).mean())
    assert list(scores.ood) == ["unseen"]
