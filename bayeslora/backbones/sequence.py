"""Finished classifiers: of transformers, as PEFT checkpoints, or any torch module.

The feature of a text is the input of the classifier's final linear layer; the weight and bias of
this layer are the initial mean of a posterior, which needs one input vector per row, and logits
that equal the layer's output. Both are checked by running the classifier, since names and classes
of modules guarantee neither.

transformers and PEFT leave weights that are in no file at random values; here they are refused.
A module that is no classifier of transformers, and the function from texts to its batches, belong
to the user: they are in memory, and neither can be saved to a model directory.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bayeslora import foreign
from bayeslora.backbones.encoder import FeatureExtractor, PreparedTexts
from bayeslora.backbones.load import (
    Backbone,
    check_finite,
    fingerprint,
    model_kind,
    open_source,
    pick_device,
    set_padding_token,
)
from bayeslora.backbones.prefix import inputs_of, middle_layer
from bayeslora.backbones.tokens import (
    UNEQUAL_TEXTS,
    Batch,
    Tokens,
    model_inputs,
    tokenise,
    usable_length,
)
from bayeslora.errors import InputError
from bayeslora.foreign import PEFT_CONFIG, TENSOR_ROOT, few
from bayeslora.io import read_json
from bayeslora.option_checks import MAX_LENGTH
from bayeslora.processes import restored_random_state

logger = logging.getLogger(__name__)

Padding = Literal["right", "left", "none"]
Encode = Callable[..., Any]

IN_MEMORY = "a model in memory"
"""Name of a classifier that was passed as a module without a path."""

_HEADS = (
    ".score.weight",
    ".classifier.weight",
    ".logits_proj.weight",
    ".score.out_proj.weight",
    ".classifier.out_proj.weight",
)
# Several of them use the weight names of a sequence classifier.
_OTHER_HEADS = ("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
_PROBE_LENGTH = 32
# Relative to the largest logit: float32 rounding is far below, another layer far above.
_TOLERANCE = 1e-3
_HALF_TOLERANCE = 5e-2


class FinalLayerEncoder(FeatureExtractor):
    """From texts to the input of the final linear layer of a classifier, which is not changed.

    Attributes:
        backbone: The whole classifier.
        classes: Names of the classes in index order.
        layer: Dotted name of the final layer.
        max_length: Maximal number of tokens per text; 1 if texts are not tokenised here.
    """

    def __init__(
        self, backbone: Backbone, classes: tuple[str, ...], layer: str, *, max_length: int
    ) -> None:
        """Find the layer."""
        super().__init__()
        self.backbone = backbone
        self.model = backbone.model
        self.classes = classes
        self.max_length = max_length
        self.layer = layer
        self._final: Any = self.model.get_submodule(layer)

    @property
    def num_features(self) -> int:
        """d, including the constant column if the final layer has a bias."""
        return self.weight.shape[1]

    @cached_property
    def weight(self) -> Tensor:
        """[C, d] float32: the final layer's weight, with its bias, if any, as the last column."""
        weight, bias = self._final.weight, self._final.bias
        columns = [weight] if bias is None else [weight, bias.unsqueeze(1)]
        return torch.cat([column.detach().float().cpu() for column in columns], 1)

    def received(self, run: Callable[[], Any]) -> tuple[Tensor, Any]:
        """Return the input of the final layer during `run`, and the logits that `run` returns.

        Raises:
            InputError: The layer did not run exactly once.
        """
        with inputs_of(self._final) as seen:
            output = run()
        if len(seen) != 1:
            raise InputError(
                f"layer {self.layer!r} ran {len(seen)} times; the posterior needs exactly one "
                "input per row, so choose another layer"
            )
        return seen[0], getattr(output, "logits", output)

    def from_states(self, states: Tensor) -> Tensor:
        """Return the features [B, d] float32 for inputs of the layer: a 1 is added for its bias.

        Raises:
            InputError: The inputs are not one vector per row.
        """
        if states.ndim != 2:
            raise InputError(
                f"layer {self.layer!r} receives an input of shape {list(states.shape)}; the "
                "posterior needs one vector per row, [rows, features]"
            )
        features = states.float()
        if self._final.bias is None:
            return features
        return torch.cat([features, features.new_ones(len(features), 1)], 1)

    def gap(self, features: Tensor, logits: Tensor) -> float:
        """Return the largest difference of the layer's output from logits, over the tolerance.

        Args:
            features: [B, d], including the constant column.
            logits: [B, C], of the classifier.
        """
        half = logits.dtype in {torch.bfloat16, torch.float16}
        expected = logits.detach().double().cpu()
        actual = features.detach().double().cpu() @ self.weight.double().T
        relative = _HALF_TOLERANCE if half else _TOLERANCE
        tolerated = relative * max(1.0, float(expected.abs().max()))
        return float((actual - expected).abs().max()) / tolerated

    def check_logits(self, features: Tensor, logits: Any) -> None:
        """Raise InputError if the classifier's logits are not the layer's output.

        Raises:
            InputError: They are no tensor, or their shape or values differ.
        """
        expected = [len(features), len(self.weight)]
        if not isinstance(logits, Tensor) or list(logits.shape) != expected:
            raise InputError(f"the classifier must return a tensor of logits {expected}")
        if not self.gap(features, logits) <= 1:  # not a number is no small gap
            raise InputError(
                f"the classifier's logits are not finite, or not the output of layer "
                f"{self.layer!r}: the posterior would ignore what the model applies after it; "
                "choose another layer"
            )


