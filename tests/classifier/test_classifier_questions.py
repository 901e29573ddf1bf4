"""Questions with options from fit to file, in both formats, with every posterior."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from record_lm_eval import COUNT, FILE, SEED
from refusal import refused
from tiny import lettered_llama, toy_next_items, toy_questions, toy_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

import bayeslora as bl
from bayeslora.cli import main
from bayeslora.data.examples import data_hash
from bayeslora.data.questions import with_shuffled_options
from bayeslora.data.read import read
from bayeslora.posteriors.registry import POSTERIORS


def nll(predictions):
    return bl.evaluate(predictions)["nll"].value


FORMATS = ("letters", "options")
SHORT = {"nuts": "nuts:num_chains=1,num_warmup=60,num_samples=60", "vbll": "vbll:prior_scale=2"}
REFUSED = {("options", "nuts"), ("options", "gvbll"), ("options", "prototypes")}
OPTIONS = {"progress": False, "max_length": 48}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(lettered_llama(tmp_path_factory.mktemp("questions") / "model"))


@pytest.fixture(scope="module")
def fitted(model):
    """Return a fitted classifier for each format."""
    return {
        format: bl.BayesianClassifier(
            model, "lora:r=2,lr=1e-2", "vbll:prior_scale=2", format=format, **OPTIONS
        ).fit(toy_questions(48), epochs=2, cv=0)
        for format in FORMATS
    }


PAIRS = [("options", name) for name in POSTERIORS]
# With letters, last layers and draws are those for classes: one posterior of each kind.
PAIRS += [("letters", name) for name in ("vbll", "gvbll", "laplace_lora", "ensemble", "blob")]


@pytest.mark.parametrize(("format", "name"), PAIRS)
def test_every_posterior_answers_or_says_why_not(model, tmp_path, format, name):
    clf = bl.BayesianClassifier(
        model, "lora:r=2,lr=1e-2", SHORT.get(name, name), format=format, **OPTIONS
    )
    train, validation = toy_questions(36), toy_questions(18, 1)
    if (format, name) in REFUSED:
        with refused("not-on-options", f"'{name}'"):
            clf.fit(train, validation, epochs=1)
        return
    clf.fit(train, validation, epochs=1)
    predictions = clf.predict(
        toy_questions(12, 2), num_samples=2 if clf.posterior.is_sampled else None
    )
    assert predictions.classes == ("A", "B", "C")
    absent = ~predictions.available
    assert not predictions.probs[absent].any()
    assert absent.sum() == sum(len(row["choices"]) == 2 for row in toy_questions(12, 2))
    assert np.isfinite([predictions.scores[score] for score in ("logit_variance", "energy")]).all()
    clf.save_pretrained(tmp_path / "saved")
    again = bl.BayesianClassifier.from_pretrained(tmp_path / "saved", progress=False)
    samples = 2 if clf.posterior.is_sampled else None
    np.testing.assert_array_equal(
        again.predict(toy_questions(12, 2), num_samples=samples).probs, predictions.probs
    )


def test_an_order_of_options_is_as_good_as_another(fitted):
    clf, rows = fitted["options"], toy_questions(8, 4)
    turned = [row | {"choices": row["choices"][::-1]} for row in rows]
    for row in turned:
        row["answer"] = len(row["choices"]) - 1 - row["answer"]
    predictions, moved = (clf.predict(data, num_samples=0) for data in (rows, turned))
    for place, row in enumerate(rows):
        count = len(row["choices"])
        np.testing.assert_allclose(
            moved.probs[place, :count][::-1], predictions.probs[place, :count], atol=1e-6
        )


def test_options_may_be_more_than_those_of_the_fit_and_letters_may_not(fitted):
    row = {
        "id": "wide",
        "question": "cat dog",
        "choices": ["cat", "rain", "soup", "snow"],
        "answer": 0,
    }
    predictions = fitted["options"].predict([row, *toy_questions(2, 5)])
    assert predictions.classes == ("A", "B", "C", "D")
    assert predictions.probs[0].min() > 0
    with refused("input", "row 1", "4 options"):
        fitted["letters"].predict([row])


@torch.no_grad()
@pytest.mark.parametrize("format", FORMATS)
def test_without_a_label_the_answers_are_lm_evaluation_harnesss(model, format):
    """Compare with its log-likelihoods of letters, or of options divided by their tokens."""
    rows = toy_questions(COUNT, SEED)
    recorded = iter(json.loads(Path(FILE).read_text())[format])
    clf = bl.BayesianClassifier(model, format=format, progress=False, dtype="float32")
    predictions = clf.zero_shot(texts=rows).predict(rows)
    for place, row in enumerate(rows):
        options = row["choices"]
        scores = np.array([next(recorded) for _ in options])
        if format == "options":  # for the tiny tokenizer, a word is a token
            scores /= [len(option.split()) for option in options]
        expected = np.exp(scores - np.logaddexp.reduce(scores))
        np.testing.assert_allclose(predictions.probs[place, : len(options)], expected, atol=1e-5)
    assert next(recorded, None) is None


def blanks(n, seed=0):
    """Return questions whose options fill a blank, as in WinoGrande."""
    return [
        {**row, "question": f"the {row['question']} _ is here", "choices": row["choices"][:2]}
        | {"answer": row["answer"] % 2}
        for row in toy_questions(n, seed)
    ]


def test_a_sentence_with_a_blank_is_filled(model, tmp_path):
    rows = blanks(12, 4)
    clf = bl.BayesianClassifier(model, progress=False, dtype="float32", max_length=48)
    predictions = clf.zero_shot(texts=rows).predict(rows)
    assert clf.record.backbone["template"] == "Sentence: {filled}"
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model).eval()
    for place, row in enumerate(rows):
        before, _, after = row["question"].partition(" _")
        scores = []
        for option in row["choices"]:
            ids = tokenizer(f"Sentence: {before} {option}{after}", return_tensors="pt")["input_ids"]
            with torch.no_grad():
                logs = network(ids).logits[0].log_softmax(-1)
            scores.append(logs[torch.arange(-3, -1), ids[0, -2:]].mean())  # "is here"
        expected = torch.stack(scores).softmax(0)
        np.testing.assert_allclose(predictions.probs[place], expected, atol=1e-5)

    clf = bl.BayesianClassifier(model, "lora:r=2,lr=1e-2", "vbll:prior_scale=2", **OPTIONS)
    predictions = clf.fit(blanks(24), blanks(8, 2), epochs=1).predict(rows)
    clf.save_pretrained(tmp_path / "model")
    again = bl.BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    np.testing.assert_array_equal(again.predict(rows).probs, predictions.probs)
    assert again.record.backbone["template"] == "Sentence: {filled}"
    assert len(again.predict(toy_questions(3))) == 3


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_questions_from_the_command_line(model, tmp_path, capsys):
    train = _write(tmp_path / "train.jsonl", toy_questions(30))
    test = _write(tmp_path / "test.jsonl", toy_questions(12, 1))
    out = str(tmp_path / "model")
    options = ["--backbone", model, "--adapter", "lora:r=2", "--epochs", "1", "--cv", "0"]
    assert main(["fit", train, "--out", out, *options, "--max-length", "48", "--quiet"]) == 0
    assert main(["predict", out, test, "--out", str(tmp_path / "p.csv"), "--quiet"]) == 0
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["prob_C"] == "" for row in rows} == {True, False}
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "p.csv"), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["n"] == 12 if isinstance(scores, dict) else scores[0]["n"] == 12


BAD = [
    (("--set", "format=letters"), toy_rows(6), "format"),
    (("--depth", "2"), None, "all layers"),
    (("--posterior", "gvbll:shrinkage=0.5,inflation=1"), None, "gvbll"),
    (("--posterior", "vbll:covariance=eigenbasis"), None, "eigenbasis"),
]


@pytest.mark.parametrize(("options", "rows", "why"), BAD)
def test_what_cannot_be_is_refused(model, tmp_path, capsys, options, rows, why):
    train = _write(tmp_path / "train.jsonl", toy_questions(12) if rows is None else rows)
    out = tmp_path / "model"
    words = ["fit", train, "--out", str(out), "--backbone", model, "--quiet", *options]
    assert main(words) == 2
    assert why in capsys.readouterr().err
    assert not out.exists()


def test_a_model_of_texts_takes_no_questions_and_the_reverse(fitted, model):
    texts = bl.BayesianClassifier(model, "none", "mle", **OPTIONS).fit(toy_rows(9))
    with refused("input", "--text-column"):
        texts.predict(toy_questions(3))
    with refused("input", "'choices'"):
        fitted["options"].predict(toy_rows(3))


def first_is_right(n, seed=0):
    """Return next items whose answer is always the first candidate."""
    rows = []
    for row in toy_next_items(n, seed):
        others = [item for item in row["candidates"] if item != row["answer"]]
        rows.append({**row, "candidates": [row["answer"], *others]})
    return rows


def test_the_position_of_the_next_item_gives_nothing_away_in_letters(model):
    """Shuffled rows, as questions with a fixed order, give the same fit in every bit."""
    rows, test = first_is_right(36), first_is_right(12, 1)
    known, shown = read(rows), read(test)
    shuffled = replace(with_shuffled_options(known, 0), history=None)
    assert len({*shuffled.labels}) == 4

    def fitted_to(data, format="letters"):
        clf = bl.BayesianClassifier(model, "none", "laplace", format=format, **OPTIONS)
        return clf.fit(data)

    clf = fitted_to(known)
    predictions, expected = (part.predict(shown) for part in (clf, fitted_to(shuffled)))
    np.testing.assert_array_equal(predictions.probs, expected.probs)
    assert predictions.columns["choices"][0] == json.dumps(test[0]["candidates"])

    as_questions = replace(known, history=None)
    by_position = fitted_to(as_questions)
    clf.calibrate(known, posterior="map")
    by_position.calibrate(as_questions, posterior="map")
    assert by_position.predict(shown).probs[:, 0].mean() > 0.7
    assert clf.predict(shown).probs[:, 0].mean() < 0.5
    assert clf.record.data["train"] == data_hash(known)  # of the rows as the user has them
    same = (fitted_to(data, "options").predict(shown).probs for data in (known, as_questions))
    np.testing.assert_array_equal(*same)
