"""The language model's own answer as a classifier, before the first label."""

import json

import numpy as np
import pytest
import torch
from tiny import CLASSES, toy_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from bayeslora.classifier import BayesianClassifier
from bayeslora.cli import main
from bayeslora.errors import InputError

pytestmark = pytest.mark.usefixtures("few_resamples")

FRAME = "today {text} is"
ROWS = toy_rows(24)
TEXTS = [row["text"] for row in ROWS]
WORDS = dict(zip(CLASSES, ("dog", "bread", "rain"), strict=True))


def classifier(backbone, **options):
    options = {"template": FRAME, "verbaliser": WORDS, "dtype": "float32", **options}
    return BayesianClassifier(backbone, progress=False, **options)


def language_model(backbone):
    """Return the softmax over the words of the classes by the model of transformers itself."""
    model = AutoModelForCausalLM.from_pretrained(backbone).eval()
    reader = AutoTokenizer.from_pretrained(backbone)
    words = [reader(word, add_special_tokens=False)["input_ids"] for word in WORDS.values()]
    assert all(len(ids) == 1 for ids in words)
    rows = []
    for text in TEXTS:
        tokens = reader([FRAME.replace("{text}", text)], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=tokens).logits[0, -1].double()
        rows.append(torch.stack([logits[ids].mean() for ids in words]))
    return torch.stack(rows)


def test_it_is_the_language_models_softmax_over_the_words(backbones, tmp_path):
    clf = classifier(backbones["llama"]).zero_shot(CLASSES, out=tmp_path / "model")
    expected = language_model(backbones["llama"]).softmax(1).numpy()
    assert expected.std() > 1e-3
    np.testing.assert_allclose(clf.predict(TEXTS).probs, expected, atol=1e-6)
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    np.testing.assert_array_equal(again.predict(TEXTS).probs, clf.predict(TEXTS).probs)
    card = (tmp_path / "model" / "README.md").read_text()
    assert all(f"`{name}` as `{word}`" in card for name, word in WORDS.items())
    # The whole answer is the language model's, and reports say so.
    assert float(clf.predict(TEXTS).metadata["prior_share"]) == 1


def test_the_mean_answer_to_the_texts_is_taken_off_and_labels_are_not_read(backbones):
    clf = classifier(backbones["llama"]).zero_shot(CLASSES, ROWS)
    logits = np.log(clf.predict(TEXTS).probs)
    np.testing.assert_allclose(logits.mean(0) - logits.mean(), 0, atol=1e-5)
    other = [{"text": row["text"], "label": "nothing"} for row in ROWS]
    twin = classifier(backbones["llama"]).zero_shot(CLASSES, other)
    np.testing.assert_array_equal(twin.predict(TEXTS).probs, clf.predict(TEXTS).probs)


def labelled(*labels):
    return [{"text": text, "gold": label} for text, label in zip(TEXTS, labels, strict=False)]


@pytest.mark.parametrize(
    ("words", "texts", "classes"),
    [
        (WORDS, None, sorted(CLASSES)),
        (WORDS, TEXTS, sorted(CLASSES)),
        (None, labelled(*CLASSES * 4), sorted(CLASSES)),
        (WORDS, labelled(*CLASSES * 4), sorted(CLASSES)),
        # Labels of a single class cannot be complete.
        (WORDS, labelled(*CLASSES[:1] * 9), sorted(CLASSES)),
        # In the order of `fit`.
        ({"2": "dog", "10": "rain"}, labelled(*[10, 2, None] * 4), ["2", "10"]),
    ],
)
def test_classes_are_those_of_the_words_and_labels(backbones, words, texts, classes):
    clf = classifier(backbones["llama"], verbaliser=words)
    clf.zero_shot(texts=texts, label_column="gold")
    assert list(clf.classes) == classes
    assert clf.record.columns["label"] == "gold"


@pytest.mark.parametrize(
    ("kind", "options", "classes", "texts"),
    [
        ("bert", {}, CLASSES, None),
        ("llama", {}, CLASSES[:1], None),
        ("llama", {"verbaliser": None}, ("food", "food"), None),
        ("llama", {"verbaliser": None}, ("a_b", "a b"), None),
        ("llama", {"verbaliser": None}, "food", None),
        ("llama", {}, CLASSES, TEXTS[:7]),
        ("llama", {"depth": 2}, CLASSES, None),
        ("llama", {"verbaliser": {"sports": "goal"}}, CLASSES, None),
    ],
)
def test_what_cannot_be_asked_is_refused(backbones, kind, options, classes, texts):
    with pytest.raises(InputError):
        classifier(backbones[kind], **options).zero_shot(classes, texts)


def test_the_command_takes_classes_from_labels_or_words(backbones, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in ROWS))
    fit = ["fit", "--zero-shot", "--quiet", "--set", "dtype=float32", "--template", FRAME]
    fit += ["--backbone", backbones["llama"]]
    words = [part for name, word in WORDS.items() for part in ("--verbaliser", f"{name}={word}")]
    assert main([*fit, *words, "--out", str(tmp_path / "words")]) == 0
    assert main([*fit, str(data), "--out", str(tmp_path / "labels")]) == 0
    for name in ("words", "labels"):
        clf = BayesianClassifier.from_pretrained(tmp_path / name, progress=False)
        assert sorted(clf.classes) == sorted(CLASSES)
        assert clf.record.num_train == 0
    for idle in (["--quick"], ["--epochs", "2"], ["--adapter", "lora"], ["--posterior", "vbll"]):
        assert main([*fit, *words, *idle, "--out", str(tmp_path / "bad")]) == 2
    assert main([*fit, "--out", str(tmp_path / "bad")]) == 2
    typo = ["--verbaliser", "sprots=goal"]
    assert main([*fit, *typo, str(data), "--out", str(tmp_path / "bad")]) == 2
    assert main([*fit, *words, "--task", "nowhere", "--out", str(tmp_path / "bad")]) == 2
    data.write_text("\n".join(json.dumps({**row, "label": CLASSES[0]}) for row in ROWS))
    assert main([*fit, *words, str(data), "--out", str(tmp_path / "one")]) == 0
    assert not (tmp_path / "bad").exists()
