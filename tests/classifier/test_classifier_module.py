"""Posteriors for torch modules that are not Hugging Face classifiers."""

import numpy as np
import pytest
import torch
from refusal import refused
from tiny import CLASSES, tiny_tokenizer, toy_rows
from torch import nn
from usage import TEST, load, same

import bayeslora as bl

pytestmark = pytest.mark.usefixtures("few_resamples")

TRAIN, HELD = toy_rows(60, seed=3), toy_rows(15, seed=1)
WORDS = len(tiny_tokenizer())


def encode(texts, pairs=None):
    """Return counts of words [N, V]; those of second texts are subtracted."""
    tokenizer = tiny_tokenizer()
    counts = torch.zeros(len(texts), WORDS)
    for sign, some in ((1.0, texts), (-1.0, pairs or [])):
        for row, ids in enumerate(tokenizer(list(some))["input_ids"] if some else []):
            counts[row].index_add_(0, torch.tensor(ids), torch.full((len(ids),), sign))
    return counts


class Net(nn.Module):
    """Two layers on counts of words."""

    def __init__(self, bias=True, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.hidden = nn.Sequential(nn.Linear(WORDS, 12), nn.BatchNorm1d(12), nn.Tanh())
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(12, len(CLASSES), bias=bias)

    def forward(self, counts):
        return self.fc(self.drop(self.hidden(counts)))


class Positions(Net):
    def forward(self, counts):
        return self.fc(self.hidden(counts).unsqueeze(1)).squeeze(1)


class Halved(Net):
    def forward(self, counts):
        return super().forward(counts) / 2


class Lazy(Net):
    def forward(self, counts):
        return counts[:, :3]


class Tupled(Net):
    def forward(self, counts):
        return super().forward(counts), None


def wrapped(module, posterior="laplace", **options):
    return bl.BayesianClassifier.from_module(
        module, posterior, **{"encode": encode, "classes": CLASSES, "progress": False} | options
    )


def softmax_of(module, rows=TEST):
    with torch.no_grad():
        return module(encode([row["text"] for row in rows])).double().softmax(1).numpy()


def test_a_module_keeps_its_mean_and_gains_uncertainty():
    module = Net()
    clf = wrapped(module).calibrate(TRAIN, HELD)
    # Features are float32; softmax of logits of order 1.
    np.testing.assert_allclose(
        clf.predict(TEST, num_samples=0).probs, softmax_of(module), atol=1e-6
    )
    assert (clf.predict(TEST).epistemic > 0).all()
    assert clf.classes == CLASSES
    assert clf.record.backbone["layer"] == "fc"
    assert clf.record.num_train == len(TRAIN)
    assert bl.evaluate(clf.predict(TEST))["nll"].value > 0


@pytest.mark.parametrize("posterior", ["mle", "laplace:structure=full", "vbll", "temperature"])
def test_posteriors_of_the_last_layer_fit_a_module(tmp_path, posterior):
    module = Net(bias=False)
    clf = wrapped(module, posterior).calibrate(TRAIN, HELD)
    expected = clf.predict(TEST)
    if posterior == "mle":
        np.testing.assert_allclose(expected.probs, softmax_of(module), atol=1e-6)
    clf.save_pretrained(tmp_path / "model")
    assert same(load(tmp_path / "model", module=module, encode=encode).predict(TEST), expected)


def test_the_module_is_frozen_and_its_weights_stay():
    module = Net().train()
    before = {name: item.clone() for name, item in module.state_dict().items()}
    wrapped(module).calibrate(TRAIN)
    assert not module.training
    assert not any(item.requires_grad for item in module.parameters())
    assert all(torch.equal(before[name], item) for name, item in module.state_dict().items())


def test_a_saved_posterior_needs_its_module_again(tmp_path):
    module = Net()
    wrapped(module).calibrate(TRAIN).save_pretrained(tmp_path / "model")
    with refused("input", "Net)", "module=", "encode="):
        load(tmp_path / "model")
    with refused("another-backbone"):
        load(tmp_path / "model", module=Net(seed=1), encode=encode)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "module=module, encode=encode" in card
    assert "base_model" not in card
    assert "tokens per text" not in card


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (Positions, ("'fc'", ", 1, 12]")),
        (Halved, ("'fc'", "logits")),
        (Lazy, ("'fc'", "0 times")),
        (Tupled, ("tensor",)),
    ],
)
def test_modules_without_features_are_refused(kind, named):
    with refused("input", *named):
        wrapped(kind()).calibrate(TRAIN)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"layer": "fcc"}, ("input", "3 outputs", "fc")),
        ({"layer": "hidden.0"}, ("input", "3 outputs")),
        ({"classes": ["a", "b"]}, ("input", "2 outputs")),
        ({"classes": ["a", "b"], "layer": "fc"}, ("input", "2 outputs")),
        ({"classes": ["a"]}, ("input", "classes", "['a']")),
        ({"device": "nowhere"}, ("input", "device", "'nowhere'")),
        ({"posterior": "swag"}, ("from-start", "'swag'")),
    ],
)
def test_wrong_arguments_are_refused(options, refusal):
    with refused(*refusal):
        wrapped(Net(), **options)
