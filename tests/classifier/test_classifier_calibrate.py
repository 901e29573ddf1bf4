"""Posteriors for finished networks, third-party ones and our own."""

import numpy as np
import pytest
import torch
from foreign_models import logits, saved
from refusal import refused
from tiny import CLASSES, toy_rows
from usage import TEST, from_transformers, load, same

import bayeslora as bl
from bayeslora.data.columns import DataColumns
from bayeslora.engine.card import fit_options
from bayeslora.engine.cross_validation import split_off
from bayeslora.engine.data import TrainingData
from bayeslora.posteriors.types import Features

pytestmark = pytest.mark.usefixtures("few_resamples")


def probabilities(path):
    """Return the probabilities and logits of TEST by the classifier in a directory itself."""
    from transformers import AutoModelForSequenceClassification

    network = AutoModelForSequenceClassification.from_pretrained(path).eval()
    outputs = logits(network, [row["text"] for row in TEST]).double()
    return outputs.softmax(1).numpy(), outputs


@pytest.mark.parametrize("posterior", ["vbll", "temperature"])
@pytest.mark.parametrize("family", ["distilbert", "roberta"])
def test_a_new_last_layer_is_exported_to_where_the_old_one_served(tmp_path, family, posterior):
    clf = from_transformers(str(saved(family, tmp_path / "theirs")), posterior)
    clf.calibrate(toy_rows(30))
    clf.export_merged(tmp_path / "served")
    served, _ = probabilities(tmp_path / "served")
    np.testing.assert_allclose(served, clf.predict(TEST, num_samples=0).probs, atol=1e-5)
    assert (tmp_path / "served" / "README.md").is_file()


@pytest.mark.parametrize("structure", ["kron", "full"])
def test_the_mean_of_a_foreign_classifier_is_the_classifier(foreign, tmp_path, structure):
    clf = from_transformers(foreign, f"laplace:structure={structure}").calibrate(toy_rows(30))
    expected, _ = probabilities(foreign)
    predictions = clf.predict(TEST, num_samples=0)
    np.testing.assert_allclose(predictions.probs, expected, atol=1e-5)
    assert predictions.classes == CLASSES
    # Predictions without draws are those of the network, and are named so.
    assert (predictions.name, predictions.metadata["posterior"]) == ("mle", "mle")
    assert clf.predict(TEST).name == "laplace"
    # The posterior keeps the mean and adds uncertainty.
    assert (clf.predict(TEST).epistemic > 0).all()
    clf.save_pretrained(tmp_path / "model")
    assert same(load(tmp_path / "model").predict(TEST), clf.predict(TEST))


def test_a_pair_is_read_as_its_owner_reads_it(tmp_path):
    """BERT distinguishes the two texts of a pair by token types."""
    from transformers import AutoModelForSequenceClassification, BertTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "cat",
        "dog",
        "rain",
        "warm",
        "sings",
    ]
    tokenizer = BertTokenizerFast(vocab={word: place for place, word in enumerate(words)})
    path = saved("bert", tmp_path / "theirs", vocab_size=len(words), pad_token_id=0)
    tokenizer.save_pretrained(path)
    texts, pairs = ["the cat sings", "warm rain"], ["the dog", "the cat sings"]
    inputs = tokenizer(texts, pairs, padding=True, return_tensors="pt")
    assert inputs["token_type_ids"].any()
    with torch.no_grad():
        theirs = AutoModelForSequenceClassification.from_pretrained(path).eval()(**inputs).logits
    rows = [
        {"text": text, "other": pair, "label": label}
        for text, pair, label in zip(texts, pairs, CLASSES, strict=False)
    ]
    clf = from_transformers(str(path)).calibrate(rows, pair_column="other")
    probs = clf.predict(rows, num_samples=0).probs
    np.testing.assert_allclose(probs, theirs.double().softmax(1).numpy(), atol=1e-5)


def test_scores_before_are_those_of_the_classifier_as_it_came(foreign):
    train, held_out = toy_rows(30), toy_rows(15, seed=1)
    clf = from_transformers(foreign, "laplace").calibrate(train, held_out)
    before, after = clf.validation_scores
    plain = from_transformers(foreign, "mle").calibrate(train)
    assert before["nll"] == bl.evaluate(plain.predict(held_out))["nll"]
    assert after["nll"] == bl.evaluate(clf.predict(held_out))["nll"]
    assert before["nll"] != after["nll"]
    assert clf.record.results["validation"]["nll"]["before"]["value"] == before["nll"].value
    clf.calibrate(toy_rows(20, seed=2))
    assert clf.validation_scores is None
    assert "validation" not in clf.record.results


def test_held_out_rows_choose_the_temperature_as_they_do_in_fit(foreign):
    """The other rows may be the network's training rows, which do not inform the temperature."""
    train, held_out = toy_rows(30), toy_rows(15, seed=1)
    reports = {
        name: from_transformers(foreign, "temperature").calibrate(*rows).record.results["posterior"]
        for name, rows in {
            "both": (train, held_out),
            "held": (held_out,),
            "train": (train,),
        }.items()
    }
    assert reports["both"] == reports["held"] != reports["train"]