class SequenceEncoder(FinalLayerEncoder):
    """From texts to the input of a sequence classifier's final linear layer.

    Attributes:
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
        short = usable_length(backbone, _PROBE_LENGTH)
        super().__init__(backbone, classes, layer, max_length=short)
        # A model may misinterpret arguments that it does not name.
        inner: Any = backbone.model
        inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
        self._takes = {"input_ids", *inspect.signature(inner.forward).parameters}
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
        states, logits = self.received(lambda: self._call(inputs))
        if states.ndim == 3:
            # Decoders classify every position and use the last real one.
            states = states[torch.arange(len(states), device=device), self._last(batch).to(device)]
        return self.from_states(states), logits

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


@dataclass(frozen=True)
class EncodedTexts(PreparedTexts):
    """Texts that are encoded per batch; `tokens` counts their characters."""

    texts: Sequence[str]
    pairs: Sequence[str] | None
    encode: Encode

    def collate(self, rows: Sequence[int]) -> Any:
        """Return the input of the module."""
        columns = [self.texts] if self.pairs is None else [self.texts, self.pairs]
        return self.encode(*([column[row] for row in rows] for column in columns))


class ModuleEncoder(FinalLayerEncoder):
    """From texts to the input of a module's final linear layer."""

    def __init__(
        self, backbone: Backbone, encode: Encode, classes: tuple[str, ...], layer: str
    ) -> None:
        """Wrap a module without changing it.

        Args:
            backbone: The module; it has no tokenizer.
            encode: From texts, or texts and second texts, to the input of the module.
            classes: Names of the classes in index order.
            layer: Dotted name of the final linear layer.
        """
        super().__init__(backbone, classes, layer, max_length=1)
        self._encode = encode

    def prepare(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        advance: Callable[[int], object] = lambda _: None,
        **_: Any,
    ) -> EncodedTexts:
        """Keep the texts; they are encoded when their batch is run."""
        # Broadcast zeros: only the lengths are used.
        ids = tuple(np.broadcast_to(np.int64(0), (len(text),)) for text in texts)
        advance(len(texts))
        return EncodedTexts(Tokens(ids, 0, 0), None, texts, pairs, self._encode)

    def forward(self, batch: Any) -> Tensor:
        """Return the final layer's input [B, d] float32, a 1 appended where it has a bias.

        Raises:
            InputError: The layer does not have one input per row, or the module's logits are not
                its output.
        """
        from accelerate.utils import send_to_device

        content = send_to_device(batch, self.backbone.device)
        states, logits = self.received(lambda: _call(self.model, content))
        features = self.from_states(states)
        self.check_logits(features, logits)
        return features


def _call(module: nn.Module, content: Any) -> Any:
    if isinstance(content, Mapping):
        return module(**content)
    return module(*content) if isinstance(content, tuple | list) else module(content)


