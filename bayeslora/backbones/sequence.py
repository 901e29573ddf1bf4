"""Features from an existing fine-tuned sequence classifier.

The feature of a text is the input of the classifier's final linear layer; the weight and bias of
this layer are the initial mean of a posterior.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bayeslora.backbones.classifier_source import class_names, open_classifier
from bayeslora.backbones.final_layer import check_layer, check_logits, find_layer, gap
from bayeslora.backbones.load import (
    Backbone,
    check_finite,
    fingerprint,
    is_masked,
    model_kind,
    open_source,
    pick_device,
    set_padding_token,
)
from bayeslora.backbones.sequence_encoder import (
    Padding,
    SequenceClassifier,
    SequenceEncoder,
    named_inputs,
)
from bayeslora.backbones.tokens import UNEQUAL_TEXTS, Batch
from bayeslora.backbones.untrusted import reading
from bayeslora.errors import InputError

logger = logging.getLogger(__name__)


def load_sequence_classifier(
    source: str | nn.Module,
    *,
    tokenizer: Any = None,
    layer: str | None = None,
    classes: Sequence[str] | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> SequenceClassifier:
    """Load a Hugging Face sequence classifier and find its final linear layer.

    The classifier is run on two short texts to check that the layer's output equals its logits.

    Args:
        source: A directory, a hub id, a PEFT checkpoint directory, or the model itself, which is
            then frozen and set to evaluation mode.
        tokenizer: Required for a model in memory whose tokenizer cannot be found.
        layer: Dotted name of the final linear layer; None finds it.
        classes: Names of the classes in index order; None takes them from the configuration.
        device: A torch device; None takes the GPU if there is one.
        trust_remote_code: Whether code from the model's repository may run.

    Raises:
        InputError: There is no such model, it is not a classifier with one label per text, it lacks
            weights, or the final layer cannot be identified or has no features.
    """
    model, name, reader = open_classifier(source, trust_remote_code)
    config: Any = model.config
    kind = model_kind(name, config)
    if kind == "decoder" and is_masked(config):
        # The first token, from which it reads the class, would attend to no other token.
        raise InputError(
            f"{name} is an encoder with is_decoder = true, so the first token, which the "
            "classifier reads, does not attend to the others; set is_decoder to false"
        )
    names = class_names(config, name, classes)
    if tokenizer is None:
        if not reader:
            raise InputError("a model in memory needs a tokenizer; pass it as tokenizer")
        tokenizer = open_source("tokenizer", reader, trust_remote_code)
    set_padding_token(tokenizer, reader or name)
    check_finite(f"classifier {name!r}", model)
    model.requires_grad_(False).eval().to(pick_device(device))
    backbone = Backbone(name, model, tokenizer, kind, fingerprint(model), torch.float32)
    if isinstance(source, str):
        with reading(f"{name} cannot be run"):
            _call_plainly(backbone)
    final = layer or find_layer(model, lambda: _call_plainly(backbone), len(names))
    check_layer(model, final, len(names))
    return _checked(SequenceClassifier(backbone, names, final))


@torch.no_grad()
def _checked(classifier: SequenceClassifier) -> SequenceClassifier:
    """Return the classifier with a padding side that does not change its logits.

    Raises:
        InputError: The final layer's output differs from the classifier's logits.
    """
    encoder = _probing(classifier, "right")
    alone = []
    for text in UNEQUAL_TEXTS:
        features, logits = encoder.run(_probe(encoder, [text]))
        check_logits(features, encoder.weight, logits, classifier.layer)
        alone.append(logits)
    expected = torch.cat(alone)
    for padding in ("right", "left"):
        encoder._padding = padding
        features, _ = encoder.run(_probe(encoder, UNEQUAL_TEXTS))
        if gap(features, encoder.weight, expected) <= 1:
            return replace(classifier, padding=padding)
    logger.warning(
        "the logits of %s depend on padding: it runs one text at a time",
        classifier.backbone.name,
    )
    return replace(classifier, padding="none")


def _probing(classifier: SequenceClassifier, padding: Padding) -> SequenceEncoder:
    return SequenceEncoder(replace(classifier, padding=padding), max_length=32)


def _probe(encoder: SequenceEncoder, texts: Sequence[str]) -> Batch:
    return encoder.prepare(texts).collate(range(len(texts)))


def _call_plainly(backbone: Backbone) -> None:
    probe = torch.ones(1, 2, dtype=torch.long, device=backbone.device)
    inputs = {"input_ids": probe, "attention_mask": probe}
    takes = named_inputs(backbone.model)
    backbone.model(**{name: item for name, item in inputs.items() if name in takes})
