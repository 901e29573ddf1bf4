"""States in the middle of a backbone: which layer, and that they come from the same pass."""

import pytest
import torch
from architectures import UNCUT, backbone
from foreign_models import FAMILIES, saved

from bayeslora.backbones.encoder import Encoder, pool
from bayeslora.backbones.sequence import load_sequence_classifier
from bayeslora.backbones.tokens import model_inputs

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
