"""Existing fine-tuned sequence classifiers: loading, and features.

The feature of a text is the input of the classifier's final linear layer; the weight and bias of
this layer are the initial mean of a posterior.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bayeslora import foreign
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.final_layer import FinalLayerEncoder, check_layer, find_layer, received
from bayeslora.backbones.images import is_image_model, is_vision
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
from bayeslora.backbones.peft_classifier import (
    is_peft,
    merged_classifier,
    named_adapters,
    tokenizer_source,
)
from bayeslora.backbones.prefix import middle_layer
from bayeslora.backbones.tokens import UNEQUAL_TEXTS, Batch, model_inputs, tokenise, usable_length
from bayeslora.errors import InputError
from bayeslora.option_checks import MAX_LENGTH
from bayeslora.runtime import restored_random_state

logger = logging.getLogger(__name__)

Padding = Literal["right", "left", "none"]
_PROBE_LENGTH = 32

IN_MEMORY = "a model in memory"
"""Name of a classifier that was passed as a module without a path."""

# Several of them use the weight names of a sequence classifier.
_OTHER_HEADS = ("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")


class SequenceEncoder(FinalLayerEncoder):
    """From texts to the input of a sequence classifier's final linear layer.

    Attributes:
        classes: Names of the classes in index order.
        padding: Padding side that does not change a text's logits.
    """

    def __init__(
        self, backbone: Backbone, classes: tuple[str, ...], layer: str, *, max_length: int
    ) -> None:
        """Wrap a classifier without changing it.

        Args:
            backbone: The whole classifier with its tokenizer and kind.
            classes: Names of the classes in index order.
            layer: Dotted name of the final linear layer.
            max_length: Maximal number of tokens per text.

        Raises:
            InputError: The final layer's output differs from the classifier's logits.
        """
        super().__init__(backbone, layer, max_length=usable_length(backbone, _PROBE_LENGTH))
        self.classes = classes
        self._takes = named_inputs(self.model)
        self.padding: Padding = "right"
        self.padding = self._harmless_padding()
        self.one_by_one = self.padding == "none"
        middle = middle_layer(self.model)
        if middle is not None and middle.reads_tokens(self._run_unequal):
            self.middle = middle
        self.max_length = usable_length(backbone, max_length)

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
        return PreparedTexts(replace(tokens, pads_left=self.padding == "left"), None)

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
        return self.from_states(states), getattr(output, "logits", output)

    @torch.no_grad()
    def _harmless_padding(self) -> Padding:
        """Return the padding side that does not change the classifier's logits.

        Raises:
            InputError: The final layer's output differs from the classifier's logits.
        """
        alone = []
        for text in UNEQUAL_TEXTS:
            features, logits = self.run(self._probe([text]))
            self.check_logits(features, logits)
            alone.append(logits)
        sides: tuple[Padding, ...] = ("right", "left")
        for side in sides:
            self.padding = side
            features, _ = self.run(self._probe(UNEQUAL_TEXTS))
            if self.gap(features, torch.cat(alone)) <= 1:
                return side
        logger.warning(
            "the logits of %s depend on padding: it runs one text at a time", self.backbone.name
        )
        return "none"

    def _probe(self, texts: Sequence[str]) -> Batch:
        return self.prepare(texts).collate(range(len(texts)))

    def _run_unequal(self) -> Tensor:
        """Run the model on texts of unequal length and return their mask [B, T]."""
        batch = self._probe(UNEQUAL_TEXTS)
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
    max_length: int = MAX_LENGTH,
    tokenizer: Any = None,
    layer: str | None = None,
    classes: Sequence[str] | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> SequenceEncoder:
    """Load a Hugging Face sequence classifier and find its final linear layer.

    The classifier is run on two short texts to check that the layer's output equals its logits.

    Args:
        source: A directory, a hub id, a PEFT checkpoint directory, or the model itself, which is
            then frozen and set to evaluation mode.
        max_length: Maximal number of tokens per text.
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
        with foreign.reading(f"{name} cannot be run"):
            _call_plainly(backbone)
    final = layer or find_layer(model, lambda: _call_plainly(backbone), len(names))
    check_layer(model, final, len(names))
    return SequenceEncoder(backbone, names, final, max_length=max_length)


def _call_plainly(backbone: Backbone) -> None:
    probe = torch.ones(1, 2, dtype=torch.long, device=backbone.device)
    inputs = {"input_ids": probe, "attention_mask": probe}
    takes = named_inputs(backbone.model)
    backbone.model(**{name: item for name, item in inputs.items() if name in takes})


