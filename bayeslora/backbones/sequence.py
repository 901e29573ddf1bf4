"""Features from an existing fine-tuned sequence classifier.

The feature of a text is the input of the classifier's final linear layer; the weight and bias of
this layer are the initial mean of a posterior.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bayeslora.backbones.classifier_source import class_names, open_classifier
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.final_encoder import FinalLayerEncoder
from bayeslora.backbones.final_layer import (
    check_layer,
    check_logits,
    check_one_vector,
    find_layer,
    gap,
    received,
    with_constant,
)
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
from bayeslora.backbones.middle import middle_layer
from bayeslora.backbones.tokens import UNEQUAL_TEXTS, Batch, model_inputs, tokenise, usable_length
from bayeslora.backbones.untrusted import reading
from bayeslora.errors import InputError

logger = logging.getLogger(__name__)

Padding = Literal["right", "left", "none"]


@dataclass(frozen=True)
class SequenceClassifier:
    """A loaded sequence classifier.

    Attributes:
        backbone: The whole classifier with its tokenizer and kind.
        classes: Names of the classes in index order.
        layer: Dotted name of the final linear layer.
        padding: Padding side that does not change a text's logits.
    """

    backbone: Backbone
    classes: tuple[str, ...]
    layer: str
    padding: Padding = "right"


class SequenceEncoder(FinalLayerEncoder):
    """From texts to the input of a sequence classifier's final linear layer."""

    def __init__(self, classifier: SequenceClassifier, *, max_length: int) -> None:
        """Wrap a classifier without changing it; texts are cut to `max_length` tokens."""
        length = usable_length(classifier.backbone, max_length)
        super().__init__(classifier.backbone, classifier.layer, max_length=length)
        self._padding = classifier.padding
        self.one_by_one = classifier.padding == "none"
        self._takes = named_inputs(self.model)
        layer = middle_layer(self.model)
        if layer is not None and layer.reads_tokens(self._run_unequal):
            self.middle = layer

    def prepare(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        advance: Callable[[int], object] = lambda _: None,
        **_: Any,
    ) -> PreparedTexts:
        """Tokenise texts like the classifier's owner, without running the model."""
        tokens = tokenise(
            self.backbone, texts, pairs, max_length=self.max_length, as_its_owner=True
        )
        advance(len(tokens))
        return PreparedTexts(replace(tokens, pads_left=self._padding == "left"), None)

    def forward(self, batch: Batch) -> Tensor:
        """Return the final layer's input [B, d] float32, a 1 appended where it has a bias."""
        return self.run(batch)[0]

    def run(self, batch: Batch) -> tuple[Tensor, Any]:
        """Return the features of a batch and the logits [B, C] of the classifier.

        Raises:
            InputError: The final layer does not have one input per row.
        """
        device = self.backbone.device
        inputs = model_inputs(batch, device)
        inputs = {name: item for name, item in inputs.items() if name in self._takes}
        states, output = received(self._final, self.layer, lambda: self._call(inputs))
        if states.ndim == 3:
            # Decoders classify every position and use the last real one.
            states = states[torch.arange(len(states), device=device), self._last(batch).to(device)]
        check_one_vector(states, self.layer)
        return with_constant(states, self._final), getattr(output, "logits", output)

    def _run_unequal(self) -> Tensor:
        """Run the model on texts of unequal length and return their mask [B, T]."""
        batch = _probe(self, UNEQUAL_TEXTS)
        self.run(batch)
        return batch["attention_mask"]

    def _call(self, inputs: Batch) -> Any:
        if self._skipped_id is not None:
            return self.model(**inputs)
        # Decoders without a padding token refuse batches; -1 is no token.
        self._config.pad_token_id = -1
        try:
            return self.model(**inputs)
        finally:
            self._config.pad_token_id = None

    @property
    def _config(self) -> Any:
        config: Any = self.model.config
        return config.get_text_config()

    @property
    def _skipped_id(self) -> int | None:
        """The token that a decoder skips in its search for the last token."""
        token_id: int | None = getattr(self._config, "pad_token_id", None)
        return token_id

    def _last(self, batch: Batch) -> Tensor:
        """Return the index [B] of each row's last token that is neither padding nor skipped."""
        real = batch["attention_mask"]
        if self._skipped_id is not None:
            # transformers searches for the token and ignores the mask: if the padding token also
            # ends texts, it uses the position before the end.
            real = real * (batch["input_ids"] != self._skipped_id)
        return (real * torch.arange(real.shape[1])).argmax(1)


def named_inputs(model: Any) -> set[str]:
    """Return the named arguments of a model's `forward`; it may misinterpret others."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {"input_ids", *inspect.signature(inner.forward).parameters}


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
    encoder = SequenceEncoder(replace(classifier, padding="right"), max_length=32)
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


def _probe(encoder: SequenceEncoder, texts: Sequence[str]) -> Batch:
    return encoder.prepare(texts).collate(range(len(texts)))


def _call_plainly(backbone: Backbone) -> None:
    probe = torch.ones(1, 2, dtype=torch.long, device=backbone.device)
    inputs = {"input_ids": probe, "attention_mask": probe}
    takes = named_inputs(backbone.model)
    backbone.model(**{name: item for name, item in inputs.items() if name in takes})