def wrap_module(
    module: nn.Module,
    encode: Encode,
    classes: Sequence[str],
    *,
    layer: str | None = None,
    device: str | None = None,
) -> ModuleEncoder:
    """Wrap a module as a classifier; the module is frozen and set to evaluation mode.

    Args:
        module: From a batch to logits [B, C], directly or as `.logits`.
        encode: From a list of texts to a tensor, a mapping (passed by name) or a tuple (passed by
            position); takes two lists if the data has second texts.
        classes: Names of the C classes in index order.
        layer: Dotted name of the final linear layer; None takes the last with C outputs.
        device: A torch device; None does not move the module.

    Raises:
        InputError: The class names are invalid, or there is no such layer.
    """
    names = _distinct(classes)
    final = final_layer(module, layer, len(names))
    check_finite("module", module)
    module.requires_grad_(False).eval()
    if device is not None:
        module.to(pick_device(device))
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    digest = fingerprint(module, buffers=True)
    backbone = Backbone(name, module, None, "encoder", digest, torch.float32)
    return ModuleEncoder(backbone, encode, names, final)


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
        layer: Dotted name of the final linear layer; None takes the last with an output per class.
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
    names = class_names(config, name, classes)
    if tokenizer is None:
        if not reader:
            raise InputError("a model in memory needs a tokenizer; pass it as tokenizer")
        tokenizer = open_source("tokenizer", reader, trust_remote_code)
    set_padding_token(tokenizer)
    check_finite(f"classifier {name!r}", model)
    model.requires_grad_(False).eval().to(pick_device(device))
    backbone = Backbone(name, model, tokenizer, kind, fingerprint(model), torch.float32)
    final = final_layer(model, layer, len(names))
    return SequenceEncoder(backbone, names, final, max_length=max_length)


@restored_random_state()
def open_classifier(source: str | nn.Module, trust_remote_code: bool) -> tuple[nn.Module, str, str]:
    """Return the model, its name, and the source of its tokenizer (empty if unknown).

    Args:
        source: A directory, a hub id, a PEFT checkpoint directory, or the model itself.
        trust_remote_code: Whether code from the model's repository may run.

    Raises:
        InputError: There is no such model, it is not a text classifier, or it lacks weights.
    """
    untrained: set[str] = set()
    if isinstance(source, nn.Module):
        if not hasattr(getattr(source, "config", None), "num_labels"):
            raise InputError(
                f"{type(source).__name__} is not a Hugging Face classifier (it has no config); "
                "use BayesianClassifier.from_module for other modules"
            )
        reader = str(getattr(source, "name_or_path", ""))
        model, name = source, reader or IN_MEMORY
    elif is_peft(source):
        model = merged_classifier(source, trust_remote_code=trust_remote_code)
        name, reader = source, tokenizer_source(source)
    else:
        model, untrained = _from_transformers(source, trust_remote_code)
        name = reader = source
    config: Any = model.config
    for architecture in (type(model).__name__, *(config.architectures or ())):
        if architecture.endswith(_OTHER_HEADS):
            raise InputError(
                f"{name} is a {architecture}; expected a sequence classifier with one label per "
                "text"
            )
    if untrained:
        raise InputError(
            f"{name} has no trained weights for {few(untrained)}; it is not a fine-tuned sequence "
            "classifier"
        )
    return model, name, reader


def _from_transformers(
    source: str, trust_remote_code: bool, **options: Any
) -> tuple[nn.Module, set[str]]:
    """Return a sequence classifier, and the names of its weights that are in no file."""
    from transformers import AutoModelForSequenceClassification

    foreign.check_reachable(source)
    with foreign.reading(f"{source} cannot be loaded as a sequence classifier"):
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            source,
            output_loading_info=True,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            **options,
        )
    foreign.check_fit(source, model, loading)
    return model, {*loading["missing_keys"], *(item[0] for item in loading["mismatched_keys"])}


def is_peft(source: str) -> bool:
    """Return whether `source` is the directory of a PEFT checkpoint."""
    return (Path(source) / PEFT_CONFIG).is_file()


