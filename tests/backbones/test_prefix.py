"""A model cut in two computes the same as the whole model."""

from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, backbone, batch, build, last_hidden, tokens

from bayeslora.backbones import prefix
from bayeslora.backbones.prefix import LayerSplit, compute_prefix


@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_prefix_and_suffix_make_the_whole_model(name, start):
    model, path = build(name)
    ids, mask = batch()
    split = LayerSplit(model, path, start)
    with torch.no_grad():
        hidden = split.prefix(input_ids=ids, attention_mask=mask)
        result = split.suffix(input_ids=ids, attention_mask=mask, hidden=hidden)
    # The same operations on the same numbers: not even the last bit may differ.
    assert torch.equal(result, last_hidden(model, ids, mask))


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_the_suffix_depends_on_the_given_states_alone(name):
    model, path = build(name)
    ids, mask = batch()
    split = LayerSplit(model, path, 2)
    with torch.no_grad():
        hidden = split.prefix(input_ids=ids, attention_mask=mask)
        for layer in model.get_submodule(path)[:2]:
            for parameter in layer.parameters():
                parameter.fill_(float("nan"))
        result = split.suffix(input_ids=ids, attention_mask=mask, hidden=hidden)
        changed = split.suffix(input_ids=ids, attention_mask=mask, hidden=hidden + 1)
    assert bool(torch.isfinite(result).all())
    assert not torch.allclose(result, changed)


def test_the_model_is_left_as_it_was():
    model, path = build("bert")
    layers = model.get_submodule(path)
    names = [name for name, _ in model.named_modules()]
    ids, mask = batch()
    split = LayerSplit(model, path, 2)
    split.suffix(
        input_ids=ids, attention_mask=mask, hidden=split.prefix(input_ids=ids, attention_mask=mask)
    )
    assert model.get_submodule(path) is layers
    assert [name for name, _ in model.named_modules()] == names


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_stored_states_are_those_of_the_model(name):
    host, path = backbone(name)
    split = LayerSplit(host.model, path, 2)
    seen = []
    states = compute_prefix(
        split,
        tokens(),
        width=16,
        dtype=torch.float32,
        device=torch.device("cpu"),
        batch_size=3,
        advance=seen.append,
    )
    ids, mask = batch()
    with torch.no_grad():
        expected = split.prefix(input_ids=ids, attention_mask=mask) * mask[..., None]
    # Batches of another width round differently in the last bits.
    torch.testing.assert_close(states.pad(range(4)), expected, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(states.pad([2, 0]), expected[[2, 0]], atol=2e-6, rtol=1e-5)
    assert states.pad([2]).shape == (1, 3, 16)
    assert states.values.shape == (9 + 6 + 3 + 9, 16)
    assert seen == [3, 1]


def test_states_on_disk_equal_states_in_memory(monkeypatch, tmp_path):
    host, path = backbone("llama")
    split = LayerSplit(host.model, path, 1)
    options = {
        "width": 16,
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "batch_size": 2,
        "advance": lambda _: None,
    }
    inside = compute_prefix(split, tokens(), **options)
    monkeypatch.setattr(prefix, "_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(prefix.tempfile, "tempdir", str(tmp_path))
    mapped = []
    from_file = torch.from_file
    monkeypatch.setattr(
        torch, "from_file", lambda name, **rest: mapped.append(name) or from_file(name, **rest)
    )
    outside = compute_prefix(split, tokens(), **options)
    assert [Path(name).parent for name in mapped] == [tmp_path]
    assert torch.equal(inside.values, outside.values)
    assert torch.equal(inside.pad([1, 3]), outside.pad([1, 3]))
    # No named file is left behind.
    assert list(tmp_path.iterdir()) == []
