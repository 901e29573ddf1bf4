"""Features: where they are read, and their invariances."""

import pytest
import torch
from architectures import UNCUT, backbone, batch, last_hidden, tokens
from tiny import tiny_bert, tiny_llama, toy_rows

from bayeslora.adapters.inject import inject
from bayeslora.adapters.lora import LoRA
from bayeslora.backbones.encoder import POOLING, Encoder, PreparedTexts, pool
from bayeslora.backbones.load import load_backbone
from bayeslora.backbones.prefix import LayerSplit

TEXTS = [row["text"] for row in toy_rows(9, seed=5)]
NAMES = ["bert", "llama", "modernbert", "qwen2"]


def encoder(name, start=0, **options):
    host, path = backbone(name, **options)
    return Encoder(host, layers_path=path, start=start, max_length=32)


def loaded(builder, folder):
    return load_backbone(str(builder(folder / "model")), dtype="float32", device="cpu")


@pytest.mark.parametrize("name", UNCUT)
def test_layers_that_cannot_be_run_apart_all_run_in_every_pass(name, caplog):
    start = 1 if "convolution" in name else 2
    reader = encoder(name, start=start)
    assert reader.first_running_layer == 0
    assert f"below layer {start} separately" in caplog.text
    host, _ = backbone(name)
    ids, mask = batch()
    states = last_hidden(host.model, ids, mask)
    prepared = reader.prepare(["a b c d", "e f"])
    assert prepared.prefix is None
    torch.testing.assert_close(
        reader({"input_ids": ids, "attention_mask": mask}), pool(states, mask, reader.pooling)
    )


def test_texts_are_run_alone_where_padding_changes_their_features(caplog):
    reader = encoder("convbert", start=1)
    assert "depend on padding" in caplog.text
    texts = ["a b c d e f g h i", "j k"]
    together = reader.features(reader.prepare(texts))
    alone = torch.cat([reader.features(reader.prepare([text])) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_is_read_at_its_last_real_token(side):
    hidden = torch.arange(24.0).view(2, 4, 3)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    expected = torch.stack([hidden[0, 3], hidden[1, 1]])
    if side == "left":
        hidden, mask = hidden.flip(1), mask.flip(1)
        expected = torch.stack([hidden[0, 3], hidden[1, 3]])
    assert torch.equal(pool(hidden, mask, "last"), expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_encoder_is_the_mean_over_its_real_tokens(side):
    hidden = torch.tensor([[[1.0], [2.0], [6.0]], [[3.0], [5.0], [1e9]]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    if side == "left":
        hidden, mask = hidden.flip(1), mask.flip(1)
    expected = torch.tensor([[(1 + 2 + 6) / 3], [(3 + 5) / 2]])
    torch.testing.assert_close(pool(hidden, mask, "mean"), expected)


@pytest.mark.parametrize("name", NAMES)
def test_features_are_the_pooled_states_of_the_plain_model(name):
    result = encoder(name).features(PreparedTexts(tokens(), None))
    host, _ = backbone(name)
    ids, mask = batch()
    expected = pool(last_hidden(host.model, ids, mask), mask, POOLING[host.kind])
    torch.testing.assert_close(result, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("name", NAMES)
def test_padding_and_neighbours_do_not_matter(name, start):
    host = encoder(name, start)
    together = host.prepare(["a b c d e f g h i", "j k l m n o", "p q r", "s t u v w x y z a"])
    whole = host.features(together, batch_size=4)
    single = host.features(together, batch_size=1)
    # Batches of another width round differently in the last bits.
    torch.testing.assert_close(whole, single, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("builder", [tiny_bert, tiny_llama])
def test_the_prefix_changes_nothing_in_float32(tmp_path, builder):
    host = loaded(builder, tmp_path)
    path = "encoder.layer" if host.kind == "encoder" else "layers"
    results = []
    for start in (0, 1, 2):
        reader = Encoder(host, layers_path=path, start=start, max_length=32)
        prepared = reader.prepare(TEXTS)
        assert (prepared.prefix is None) == (start == 0)
        results.append(reader.features(prepared))
    torch.testing.assert_close(results[1], results[0], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(results[2], results[0], atol=2e-6, rtol=1e-5)


def test_the_prefix_runs_once_for_all_clones(tmp_path, monkeypatch):
    host = loaded(tiny_llama, tmp_path)
    for start in (1, 2):
        # Whether they can be cut there is tested once, by running them.
        Encoder(host, layers_path="layers", start=start, max_length=32)
    calls = []
    run = LayerSplit.prefix

    def count(split, **inputs):
        calls.append(len(inputs["input_ids"]))
        return run(split, **inputs)

    monkeypatch.setattr(LayerSplit, "prefix", count)

    def prepare(texts, start=1):
        clone = host.clone()
        return Encoder(clone, layers_path="layers", start=start, max_length=32).prepare(texts)

    first = prepare(TEXTS)
    assert sum(calls) == len(TEXTS)
    assert prepare(list(TEXTS)).prefix is first.prefix
    assert sum(calls) == len(TEXTS)
    prepare(TEXTS[:4])
    prepare(TEXTS, start=2)
    assert sum(calls) == len(TEXTS) + 4 + len(TEXTS)


def test_gradients_reach_the_adapters_through_cached_states(tmp_path):
    clone = loaded(tiny_llama, tmp_path).clone()
    sites = inject(clone.model, LoRA(r=2, num_layers=1), seed=0)
    reader = Encoder(clone, layers_path="layers", start=2, max_length=32)
    prepared = reader.prepare(TEXTS)
    reader(prepared.collate(range(4))).square().sum().backward()
    assert {site.name for site in sites} == {
        "layers.2.self_attn.q_proj",
        "layers.2.self_attn.v_proj",
    }
    # B starts at zero, so the gradient of A is zero and that of B is not.
    assert all(float(site.B.weight.grad.norm()) > 0 for site in sites)
    frozen = [item for item in clone.model.parameters() if not item.requires_grad]
    assert all(item.grad is None for item in frozen)
