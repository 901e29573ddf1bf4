"""Fit and predict, as a user calls them."""

import logging

import numpy as np
import pytest
from refusal import refused
from tiny import CLASSES, toy_rows
from usage import TEST, fitted, load, new, same

import bayeslora as bl
from bayeslora.data.read import read


def test_predictions_carry_everything(shared):
    predictions = shared.predict(TEST)
    assert predictions.classes == CLASSES == shared.classes
    assert predictions.ids == tuple(row["id"] for row in TEST)
    assert [CLASSES[label] for label in predictions.labels] == [row["label"] for row in TEST]
    np.testing.assert_allclose(predictions.probs.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(
        predictions.total, predictions.aleatoric + predictions.epistemic, atol=1e-12
    )
    assert (predictions.epistemic > 0).all()
    assert (predictions.scores["logit_variance"] > 0).all()
    assert predictions.name == "polar-vbll"
    assert predictions.metadata["link"] == "mc"
    assert predictions.metadata["num_samples"] == "1000"
    assert len(predictions.metadata["model_fingerprint"]) == 32
    assert predictions.metadata["passes"] == "1"
    assert predictions.metadata["posterior_summary"]


def test_the_mean_weights_are_deterministic_and_certain(shared):
    first, second = (shared.predict(TEST, num_samples=0, seed=seed) for seed in (0, 1))
    assert same(first, second)
    assert not first.epistemic.any()
    sampled = [shared.predict(TEST, seed=seed) for seed in (0, 0, 1)]
    assert same(sampled[0], sampled[1])
    assert not same(sampled[0], sampled[2])


def test_labels_are_optional_and_may_be_partly_there(shared):
    bare = [{"text": row["text"]} for row in TEST]
    assert shared.predict(bare).labels is None
    mixed = [{**row, "label": row["label"] if n % 2 else None} for n, row in enumerate(TEST)]
    predictions = shared.predict(mixed)
    assert [label >= 0 for label in predictions.labels] == [bool(n % 2) for n in range(len(TEST))]


def test_unknown_labels_are_an_error_or_out_of_distribution(shared):
    rows = [TEST[0], {**TEST[1], "label": "sports"}]
    with refused("unknown", "row 2", "'label'", "'sports'"):
        shared.predict(rows)
    predictions = shared.predict(rows, unknown_labels="ood")
    assert predictions.labels[0] >= 0
    assert predictions.labels[1] == -1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": -1}, "num_samples must be"),
        ({"link": "probitt"}, "link must be 'mc' or 'probit'"),
        ({"unknown_labels": "skip"}, "must be 'error' or 'ood', got 'skip'"),
    ],
)
def test_prediction_options_are_checked(shared, options, message):
    with pytest.raises(bl.InputError) as caught:
        shared.predict(TEST, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("link", ["mc", "probit", "bridge"])
def test_links_are_chosen_and_remembered(shared, link):
    predictions = shared.predict(TEST, link=link)
    assert predictions.metadata["link"] == link
    assert (link == "mc") == same(predictions, shared.predict(TEST))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapter": "lorra"}, "unknown adapter 'lorra' (did you mean 'lora'?)"),
        ({"posterior": "vbl"}, "unknown posterior 'vbl' (did you mean 'vbll'?)"),
        ({"posterior": "vbll:links=mc"}, "posterior 'vbll': unknown option 'links'"),
        ({"adapter": None}, "adapter must be a name"),
        ({"max_length": 0}, "max_length must be"),
    ],
)
def test_options_are_checked_at_once(options, message):
    with pytest.raises(bl.InputError) as caught:
        new("minilm", **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("use", ["predict", "save", "calibrate", "classes", "record"])
def test_nothing_works_before_a_fit(tmp_path, use):
    clf = new("minilm")
    uses = {
        "predict": lambda: clf.predict(TEST),
        "save": lambda: clf.save_pretrained(tmp_path / "model"),
        "calibrate": lambda: clf.calibrate(TEST),
        "classes": lambda: clf.classes,
        "record": lambda: clf.record,
    }
    with refused("not-fitted"):
        uses[use]()
    assert list(tmp_path.iterdir()) == []


def test_a_fit_that_fails_leaves_the_earlier_one(shared):
    before = shared.predict(TEST)
    with pytest.raises(bl.InputError):
        shared.fit([{"text": "a", "label": "x"}])
    assert same(shared.predict(TEST), before)


def test_other_columns_and_pairs(llama, tmp_path):
    def renamed(rows):
        return [{"premise": row["text"], "claim": "is it", "topic": row["label"]} for row in rows]

    clf = new(llama).fit(
        renamed(toy_rows(24)),
        epochs=1,
        text_column="premise",
        label_column="topic",
        pair_column="claim",
    )
    clf.save_pretrained(tmp_path / "model")
    predictions = load(tmp_path / "model").predict(renamed(TEST))
    assert same(predictions, clf.predict(renamed(TEST)))
    assert [CLASSES[label] for label in predictions.labels] == [row["label"] for row in TEST]
    with refused("unknown", "'premise'", "text_column"):
        clf.predict(TEST)
    with refused("input", "'nope'"):
        clf.predict(renamed(TEST), label_column="nope")
    moved = [{"text": row["text"], "claim": "is it", "label": row["label"]} for row in TEST]
    assert same(clf.predict(moved, text_column="text", label_column="label"), predictions)


@pytest.mark.usefixtures("terminal")
def test_stdout_stays_empty_and_progress_is_on_stderr(llama, capsys, caplog):
    caplog.set_level(logging.WARNING)
    fitted(llama).predict(TEST)
    assert capsys.readouterr() == ("", "")
    fitted(llama, progress=True).predict(TEST)
    shown = capsys.readouterr()
    assert shown.out == ""
    for title in ("frozen layers", "fit", "predict"):
        assert title in shown.err


def test_columns_of_the_data_go_with_the_predictions(shared):
    rows = [{**row, "source": f"s{k % 2}"} for k, row in enumerate(TEST)]
    predictions = shared.predict(rows, keep=("source",))
    assert list(predictions.columns["source"]) == [row["source"] for row in rows]
    assert not shared.predict(rows).columns
    assert list(shared.predict(rows, keep="source").columns) == ["source"]
    examples = read(rows, keep=["source"])
    assert list(shared.predict(examples, keep=("text",)).columns) == ["text"]
    with refused("input", "'confidence'"):
        shared.predict(rows, keep=("confidence",))
    with refused("unknown", "'where'"):
        shared.predict(examples, keep=("where",))
