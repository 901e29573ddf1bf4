"""States in the middle of a backbone: which layer, and that they come from the same pass."""

import pytest
import torch
from architectures import UNCUT, backbone
from foreign_models import FAMILIES, saved
from torch import nn

from bayeslora.backbones.encoder import Encoder, pool
from bayeslora.backbones.prefix import PrefixStates, middle_layer
from bayeslora.backbones.sequence import load_sequence_classifier
from bayeslora.backbones.tokens import model_inputs
from bayeslora.io.cache import keep_tensors, read_kept

TEXTS = ["a b c d e f g h i", "j k", "l m n o", "p", "q r s t u"]


def expected(reader, texts, layer):
    """Return the mean states of transformers' own list of hidden states."""
    rows = []
    for text in texts:
        batch = reader.prepare([text]).tokens.pad([0])
        inputs = model_inputs(batch, "cpu")
        output = reader.model(**inputs, output_hidden_states=True)
        rows.append(pool(output.hidden_states[layer], batch["attention_mask"], "mean"))
    return torch.cat(rows)


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "llama", "modernbert", "qwen2"])
@pytest.mark.parametrize("start", [0, 1, 2])
def test_states_are_those_of_the_layer_at_half_depth_cached_or_not(name, start):
    host, path = backbone(name)
    layer = host.model.config.num_hidden_layers // 2
    reader = Encoder(host, layers_path=path, start=start, max_length=32)
    prepared = reader.prepare(TEXTS)
    assert (prepared.prefix is not None and prepared.prefix.middle is not None) == (start > layer)
    features, middle = reader.features_and_middle(prepared, batch_size=2)
    torch.testing.assert_close(middle, expected(reader, TEXTS, layer), atol=1e-5, rtol=1e-5)
    assert torch.equal(features, reader.features(reader.prepare(TEXTS), batch_size=2))


@torch.no_grad()
@pytest.mark.parametrize("start", [1, 2])
def test_some_rows_have_the_same_states(start):
    host, path = backbone("llama")
    reader = Encoder(host, layers_path=path, start=start, max_length=32)
    prepared = reader.prepare(TEXTS)
    _, every = reader.features_and_middle(prepared)
    for part, rows in ((prepared, [3, 0]), (prepared.take([4, 3, 0]), [1, 2])):
        _, some = reader.features_and_middle(part, rows=rows)
        torch.testing.assert_close(some, every[[3, 0]], atol=1e-6, rtol=1e-6)


def test_cached_states_come_back_from_disk(tmp_path):
    host, path = backbone("llama")
    reader = Encoder(host, layers_path=path, start=2, max_length=32)
    states = reader.prepare(TEXTS).prefix
    file = tmp_path / "states.safetensors"
    keep_tensors(file, states.tensors)
    again = PrefixStates(spans=states.spans, **read_kept(file))
    assert torch.equal(again.values, states.values)
    assert torch.equal(again.middle, states.middle)


@pytest.mark.parametrize("name", UNCUT)
def test_every_architecture_can_be_asked(name):
    host, path = backbone(name)
    reader = Encoder(host, layers_path=path, start=1, max_length=32)
    _, middle = reader.features_and_middle(reader.prepare(TEXTS))
    assert (middle is None) == (reader.middle is None)
    assert middle is None or middle.shape == (len(TEXTS), host.num_features)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_classifiers_of_others_have_them_too(tmp_path, family):
    source = str(saved(family, tmp_path / "model"))
    reader = load_sequence_classifier(source, max_length=32, device="cpu")
    features, middle = reader.features_and_middle(reader.prepare(TEXTS), batch_size=2)
    assert torch.equal(features, reader.features(reader.prepare(TEXTS), batch_size=2))
    assert (middle is None) == (reader.middle is None)
    if middle is not None:
        config = reader.backbone.model.config
        layer = config.num_hidden_layers // 2
        torch.testing.assert_close(middle, expected(reader, TEXTS, layer), atol=1e-5, rtol=1e-5)


class TimeMajor(nn.Module):
    """A model whose layers see [T, B, d]."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, states):
        for layer in self.layers:
            states = layer(states)
        return states


@pytest.mark.parametrize(("shape", "reads"), [((2, 5, 4), True), ((5, 2, 4), False)])
def test_a_layer_must_read_one_state_per_token(shape, reads):
    model = TimeMajor()
    layer = middle_layer(model)
    assert layer.layer is model.layers[1]

    def run():
        model(torch.zeros(shape))
        return torch.ones(2, 5)

    assert layer.reads_tokens(run) is reads


def test_a_layer_that_is_called_twice_or_never_is_none():
    model = TimeMajor()
    layer = middle_layer(model)
    for calls in (0, 2):

        def run(calls=calls):
            for _ in range(calls):
                model(torch.zeros(2, 5, 4))
            return torch.ones(2, 5)

        assert not layer.reads_tokens(run)
    assert middle_layer(nn.Linear(2, 2)) is None
