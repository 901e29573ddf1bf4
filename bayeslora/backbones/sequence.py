"""Existing fine-tuned sequence classifiers, plain or as PEFT checkpoints: loading, and features.

The feature of a text is the input of the classifier's final linear layer; the weight and bias of
this layer are the initial mean of a posterior.

PEFT loads an incomplete checkpoint and leaves missing tensors at random values. Here the file must
contain every adapter tensor and every tensor for which the base has no trained values.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bayeslora import foreign
from bayeslora.backbones import load
from bayeslora.backbones.embedded import EMBEDDED_MODELS, embedded_directory
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.final_layer import (
    FinalLayerEncoder,
    check_layer,
    checked_names,
    find_layer,
    received,
)
from bayeslora.backbones.images import is_image_model, is_vision
from bayeslora.backbones.load import Backbone
from bayeslora.backbones.prefix import middle_layer
from bayeslora.backbones.tokens import UNEQUAL_TEXTS, Batch, model_inputs, tokenise, usable_length
from bayeslora.errors import InputError
from bayeslora.foreign import PEFT_CONFIG, TENSOR_ROOT, few
from bayeslora.option_checks import MAX_LENGTH
from bayeslora.plain_text import counted
from bayeslora.runtime import restored_random_state

_HEADS = (
    ".score.weight",
    ".classifier.weight",
    ".logits_proj.weight",
    ".score.out_proj.weight",
    ".classifier.out_proj.weight",
)


def is_peft(source: str) -> bool:
    """Return whether `source` is the directory of a PEFT checkpoint."""
    return (Path(source) / PEFT_CONFIG).is_file()


def base_name(source: str) -> str:
    """Return the directory or hub id of the model that a checkpoint adapts.

    Raises:
        InputError: The checkpoint does not name it.
    """
    options, embedded = foreign.peft_options(source), foreign.embedded_base(source)
    if embedded in EMBEDDED_MODELS:
        return str(embedded_directory(embedded))
    name = options.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise InputError(
            f"{Path(source) / PEFT_CONFIG} does not name its base model; write it there as "
            "base_model_name_or_path, or pass backbone=... (info --backbone)"
        )
    foreign.check_name(name)
    return name


def tokenizer_source(source: str) -> str:
    """Return the source of a checkpoint's tokenizer: the checkpoint, or else its base model."""
    has_own = (Path(source) / "tokenizer_config.json").is_file()
    return source if has_own else base_name(source)


def merged_classifier(source: str, *, trust_remote_code: bool = False) -> nn.Module:
    """Return the base model with the checkpoint's adapters merged into it and its head in place.

    Raises:
        InputError: The checkpoint is for another task, has no head, or was made for another base,
            or it or its base lacks tensors.
        MissingAssetError: peft is not installed.
    """
    config = foreign.peft_config(source)
    from peft import PeftModelForSequenceClassification

    tensors, base = foreign.peft_tensors(source), base_name(source)
    if config.task_type not in (None, "SEQ_CLS"):
        raise InputError(
            f"{source} is a PEFT checkpoint for task {config.task_type}, not for SEQ_CLS"
        )
    start = getattr(config, "init_lora_weights", None)
    foreign.check_start(source, start, ("pissa", "olora", "loftq"))
    subject = f"{source} (adapter of {base}) cannot be loaded as a sequence classifier"
    plain, untrained = _base(
        subject, base, config, _num_classes(source, tensors), trust_remote_code
    )
    if tokenizer_source(source) == source:
        _make_room(plain, source, trust_remote_code)
    with foreign.reading(subject), warnings.catch_warnings():
        # PEFT warns if it cannot fetch the base's configuration from the hub.
        warnings.simplefilter("ignore")
        config.inference_mode = True
        model = PeftModelForSequenceClassification(plain, config)
    _check_tensors(source, base, model, tensors.keys(), untrained)
    with foreign.reading(subject):
        model.load_adapter(source, "default")
    if not hasattr(model.base_model, "merge_and_unload"):
        raise InputError(
            f"{source} uses PEFT method {config.peft_type.value}, which cannot be merged into the "
            "base model"
        )
    with foreign.reading(f"{source} cannot be merged into its base model {base}"):
        merged: nn.Module = model.merge_and_unload()
    return merged