@restored_random_state()
def open_classifier(source: str | nn.Module, trust_remote_code: bool) -> tuple[nn.Module, str, str]:
    """Return the model, its name, and the source of its tokenizer (empty if unknown).

    Args:
        source: A directory, a hub id, a PEFT checkpoint directory, or the model itself.
        trust_remote_code: Whether code from the model's repository may run.

    Raises:
        InputError: There is no such model, it is not a text classifier, or it lacks weights.
    """
    if isinstance(source, nn.Module):
        if not hasattr(getattr(source, "config", None), "num_labels"):
            raise InputError(
                f"{type(source).__name__} is not a Hugging Face classifier (it has no config); "
                "use BayesianClassifier.from_module for other modules"
            )
        path = str(getattr(source, "name_or_path", ""))
        _check_texts(path or IN_MEMORY, source.config)
        _check_kind(path or IN_MEMORY, type(source).__name__)
        return source, path or IN_MEMORY, path
    foreign.check_name(source)
    if is_peft(source):
        model = merged_classifier(source, trust_remote_code=trust_remote_code)
        return model, source, tokenizer_source(source)
    adapters = named_adapters(source)
    if adapters:
        raise InputError(
            f"{source} contains several PEFT checkpoints; pass the directory of one: "
            f"{', '.join(adapters)}"
        )
    foreign.check_reachable(source)
    return _from_transformers(source, trust_remote_code), source, source


def class_names(config: Any, name: str, classes: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the names of a classifier's classes in index order.

    Args:
        config: Configuration of the model.
        name: Name of the model, for messages.
        classes: Names to use instead of the configuration's.

    Raises:
        InputError: The model is a regression, predicts several labels per text, or its classes do
            not have distinct names.
    """
    if config.problem_type in ("multi_label_classification", "regression") or config.num_labels < 2:
        raise InputError(
            f"{name} has {config.num_labels} outputs and problem_type {config.problem_type}; only "
            "classifiers with one label per text, of two or more classes, are supported"
        )
    if classes is not None:
        return checked_names(classes, config.num_labels)
    names = [config.id2label.get(index) for index in range(config.num_labels)]
    if None in names or len(set(map(str, names))) < len(names):
        raise InputError(
            f"{name} has {config.num_labels} outputs but id2label {config.id2label}; pass the "
            "class names in index order with classes (--classes)"
        )
    return tuple(map(str, names))


def checked_names(classes: Sequence[str], num_classes: int | None = None) -> tuple[str, ...]:
    """Check class names and return them as a tuple.

    Raises:
        InputError: They are not `num_classes` (two or more) distinct strings.
    """
    is_list = isinstance(classes, Sequence) and not isinstance(classes, str)
    named = is_list and all(isinstance(item, str) and item.strip() for item in classes)
    if not named or len(set(classes)) < max(2, len(classes)):
        raise InputError(
            f"classes must be two or more distinct names in index order, got {classes!r}"
        )
    if num_classes is not None and len(classes) != num_classes:
        raise InputError(
            f"classes has {len(classes)} names, but the classifier has {num_classes} outputs"
        )
    return tuple(classes)


def _from_transformers(source: str, trust_remote_code: bool) -> nn.Module:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    foreign.check_weights_files(source)
    config = None
    # A PEFT checkpoint on the hub has no configuration; other errors return with the weights.
    with suppress(Exception):
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    _check_texts(source, config)
    with foreign.reading(f"{source} cannot be loaded as a sequence classifier"):
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            source,
            output_loading_info=True,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise InputError(
            f"{source} is a PEFT checkpoint on the hub; only local PEFT checkpoints can be "
            "loaded: download it with `hf download` and pass the directory"
        )
    for architecture in getattr(model.config, "architectures", None) or ():
        _check_kind(source, architecture)
    missing = sorted(loading["missing_keys"])
    if missing:
        raise InputError(
            f"{source} has no trained weights for {foreign.few(missing)}; it is not a "
            "fine-tuned sequence classifier"
        )
    foreign.check_fit(source, model, loading)
    classifier: nn.Module = model
    return classifier


def _check_texts(name: str, config: Any) -> None:
    """Raise InputError for an image classifier."""
    if config is not None and is_image_model(config):
        advice = "; fit one with it as the backbone (fit --backbone)" if is_vision(config) else ""
        raise InputError(
            f"{name} is an image classifier ({config.model_type}); of finished classifiers, only "
            f"those of texts are supported{advice}"
        )


def _check_kind(name: str, architecture: str) -> None:
    if str(architecture).endswith(_OTHER_HEADS):
        raise InputError(
            f"{name} is a {architecture}; expected a sequence classifier with one label per text"
        )
