"""Posteriors for torch modules that are not Hugging Face classifiers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from refusal import refused
from tiny import CLASSES, tiny_tokenizer, toy_rows
from torch import nn
from usage import TEST, load, same

import bayeslora as bl

pytestmark = pytest.mark.usefixtures("beside_nothing")

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


class Pieces(Net):
    def forward(self, counts, scale):
        return SimpleNamespace(logits=super().forward(counts * scale))


class ByKeyword(Net):
    """Passes the input of its final layer by keyword."""

    def forward(self, counts):
        return self.fc(input=self.hidden(counts))


class Positions(Net):
    def forward(self, counts):
        return self.fc(self.hidden(counts).unsqueeze(1)).squeeze(1)


class Halved(Net):
    def forward(self, counts):
        return super().forward(counts) / 2


class Lazy(Net):
    def forward(self, counts):
        return counts[:, :3]


class Doubled(Net):
    def forward(self, counts):
        return super().forward(torch.cat([counts, counts]))


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


def test_batches_may_be_mappings_and_tuples_with_logits_by_name():
    module = Pieces().eval()
    expected = softmax_of(lambda counts: module(counts, 2.0).logits)
    for pack in (
        lambda texts: {"scale": torch.tensor(2.0), "counts": encode(texts)},
        lambda texts: (encode(texts), torch.tensor(2.0)),
    ):
        clf = wrapped(module, encode=pack).calibrate(TRAIN)
        probs = clf.predict(TEST, num_samples=0).probs
        np.testing.assert_allclose(probs, expected, atol=1e-6)


def test_a_layer_called_by_keyword_is_read():
    module = ByKeyword()
    clf = wrapped(module, "mle").calibrate(TRAIN)
    np.testing.assert_allclose(clf.predict(TEST).probs, softmax_of(module), atol=1e-6)


def test_second_texts_are_encoded_with_the_first():
    module = Net()
    rows = [{**row, "other": HELD[place % 15]["text"]} for place, row in enumerate(TRAIN)]
    clf = wrapped(module, "mle").calibrate(rows, pair_column="other")
    counts = encode([row["text"] for row in rows], [row["other"] for row in rows])
    with torch.no_grad():
        expected = module(counts).double().softmax(1).numpy()
    np.testing.assert_allclose(clf.predict(rows).probs, expected, atol=1e-6)


def test_feature_scores_are_fitted_to_a_module():
    clf = wrapped(Net()).calibrate(TRAIN, feature_scores="mahalanobis,knn")
    assert {"mahalanobis", "knn"} < set(clf.predict(TEST).scores)


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


def test_running_means_are_part_of_a_module(tmp_path):
    module = Net()
    wrapped(module).calibrate(TRAIN).save_pretrained(tmp_path / "model")
    module.hidden[1].running_mean += 1
    with refused("another-backbone"):
        load(tmp_path / "model", module=module, encode=encode)


def test_other_models_take_no_module(model):
    with refused("input", "from_module"):
        load(model, module=Net(), encode=encode)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (Positions, ("'fc'", ", 1, 12]")),
        (Halved, ("'fc'", "logits")),
        (Lazy, ("'fc'", "not run")),
        (Doubled, ("'fc'", "120 rows", "60 texts")),
        (Tupled, ("tuple",)),
    ],
)
def test_modules_without_features_are_refused(kind, named):
    with refused("input", *named):
        wrapped(kind()).calibrate(TRAIN)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"layer": "fcc"}, ("input", "3 outputs", "'fc'")),
        ({"layer": "hidden.0"}, ("input", "3 outputs")),
        ({"classes": ["a", "b"]}, ("input", "2 outputs")),
        ({"classes": ["a", "b"], "layer": "fc"}, ("input", "2 outputs")),
        ({"classes": ["a"]}, ("input", "classes", "['a']")),
        ({"encode": "words"}, ("input", "encode", "'words'")),
        ({"device": "nowhere"}, ("input", "device", "'nowhere'")),
        ({"posterior": "swag"}, ("from-start", "'swag'")),
    ],
)
def test_wrong_arguments_are_refused(options, refusal):
    with refused(*refusal):
        wrapped(Net(), **options)


def test_only_a_module_is_taken():
    with refused("input", "function"):
        wrapped(encode)


def test_a_module_with_values_that_are_not_finite_is_refused():
    module = Net()
    module.fc.weight.data[0, 0] = torch.nan
    with refused("damaged", "fc.weight"):
        wrapped(module)


def test_one_of_several_layers_has_to_be_named():
    module = nn.Sequential(nn.Linear(WORDS, 3), nn.Linear(3, 3))
    with refused("input", "3 outputs", "0, 1"):
        wrapped(module)
    clf = wrapped(module, "mle", layer="1").calibrate(TRAIN)
    np.testing.assert_allclose(clf.predict(TEST).probs, softmax_of(module), atol=1e-6)


def test_what_is_chosen_on_rows_known_by_heart_is_too_sure():
    """A network that has memorised noisy labels is wrong only on new rows."""
    rows = noisy_rows(240)
    learned, first, second = rows[:120], rows[120:180], rows[180:]
    module = trained(Net(), learned)

    def chosen(posterior, *data):
        clf = wrapped(module, posterior).calibrate(*data)
        return clf.record.results

    known, new = chosen("temperature", learned), chosen("temperature", first)
    assert known["calibration"]["accuracy"] == 1
    assert new["calibration"]["accuracy"] < 0.7
    # Rows that are all correct sharpen nothing, but they do not soften overconfidence either.
    assert known["posterior"]["temperature"] == 1
    assert new["posterior"]["temperature"] > 2
    known, new = chosen("laplace", learned[:60], learned[60:]), chosen("laplace", first, second)
    assert known["posterior"]["prior_precision"] > 1e3 * new["posterior"]["prior_precision"]


def noisy_rows(n):
    """Return rows, every other one with a label drawn at random."""
    labels = np.random.default_rng(0).integers(3, size=n)
    return [
        {**row, "label": CLASSES[label] if place % 2 else row["label"]}
        for place, (row, label) in enumerate(zip(toy_rows(n, seed=5), labels, strict=True))
    ]


def trained(module, rows):
    counts = encode([row["text"] for row in rows])
    labels = torch.tensor([CLASSES.index(row["label"]) for row in rows])
    module.hidden = nn.Sequential(nn.Linear(WORDS, 64), nn.Tanh(), nn.Linear(64, 12), nn.Tanh())
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        logits = module.fc(module.hidden(counts))
        nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    return module


class Huge(Net):
    """Has finite features whose curvature is not finite."""

    def forward(self, counts):
        return self.fc(1e25 * self.hidden(counts))


@pytest.mark.parametrize("posterior", ["laplace", "laplace:structure=diag", "vbll", "nuts"])
def test_features_out_of_reach_are_refused_with_their_size(posterior):
    clf = bl.BayesianClassifier.from_module(
        Huge(),
        posterior,
        encode=encode,
        classes=CLASSES,
        layer="fc",
        progress=False,
    )
    with refused("diverged", "1e-12"):
        clf.calibrate(HELD)