def named_adapters(source: str) -> list[str]:
    """Return the subfolders with PEFT checkpoints, which PEFT writes for named adapters.

    The result is empty if the directory itself is a model.
    """
    if (Path(source) / "config.json").is_file():
        return []
    return sorted(str(path.parent) for path in Path(source).glob(f"*/{PEFT_CONFIG}"))


def _base(
    subject: str, base: str, config: Any, num_classes: int, trust_remote_code: bool
) -> tuple[nn.Module, set[str]]:
    """Return the base model and the names of its randomly initialised tensors."""
    from transformers import AutoModelForSequenceClassification

    foreign.check_reachable(base)
    foreign.check_weights_files(base)
    with foreign.reading(subject):
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            base,
            num_labels=num_classes,
            revision=config.revision or "main",
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            # A base may have its own head for other classes.
            ignore_mismatched_sizes=True,
        )
    foreign.check_fit(f"the base model {base!r}", model, loading)
    untrained = set(loading["missing_keys"])
    return model, untrained | {item[0] for item in loading["mismatched_keys"]}


def _make_room(model: Any, source: str, trust_remote_code: bool) -> None:
    """Resize the base's embeddings to the checkpoint's tokenizer."""
    from transformers import AutoTokenizer

    with foreign.reading(f"{source}: the tokenizer cannot be loaded"):
        tokens = len(AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code))
    if tokens > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(tokens)


def _check_tensors(
    source: str, base: str, model: Any, stored: Collection[str], untrained: Collection[str]
) -> None:
    """Raise InputError for missing or unexpected tensors of a checkpoint.

    Raises:
        InputError: Tensors are missing or unexpected; the message names up to three.
    """
    from peft import get_peft_model_state_dict

    expected = get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    missing = sorted(expected - set(stored))
    if missing:
        raise InputError(
            f"{source} lacks {counted(len(missing), 'tensor')} of its adapter or head, such as "
            f"{few(missing)}: it is damaged, or {base} is not the base model that it was trained "
            "on",
            code="damaged",
        )
    random = sorted(key for key in untrained if TENSOR_ROOT + key not in stored)
    if random:
        raise InputError(
            f"neither {source} nor its base model {base} has trained weights for {few(random)}; "
            "add these modules to modules_to_save when training"
        )
    known = {_unwrapped(name) for name in model.state_dict()}
    unexpected = sorted(name for name in set(stored) - expected if _unwrapped(name) not in known)
    if unexpected:
        raise InputError(
            f"{source} has {counted(len(unexpected), 'tensor')} without a matching layer in "
            f"{base}, such as {few(unexpected)}: it was trained on another base model"
        )


def _unwrapped(name: str) -> str:
    """Return the name of a tensor without an adapter around its layer."""
    return name.replace(".base_layer.", ".")


def _num_classes(source: str, tensors: Mapping[str, Tensor]) -> int:
    """Return the number of outputs of a checkpoint's head."""
    heads = [value for name, value in tensors.items() if name.endswith(_HEADS)]
    if not heads:
        raise InputError(f"{source} has no classification head; save the head with modules_to_save")
    return len(heads[-1])


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
    kind = load.model_kind(name, config)
    if kind == "decoder" and load.is_masked(config):
        # The first token, from which it reads the class, would attend to no other token.
        raise InputError(
            f"{name} is an encoder with is_decoder = true, so the first token, which the "
            "classifier reads, does not attend to the others; set is_decoder to false"
        )
    names = class_names(config, name, classes)
    if tokenizer is None:
        if not reader:
            raise InputError("a model in memory needs a tokenizer; pass it as tokenizer")
        tokenizer = load.open_source("tokenizer", reader, trust_remote_code)
    load.set_padding_token(tokenizer, reader or name)
    load.check_finite(f"classifier {name!r}", model)
    model.requires_grad_(False).eval().to(load.pick_device(device))
    backbone = Backbone(name, model, tokenizer, kind, load.fingerprint(model), torch.float32)
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