def test_held_out_rows_are_validation_rows(foreign, tmp_path):
    """As if `fit` had split them: the same rows, the same posterior."""
    rows = [*toy_rows(60, seed=9), *({**row, "id": f"again {row['id']}"} for row in toy_rows(6, 9))]
    clf = from_transformers(foreign).calibrate(rows, hold_out=0.3)
    data = TrainingData.read(rows, None, DataColumns())
    divided = split_off(data, 0.3, 0)
    apart = from_transformers(foreign).calibrate(divided.train[0], divided.validation[0])
    assert same(clf.predict(TEST), apart.predict(TEST))
    calibration = clf.record.results["calibration"]
    assert calibration == apart.record.results["calibration"] | {"hold_out": 0.3}
    assert calibration["rows"] + calibration["validation_rows"] == 66
    assert fit_options(clf.record) == fit_options(apart.record)
    clf.save_pretrained(tmp_path / "model")
    assert load(tmp_path / "model").record.results["calibration"] == calibration


def test_predictions_of_the_rows_it_was_fitted_to_are_noted(foreign, caplog):
    rows, others = toy_rows(40, seed=9), toy_rows(40, seed=10)
    clf = from_transformers(foreign)
    for posterior, options, data, notes in (
        ("laplace", {}, rows, 1),
        ("laplace", {"hold_out": 0.3}, rows, 1),
        ("laplace", {}, others, 0),
        ("laplace", {}, [row["text"] for row in rows], 0),
        ("mle", {}, rows, 0),
    ):
        clf.calibrate(rows, posterior=posterior, **options)
        caplog.clear()
        clf.predict(data)
        assert len(caplog.records) == notes, posterior


@pytest.fixture
def nameless(tmp_path):
    names = {index: f"LABEL_{index}" for index in range(3)}
    return str(saved("bert", tmp_path / "nameless", id2label=names, label2id=None))


def test_named_classes_are_kept(nameless, tmp_path):
    rows = toy_rows(12)
    named = from_transformers(nameless, classes=CLASSES).calibrate(rows)
    for label in (int, str, "LABEL_{}".format):
        numbered = [{**row, "label": label(CLASSES.index(row["label"]))} for row in rows]
        other = from_transformers(nameless).calibrate(numbered)
        assert same(named.predict(TEST), other.predict([{"text": row["text"]} for row in TEST]))
    named.save_pretrained(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.classes == CLASSES
    assert same(again.predict(TEST), named.predict(TEST))


def test_labels_beyond_the_outputs_are_refused(nameless):
    rows = [{"text": f"the cat {label}", "label": label} for label in (0, 1, 2, 3)]
    with refused("unknown", "label 3"):
        from_transformers(nameless).calibrate(rows)


def test_a_bias_has_the_prior_of_any_weight(foreign):
    """It is the weight of a constant 1, so its variance is at most 1/δ, and not zero."""
    clf = from_transformers(foreign, "laplace:structure=full").calibrate(toy_rows(30))
    head, encoder = clf.network.head, clf.network.encoder
    width = encoder.num_features
    nothing, constant = torch.zeros(2, 1, width)
    constant[:, -1] = 1
    prior = 1 / float(head.precision)
    assert not head.predict(Features(nothing)).variance.any()
    bias = head.predict(Features(constant)).variance
    assert (bias > 0).all()
    # Above the bound only by rounding, where the rows carry no information on a contrast.
    assert (bias <= prior * (1 + 1e-9)).all()
    final = encoder.model.classifier.bias.double()
    torch.testing.assert_close(head.predict(Features(constant)).mean[0], final, atol=1e-6, rtol=0)


def test_every_row_is_run_once(foreign, monkeypatch):
    counts = []
    clf = from_transformers(foreign)
    encoder = type(clf.network.encoder)
    features = encoder.features_and_middle

    def counted(self, prepared, **options):
        counts.append(len(prepared))
        return features(self, prepared, **options)

    monkeypatch.setattr(encoder, "features_and_middle", counted)
    clf.calibrate(toy_rows(30), toy_rows(20, seed=3))
    assert sorted(counts) == [20, 30]
    before, after = clf.validation_scores
    assert str(after) == str(bl.evaluate(clf.predict(toy_rows(20, seed=3))))
    assert str(before) != str(after)


@pytest.mark.parametrize("posterior", ["laplace", "vbll", "nuts", "gvbll", "temperature"])
def test_what_is_not_calibrated_neither_answers_nor_is_saved(foreign, tmp_path, posterior):
    clf = from_transformers(foreign, posterior)
    for use in (lambda: clf.predict(TEST), lambda: clf.save_pretrained(tmp_path / "model")):
        with refused("not-fitted"):
            use()
    assert not (tmp_path / "model").exists()


def test_a_classifier_that_went_on_training_in_memory_is_not_saved(foreign, tmp_path):
    """Loading would later read the network in its directory instead."""
    from transformers import AutoModelForSequenceClassification

    theirs = AutoModelForSequenceClassification.from_pretrained(foreign)
    clf = from_transformers(theirs).calibrate(toy_rows(20))
    clf.save_pretrained(tmp_path / "same")
    assert same(load(tmp_path / "same").predict(TEST), clf.predict(TEST))
    with torch.no_grad():
        theirs.classifier.weight.add_(0.1)
    clf = from_transformers(theirs).calibrate(toy_rows(20))
    with refused("input", foreign, "save_pretrained"):
        clf.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_rows_of_one_class_are_refused(foreign):
    with refused("input", "20 rows", "'animals'"):
        from_transformers(foreign).calibrate(
            [row for row in toy_rows(60) if row["label"] == "animals"]
        )
