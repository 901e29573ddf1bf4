"""Somebody else's fine-tuned sequence classifier as a source of features.

The feature of a text is what its final linear layer receives; that layer's weight and bias are the
mean that a posterior starts from.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bayeslora.backbones.classifier_source import class_names, open_classifier
from bayeslora.backbones.encoder import Batch, FeatureExtractor, PreparedTexts, model_inputs
from bayeslora.backbones.final_layer import (
    check_layer,
    check_logits,
    check_one_vector,
    find_layer,
    gap,
    layer_weight,
    received,
    with_constant,
)
from bayeslora.backbones.load import Backbone, fingerprint, model_kind, open_source, pick_device
from bayeslora.backbones.tokens import tokenise
from bayeslora.errors import InputError

logger = logging.getLogger(__name__)

Padding = Literal["right", "left", "none"]

# Of different lengths under any tokenizer, so that the first is padded beside the second.
_PROBE = ("text", "text and more text, so that the other one is padded beside it")


@dataclass(frozen=True)
class SequenceClassifier:
    """A loaded sequence classifier.

    Attributes:
        backbone: The whole classifier, its tokenizer and its kind.
        classes: Names of the classes in index order.
        layer: Dotted name of the final linear layer.
        skipped_id: The token that its decoder passes over when it looks for the last one.
        padding: Where padding leaves a text's logits as they are.
    """

    backbone: Backbone
    classes: tuple[str, ...]
    layer: str
    skipped_id: int | None = None
    padding: Padding = "right"


class SequenceEncoder(FeatureExtractor):
    """From texts to the input of a sequence classifier's final linear layer."""

    def __init__(self, classifier: SequenceClassifier, *, max_length: int) -> None:
        """Wrap a classifier, which stays as it is; texts are cut to `max_length` tokens."""
        super().__init__()
        self.backbone = classifier.backbone
        self.model = classifier.backbone.model
        self.max_length = max_length
        self.layer = classifier.layer
        self._final = self.model.get_submodule(classifier.layer)
        self._skipped_id = classifier.skipped_id
        self._padding = classifier.padding
        self._takes = _named_inputs(self.model)

    @property
    def num_features(self) -> int:
        """d, with the constant column where the final layer has a bias."""
        return self.weight.shape[1]

    @property
    def weight(self) -> Tensor:
        """[C, d] float32: the final layer's weight, its bias as the last column if it has one."""
        return layer_weight(self._final)

    def prepare(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        advance: Callable[[int], object] = lambda _: None,
    ) -> PreparedTexts:
        """Tokenise texts as the classifier's owner does; nothing is run yet."""
        tokens = tokenise(
            self.backbone, texts, pairs, max_length=self.max_length, as_its_owner=True
        )
        advance(len(tokens))
        return PreparedTexts(replace(tokens, pads_left=self._padding == "left"), None)

    def batches(self, prepared: PreparedTexts, batch_size: int) -> Iterator[list[int]]:
        """Yield all rows in batches of similar length, alone where padding changes the logits."""
        return super().batches(prepared, 1 if self._padding == "none" else batch_size)

    def forward(self, batch: Batch) -> Tensor:
        """Return the final layer's input [B, d] float32, a 1 appended where it has a bias."""
        return self.run(batch)[0]

    def run(self, batch: Batch) -> tuple[Tensor, Any]:
        """Return the features of a batch, and the logits [B, C] of the classifier itself.

        Raises:
            InputError: The final layer does not have one input a row.
        """
        device = self.backbone.device
        inputs = model_inputs(batch, device)
        inputs = {name: item for name, item in inputs.items() if name in self._takes}
        states, output = received(self._final, self.layer, lambda: self.model(**inputs))
        if states.ndim == 3:
            # Decoders classify every position and read the answer at the last real one.
            states = states[torch.arange(len(states), device=device), self._last(batch).to(device)]
        check_one_vector(states, self.layer)
        return with_constant(states, self._final), getattr(output, "logits", output)

    def _last(self, batch: Batch) -> Tensor:
        """Return the place [B] of each row's last token that is neither padding nor passed over."""
        real = batch["attention_mask"]
        if self._skipped_id is not None:
            # transformers looks for the token and not at the mask: with a padding token that also
            # ends texts it reads the answer before the end.
            real = real * (batch["input_ids"] != self._skipped_id)
        return (real * torch.arange(real.shape[1])).argmax(1)


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

    The layer is checked by running the classifier on two short texts: its output has to be the
    classifier's logits.

    Args:
        source: A directory, a hub id, a PEFT checkpoint directory, or the model itself, which is
            then frozen and put in evaluation mode.
        tokenizer: Needed with a model in memory whose own tokenizer cannot be found.
        layer: Dotted name of the final linear layer, where it cannot be found.
        classes: Names of the classes in index order; None takes those of the configuration.
        device: A torch device; None takes the GPU if there is one.
        trust_remote_code: Whether code from the model's repository may run.

    Raises:
        InputError: There is no such model, it is not a classifier with one label a text, weights
            are missing from it, or the final layer cannot be told or has no features.
    """
    model, name, reader = open_classifier(source, trust_remote_code)
    config: Any = model.config
    kind = model_kind(name, config)
    names = class_names(config, name, classes)
    if tokenizer is None:
        if not reader:
            raise InputError("a model in memory does not name its tokenizer; pass tokenizer")
        tokenizer = open_source("tokenizer", reader, trust_remote_code)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    skipped = getattr(config, "pad_token_id", None)
    if skipped is None:
        config.pad_token_id = tokenizer.pad_token_id or 0
    model.requires_grad_(False).eval().to(pick_device(device))
    backbone = Backbone(name, model, tokenizer, kind, fingerprint(model), torch.float32)
    final = layer or find_layer(model, lambda: _call_plainly(backbone), len(names))
    check_layer(model, final, len(names))
    return _checked(SequenceClassifier(backbone, names, final, skipped))


@torch.no_grad()
def _checked(classifier: SequenceClassifier) -> SequenceClassifier:
    """Return the classifier with the padding that its logits do not see.

    Raises:
        InputError: The final layer's output is not what the classifier answers.
    """
    encoder = SequenceEncoder(classifier, max_length=32)
    alone = []
    for text in _PROBE:
        features, logits = encoder.run(_readable(encoder, [text]))
        check_logits(features, encoder.weight, logits, classifier.layer)
        alone.append(logits)
    expected = torch.cat(alone)
    for padding in ("right", "left"):
        encoder._padding = padding  # noqa: SLF001 - the encoder is this function's own
        features, _ = encoder.run(_readable(encoder, _PROBE))
        if gap(features, encoder.weight, expected) <= 1:
            return replace(classifier, padding=padding)
    logger.warning(
        "%s gives a text other logits beside a longer one: texts are run one by one",
        classifier.backbone.name,
    )
    return replace(classifier, padding="none")


def _readable(encoder: SequenceEncoder, texts: Sequence[str]) -> Batch:
    """Return the batch of a probe.

    Raises:
        InputError: The tokenizer has tokens that the classifier does not know.
    """
    batch = encoder.prepare(texts).collate(range(len(texts)))
    table = getattr(encoder.model, "get_input_embeddings", lambda: None)()
    known, highest = getattr(table, "num_embeddings", None), int(batch["input_ids"].max())
    if known is not None and highest >= known:
        raise InputError(
            f"the tokenizer gives token {highest} and {encoder.backbone.name} knows {known} tokens: "
            "it is another model's tokenizer"
        )
    return batch


def _call_plainly(backbone: Backbone) -> None:
    probe = torch.ones(1, 2, dtype=torch.long, device=backbone.device)
    inputs = {"input_ids": probe, "attention_mask": probe}
    takes = _named_inputs(backbone.model)
    backbone.model(**{name: item for name, item in inputs.items() if name in takes})


def _named_inputs(model: Any) -> set[str]:
    """Return the names that a model's `forward` spells out; others it may misread."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {"input_ids", *inspect.signature(inner.forward).parameters}
