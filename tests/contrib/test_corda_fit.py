"""A context runs once through the frozen prefix before training."""

import pytest
import torch
from refusal import refused
from small_fits import fresh
from tiny import tiny_llama, toy_rows

from bayeslora import MLE
from bayeslora.classifier import BayesianClassifier
from bayeslora.contrib.corda import CorDA, corda
from bayeslora.contrib.moments import second_moments
from bayeslora.data.columns import DataColumns
from bayeslora.engine.data import TrainingData

CORDA = CorDA(r=4, num_layers=2)


def begin(backbone, adapter=CORDA):
    return fresh(backbone, MLE(), adapter)


def started(fit):
    fit.adapter.begin(fit.training())
    return fit.network.trained_state()


def layers_run(fit, act):
    """Return the number of texts that each layer sees while `act()` runs."""
    layers = fit.network.encoder.model.layers
    seen = [0] * len(layers)

    def count(place):
        return lambda _, inputs: seen.__setitem__(place, seen[place] + len(inputs[0]))

    handles = [layer.register_forward_pre_hook(count(n)) for n, layer in enumerate(layers)]
    act()
    for handle in handles:
        handle.remove()
    return seen


def test_training_rows_are_the_context_and_their_prefix_is_not_run_again(decoder):
    fit = begin(decoder)
    below, *above = layers_run(fit, lambda: started(fit))
    assert above == [30, 30]
    # At most one text, to find out what the layer below the split returns.
    assert below <= 1


def test_sites_start_where_the_backbones_own_inputs_say(decoder):
    """Inputs are collected on the plain backbone without a prefix, in one padded batch."""
    fit = begin(decoder)
    started(fit)
    plain, batch = decoder.clone().model, fit.train.tokens.pad(range(30))
    layers = {site.name: plain.get_submodule(site.name) for site in fit.network.sites}
    moments = second_moments(lambda inputs: plain(**inputs), layers, [batch])
    for site in fit.network.sites:
        expected = corda(site.weight, moments[site.name], 4, 1.0)
        torch.testing.assert_close(site.B0 @ site.A0, expected.B @ expected.A, atol=1e-5, rtol=0)
        assert torch.equal(site.A.weight, site.A0)
        assert torch.count_nonzero(site.delta()) == 0


def test_a_file_of_texts_is_read_by_the_column_of_the_training_texts(tmp_path):
    path = tmp_path / "generic.jsonl"
    path.write_text('{"sentence": "a cat"}\n{"sentence": "rain"}\n')
    adapter = CorDA(mode="kpm", context=str(path))
    rows = [{"sentence": str(n), "text": "x", "label": "ab"[n % 2]} for n in range(4)]
    columns = DataColumns("sentence", "label", None)
    data = TrainingData.read(rows, None, columns)
    result = adapter.settled(data)
    assert result.context == ("a cat", "rain")
    assert result.recorded()["context"].startswith("2 texts, sha256 ")
    assert adapter.recorded()["context"] == str(path)
    with refused("unknown", "'text'"):
        adapter.settled(TrainingData.read(rows, None, DataColumns()))
    with refused("input", "nowhere.jsonl"):
        CorDA(context=str(tmp_path / "nowhere.jsonl")).settled(data)
    held_out = [{"sentence": "rain", "label": "a"}, {"sentence": "sun", "label": "b"}]
    with refused("input", "1", "'rain'"):
        adapter.settled(TrainingData.read(rows, held_out, columns))


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("starts") / "llama"))


def test_a_context_of_texts_is_recorded_by_its_hash(backbone, tmp_path):
    texts = [row["text"] for row in toy_rows(40, 8)]
    adapter = CorDA(r=2, num_layers=2, mode="kpm", context=texts)
    clf = BayesianClassifier(backbone, adapter, "mle", dtype="float32", progress=False)
    clf.fit(toy_rows(30), epochs=1, out=tmp_path / "model")
    context = clf.record.adapter["context"]
    assert context.startswith("40 texts, sha256 ")
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    assert again.adapter.context == context
    assert (again.predict(toy_rows(9)).probs == clf.predict(toy_rows(9)).probs).all()
