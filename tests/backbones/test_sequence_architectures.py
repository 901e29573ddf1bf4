"""Classifiers of many architectures: features times the final layer are their logits.

The reference is the classifier's own logits for each text alone, without any padding.
"""

import pytest
import torch
from foreign_models import ARCHITECTURES, model, saved
from tiny import CLASSES, tiny_tokenizer, toy_rows

from bayeslora.backbones.sequence import load_sequence_classifier

# Texts of many lengths, with an unknown word among them.
TEXTS = [*(row["text"] for row in toy_rows(6, seed=2)), "xylophone", "the cat " * 15]
PADDINGS = {"xlnet": "left", "fnet": "none"}
DECODERS = ("gemma2", "gpt2", "llama", "mistral", "qwen2", "qwen3")

# With random weights only rounding in float32 differs, and logits are of order 1.
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def loaded(source, tokenizer=None, **options):
    # The tiny tokenizer is passed because some architectures have their own tokenizer class.
    tokenizer = tokenizer or tiny_tokenizer()
    options = {"max_length": 40, "device": "cpu", "tokenizer": tokenizer} | options
    return load_sequence_classifier(source, **options)


@torch.no_grad()
def own_logits(network, texts=TEXTS, tokenizer=None, pairs=None):
    """Return a classifier's own logits for each text alone, [N, C]."""
    tokenizer = tokenizer or tiny_tokenizer()
    rows = []
    for place, text in enumerate(texts):
        second = None if pairs is None else [pairs[place]]
        inputs = tokenizer([text], second, return_tensors="pt")
        if hasattr(network, "fnet"):
            del inputs["attention_mask"]
        rows.append(network(**inputs).logits)
    return torch.cat(rows)


def linear_logits(encoder, texts=TEXTS, pairs=None, tolerance=TOLERANCE):
    """Return features times the final layer, in batches of mixed lengths."""
    size = 1 if encoder.padding == "none" else 3
    prepared = encoder.prepare(texts, pairs)
    with torch.no_grad():
        features = torch.cat(
            [
                encoder(prepared.collate(range(start, min(start + size, len(texts)))))
                for start in range(0, len(texts), size)
            ]
        )
    # Batches of similar length, as in fits and predictions.
    torch.testing.assert_close(encoder.features(prepared, batch_size=4), features, **tolerance)
    return features @ encoder.weight.T


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_architecture_keeps_its_logits(tmp_path, family):
    path = saved(family, tmp_path / "model")
    classifier = loaded(str(path))
    layer = ARCHITECTURES[family][2]
    assert classifier.layer == layer
    assert classifier.classes == CLASSES
    assert classifier.padding == PADDINGS.get(family, "right")
    bias = classifier.backbone.model.get_submodule(layer).bias
    assert classifier.num_features == 16 + (bias is not None)
    torch.testing.assert_close(linear_logits(classifier), own_logits(model(family)), **TOLERANCE)


def test_texts_are_run_one_by_one_where_padding_is_seen(caplog):
    loaded(model("fnet"))
    assert "depend on padding" in caplog.text


@pytest.mark.parametrize("family", [name for name in DECODERS if name != "gpt2"])
def test_decoders_answer_at_the_last_real_token_on_either_side(family):
    """Except GPT-2, which counts positions from the padding on."""
    classifier = loaded(model(family))
    expected = own_logits(model(family))
    for padding in ("left", "right"):
        classifier.padding = padding
        result = linear_logits(classifier)
        torch.testing.assert_close(result, expected, **TOLERANCE)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_padding_token_that_ends_texts_is_passed_over_as_transformers_does(family):
    tokenizer = ends_texts(tiny_tokenizer())
    tokenizer.pad_token = tokenizer.eos_token
    network = model(family, pad_token_id=tokenizer.eos_token_id)
    expected = own_logits(network, tokenizer=tokenizer)
    without_end = own_logits(network)
    torch.testing.assert_close(expected, without_end, **TOLERANCE)
    torch.testing.assert_close(
        linear_logits(loaded(network, tokenizer=tokenizer)), expected, **TOLERANCE
    )


def ends_texts(tokenizer):
    from tokenizers.processors import TemplateProcessing

    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}",
        pair=f"$A {end} $B:1 {end}:1",
        special_tokens=[(end, tokenizer.eos_token_id)],
    )
    return tokenizer


@pytest.mark.parametrize("family", ["bert", "xlnet", "llama"])
def test_token_types_and_pairs_are_those_of_the_tokenizer(family):
    """XLNet without token types omits its segments; a decoder reads pairs as its owner does."""
    tokenizer = ends_texts(tiny_tokenizer())
    if family != "llama":
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    network = model(family)
    pairs = [*TEXTS[1:7], "the dog", "a horse"]
    texts = [text[:40] for text in TEXTS]
    for second in (None, pairs):
        expected = own_logits(network, texts, tokenizer, second)
        classifier = loaded(network, tokenizer=tokenizer)
        torch.testing.assert_close(linear_logits(classifier, texts, second), expected, **TOLERANCE)
