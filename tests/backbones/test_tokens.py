"""Token ids: pairs, truncation, padding, batches of similar length."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SIZES, tiny_bert, tiny_llama

from bayeslora.backbones import tokens as module
from bayeslora.backbones.load import load_backbone
from bayeslora.backbones.template import Template
from bayeslora.backbones.tokens import length_batches, real_tokens, tokenise


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return load_backbone(str(tiny_llama(folder / "llama")), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return load_backbone(str(tiny_bert(folder / "bert")), dtype="float32", device="cpu")


def words(tokens, row, host):
    return host.tokenizer.convert_ids_to_tokens(tokens.ids[row].tolist())


def test_texts_become_ids_without_padding(decoder):
    tokens = tokenise(decoder, ["the cat", "rain"], max_length=8)
    assert words(tokens, 0, decoder) == ["the", "cat"]
    assert words(tokens, 1, decoder) == ["rain"]
    assert tokens.lengths.tolist() == [2, 1]
    assert tokens.num_truncated == 0


@pytest.mark.parametrize("max_length", [1, 3, 5])
def test_long_texts_are_cut_and_counted(decoder, max_length):
    texts = ["the cat is here today", "the cat", "a a a a a a a"]
    tokens = tokenise(decoder, texts, max_length=max_length)
    assert tokens.lengths.tolist() == [min(size, max_length) for size in (5, 2, 7)]
    assert tokens.num_truncated == sum(size > max_length for size in (5, 2, 7))
    assert words(tokens, 0, decoder) == ["the", "cat", "is", "here", "today"][:max_length]


@pytest.mark.parametrize("host", ["decoder", "encoder"])
@pytest.mark.parametrize("template", [None, "Q: {text} {text_pair}"])
def test_the_end_of_a_book_is_not_tokenised(request, monkeypatch, host, template):
    backbone = request.getfixturevalue(host)
    backbone = replace(backbone, template=template and Template(template))
    rng, names = np.random.default_rng(0), ["the", "cat", "sat", "unknown", "rain,", "Mat."]
    texts, pairs = [" ".join(rng.choice(names, 5000)), "the cat", "x" * 20_000], ["rain"] * 3
    longest = []
    called = type(backbone.tokenizer).__call__

    def counted(tokenizer, texts, *args, **options):
        longest.append(max(map(len, [texts] if isinstance(texts, str) else texts)))
        return called(tokenizer, texts, *args, **options)

    monkeypatch.setattr(type(backbone.tokenizer), "__call__", counted)
    cut = tokenise(backbone, texts, pairs, max_length=16)
    assert max(longest) < 10_000
    monkeypatch.setattr(module, "_LONG", 10**6)
    whole = tokenise(backbone, texts, pairs, max_length=16)
    assert [ids.tolist() for ids in cut.ids] == [ids.tolist() for ids in whole.ids]
    assert cut.num_truncated == whole.num_truncated == 1


@pytest.mark.parametrize("texts", [["the cat", ""], ["the cat", " "]])
def test_a_text_without_tokens_gets_one(decoder, texts):
    tokens = tokenise(decoder, texts, max_length=8)
    assert tokens.ids[1].tolist() == [decoder.tokenizer.pad_token_id]
    ids, mask = tokens.pad([1]).values()
    assert mask.tolist() == [[1]]
    assert bool(torch.isfinite(decoder.model(input_ids=ids).last_hidden_state).all())


def test_a_decoder_keeps_the_end_of_a_pair(decoder):
    texts, pairs = ["the cat is here", "rain"], ["dog barks", "snow and wind"]
    whole = tokenise(decoder, texts, pairs, max_length=16)
    assert words(whole, 0, decoder) == ["the", "cat", "is", "here", "dog", "barks"]
    assert whole.num_truncated == 0
    cut = tokenise(decoder, texts, pairs, max_length=3)
    assert words(cut, 0, decoder) == ["the", "dog", "barks"]
    assert words(cut, 1, decoder) == ["snow", "and", "wind"]
    assert cut.num_truncated == 2
    shortest = tokenise(decoder, texts, pairs, max_length=2)
    assert words(shortest, 1, decoder) == ["and", "wind"]


def test_an_encoder_pairs_as_its_tokenizer_does(encoder):
    texts, pairs = ["the cat", "rain"], ["dog", "snow"]
    tokens = tokenise(encoder, texts, pairs, max_length=16)
    expected = encoder.tokenizer(texts, pairs)["input_ids"]
    assert [item.tolist() for item in tokens.ids] == expected
    assert tokenise(encoder, texts, pairs, max_length=2).num_truncated == 1


def test_no_text_is_longer_than_the_model_has_positions(encoder):
    limit = SIZES["max_position_embeddings"]
    tokens = tokenise(encoder, ["cat " * 200], max_length=500)
    assert tokens.lengths.tolist() == [limit]
    ids, mask = tokens.pad([0]).values()
    encoder.model(input_ids=ids, attention_mask=mask)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), max_size=40).map(lambda v: np.array(v, dtype=np.int64)),
    size=st.integers(1, 9),
)
def test_length_batches_hold_every_row_once_the_longest_first(lengths, size):
    batches = list(length_batches(lengths, size))
    rows = [row for batch in batches for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    assert all(len(batch) == size for batch in batches[:-1])
    ordered = lengths[rows].tolist() if rows else []
    assert ordered == sorted(ordered, reverse=True)


@pytest.mark.parametrize("with_pairs", [False, True])
@pytest.mark.parametrize("as_its_owner", [False, True])
@pytest.mark.parametrize("name", ["decoder", "encoder"])
def test_texts_are_tokenised_some_at_a_time(request, monkeypatch, name, as_its_owner, with_pairs):
    """The tokenizer's lists of integers take many times the memory of the arrays."""
    host = request.getfixturevalue(name)
    texts = ["the cat", "rain", "a dog barks today", "snow", "the soup is very salty"]
    pairs = texts[::-1] if with_pairs else None
    options = {"max_length": 5, "as_its_owner": as_its_owner}
    whole = tokenise(host, texts, pairs, **options)
    monkeypatch.setattr(module, "_AT_A_TIME", 2)
    calls = []
    real = host.tokenizer

    def counting(first, *rest, **options):
        calls.append(len(first))
        return real(first, *rest, **options)

    counting.pad_token_id = real.pad_token_id
    result = tokenise(replace(host, tokenizer=counting), texts, pairs, **options)
    assert max(calls) == 2
    assert result.num_truncated == whole.num_truncated
    for actual, expected in ((result.ids, whole.ids), (result.types or (), whole.types or ())):
        assert [item.tolist() for item in actual] == [item.tolist() for item in expected]


def test_the_mask_takes_the_shape_of_the_states():
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    assert real_tokens("it", torch.zeros(2, 3, 4), mask).tolist() == mask.bool().tolist()
    assert real_tokens("it", torch.zeros(6, 4), mask).tolist() == mask.bool().flatten().tolist()
    assert real_tokens("it", torch.zeros(2, 4), mask).tolist() == [True, True]
