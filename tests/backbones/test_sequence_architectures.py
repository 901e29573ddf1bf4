"""Classifiers of many architectures: features times the final layer are their own logits.

The logits to compare with are the classifier's for each text alone, without any padding.
"""

import logging

import pytest
import torch
from foreign_models import ARCHITECTURES, model, saved
from tiny import CLASSES, tiny_tokenizer, toy_rows

from bayeslora.backbones.sequence import load_sequence_classifier
from bayeslora.backbones.sequence_encoder import SequenceEncoder
from bayeslora.errors import InputError

# Of many lengths, an unknown word, and a text without tokens.
TEXTS = [*(row["text"] for row in toy_rows(6, seed=2)), "xylophone", "the " * 30]
WITH_BIAS = {"logits_proj", "classifier", "classifier.out_proj"}
SKIPS_NOTHING = {"config": None}

# With random weights rounding is all that differs, and logits are of order 1.
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def loaded(source, **options):
    return load_sequence_classifier(
        source, device="cpu", **{"tokenizer": tiny_tokenizer()} | options
    )


def own_logits(network, texts=TEXTS, tokenizer=None):
    """Return what a classifier makes of each text by itself, [N, C]."""
    tokenizer = tokenizer or tiny_tokenizer()
    rows = []
    with torch.no_grad():
        for text in texts:
            inputs = tokenizer([text], return_tensors="pt")
            kept = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
            if not hasattr(network, "fnet"):
                rows.append(network(**kept).logits)
            else:
                rows.append(network(input_ids=inputs["input_ids"]).logits)
    return torch.cat(rows)


def linear_logits(classifier, texts=TEXTS):
    """Return features times the final layer, in batches of mixed lengths."""
    encoder = SequenceEncoder(classifier, max_length=40)
    prepared = encoder.prepare(texts)
    rows = [range(start, min(start + 3, len(texts))) for start in range(0, len(texts), 3)]
    if classifier.padding == "none":
        rows = [[row] for row in range(len(texts))]
    features = torch.cat([encoder(prepared.collate(list(batch))) for batch in rows])
    torch.testing.assert_close(encoder.features(prepared), features, **TOLERANCE)
    return features @ encoder.weight.T


def plain(family):
    """Return a classifier whose inputs need no token types."""
    found = model(family)
    if family == "xlnet":
        # Without types XLNet leaves segments out, with zeros it does not: the tokenizer decides.
        pass
    return found


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_architecture_keeps_its_logits(tmp_path, family):
    path = saved(family, tmp_path / "model")
    classifier = loaded(str(path))
    layer = ARCHITECTURES[family][2]
    assert classifier.layer == layer
    assert classifier.classes == CLASSES
    encoder = SequenceEncoder(classifier, max_length=40)
    assert encoder.num_features == 16 + (layer in WITH_BIAS)
    torch.testing.assert_close(linear_logits(classifier), own_logits(model(family)), **TOLERANCE)