def base_name(source: str) -> str:
    """Return the directory or hub id of the model that a checkpoint adapts."""
    return str(read_json(Path(source) / PEFT_CONFIG)["base_model_name_or_path"])


def tokenizer_source(source: str) -> str:
    """Return the source of a checkpoint's tokenizer: the checkpoint, or else its base model."""
    has_own = (Path(source) / "tokenizer_config.json").is_file()
    return source if has_own else base_name(source)


def merged_classifier(source: str, *, trust_remote_code: bool = False) -> nn.Module:
    """Return the base model with the checkpoint's adapters merged into it and its head in place.

    Raises:
        InputError: The checkpoint has no head, was made for another base, or it or its base lacks
            tensors.
        MissingAssetError: peft is not installed.
    """
    config = foreign.peft_config(source)
    from peft import PeftModelForSequenceClassification

    stored, base = foreign.peft_tensors(source), base_name(source)
    heads = [len(value) for name, value in stored.items() if name.endswith(_HEADS)]
    if not heads:
        raise InputError(f"{source} has no classification head; save the head with modules_to_save")
    plain, untrained = _from_transformers(
        base,
        trust_remote_code,
        num_labels=heads[-1],
        revision=config.revision or "main",
        # A base may have its own head for other classes.
        ignore_mismatched_sizes=True,
    )
    if tokenizer_source(source) == source:
        _make_room(plain, len(open_source("tokenizer", source, trust_remote_code)))
    with (
        foreign.reading(f"{source} (adapter of {base}) cannot be loaded"),
        warnings.catch_warnings(),
    ):
        # PEFT warns if it cannot fetch the base's configuration from the hub.
        warnings.simplefilter("ignore")
        config.inference_mode = True
        model = PeftModelForSequenceClassification(plain, config)
        loaded = model.load_adapter(source, "default")
        merged: nn.Module = model.merge_and_unload()
    missing = [name for name in untrained if TENSOR_ROOT + name not in stored]
    if missing or loaded.missing_keys:
        raise InputError(
            f"neither {source} nor its base model {base} has trained weights for "
            f"{few([*missing, *loaded.missing_keys])}; add these modules to modules_to_save when "
            "training",
            code="damaged",
        )
    if loaded.unexpected_keys:
        raise InputError(
            f"{source} has weights for {few(loaded.unexpected_keys)}, which its base model {base} "
            "lacks: it was trained on another"
        )
    return merged


def _make_room(model: Any, tokens: int) -> None:
    """Add embeddings for the tokens that a checkpoint's tokenizer has beyond its base's."""
    if tokens > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(tokens)


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
    count = config.num_labels
    if config.problem_type in ("multi_label_classification", "regression") or count < 2:
        raise InputError(
            f"{name} has {count} outputs and problem_type {config.problem_type}; only "
            "classifiers with one label per text, of two or more classes, are supported"
        )
    if classes is None:
        classes = [str(config.id2label.get(index)) for index in range(count)]
    if len(classes) != count:
        raise InputError(f"classes has {len(classes)} names, but {name} has {count} outputs")
    return _distinct(classes)


def _distinct(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of two or more classes; raise InputError for others."""
    if isinstance(classes, str) or len(set(classes)) < max(2, len(classes)):
        raise InputError(
            f"classes (--classes) must be two or more distinct names in index order, got {classes}"
        )
    return tuple(map(str, classes))


def final_layer(model: nn.Module, name: str | None, num_classes: int) -> str:
    """Return the name of the final linear layer: `name`, or the last with `num_classes` outputs.

    Raises:
        InputError: There is no such layer, or it is quantised.
    """
    linear: dict[str, nn.Linear] = {
        key: part for key, part in model.named_modules() if isinstance(part, nn.Linear)
    }
    fitting = [
        key
        for key, part in linear.items()
        if part.out_features == num_classes and part.weight.is_floating_point()
    ]
    final = fitting[-1] if fitting and name is None else name
    if final is None or final not in fitting:
        raise InputError(
            f"layer (--layer) must be an unquantised linear layer with {num_classes} outputs, got "
            f"{name!r}; the last linear layers are {', '.join([*linear][-5:])}"
        )
    return final
