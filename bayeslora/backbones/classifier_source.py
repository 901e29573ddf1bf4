"""Somebody else's sequence classifier from disk or hub, and what its configuration says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bayeslora.backbones.hub import check_reachable
from bayeslora.backbones.peft_classifier import (
    is_peft,
    merged_classifier,
    named_adapters,
    tokenizer_source,
)
from bayeslora.backbones.untrusted import (
    check_fit,
    check_name,
    check_weights_files,
    few,
    reading,
)
from bayeslora.errors import InputError
from bayeslora.runtime import restored_random_state

IN_MEMORY = "a model in memory"
"""Name of a classifier that was passed as a module without a place of its own."""

# What other heads classify. Several keep their weights under the names of a sequence classifier.
_OTHER_HEADS = {
    "ForTokenClassification": "each token",
    "ForQuestionAnswering": "spans of a text",
    "ForMultipleChoice": "choices",
}


@restored_random_state()
def open_classifier(source: str | nn.Module, trust_remote_code: bool) -> tuple[nn.Module, str, str]:
    """Return the model, its name, and where its tokenizer is (empty where that is unknown).

    Args:
        source: A directory, a hub id, a PEFT checkpoint directory, or the model itself.
        trust_remote_code: Whether code from the model's repository may run.

    Raises:
        InputError: There is no such model, it is none of texts, or weights are missing from it.
    """
    if isinstance(source, nn.Module):
        if not hasattr(getattr(source, "config", None), "num_labels"):
            raise InputError(
                f"{type(source).__name__} is no Hugging Face classifier (it has no config); "
                "BayesianClassifier.from_module takes any module"
            )
        path = str(getattr(source, "name_or_path", ""))
        _check_kind(path or IN_MEMORY, type(source).__name__)
        return source, path or IN_MEMORY, path
    check_name(source)
    if is_peft(source):
        model = merged_classifier(source, trust_remote_code=trust_remote_code)
        return model, source, tokenizer_source(source)
    adapters = named_adapters(source)
    if adapters:
        raise InputError(
            f"{source} holds PEFT checkpoints by name; pass the directory of one: "
            f"{', '.join(adapters)}"
        )
    check_reachable(source)
    return _from_transformers(source, trust_remote_code), source, source


def class_names(config: Any, name: str, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the names of a classifier's classes in index order.

    Args:
        config: The model's.
        name: Of the model, for messages.
        given: Names to take instead of the configuration's.

    Raises:
        InputError: The classifier is a regression, gives several labels a text, or its classes do
            not have one distinct name each.
    """
    if config.problem_type == "multi_label_classification":
        raise InputError(f"{name} gives a text any number of labels; only one label a text is read")
    if config.num_labels < 2:
        raise InputError(
            f"{name} has {config.num_labels} output; a classifier has two or more classes"
        )
    if config.problem_type == "regression":
        raise InputError(f"{name} predicts {config.num_labels} numbers (a regression), not a class")
    if given is not None:
        return checked_names(given, config.num_labels)
    names = [config.id2label.get(index) for index in range(config.num_labels)]
    if None in names or len(set(map(str, names))) < len(names):
        raise InputError(
            f"{name} has {config.num_labels} outputs and id2label {config.id2label}: name the "
            "classes in index order with classes (--classes)"
        )
    return tuple(map(str, names))


def checked_names(given: Sequence[str], num_classes: int | None = None) -> tuple[str, ...]:
    """Return the class names that the caller passed.

    Raises:
        InputError: They are not `num_classes` (two or more) distinct strings.
    """
    alone = isinstance(given, str) or not isinstance(given, Sequence)
    if alone or not all(isinstance(item, str) and item.strip() for item in given):
        raise InputError(f"classes must be a list of names in index order, got {given!r}")
    if len(set(given)) < max(2, len(given)):
        raise InputError(f"classes must be two or more distinct names, got {list(given)!r}")
    if num_classes is not None and len(given) != num_classes:
        raise InputError(
            f"classes has {len(given)} names and the classifier {num_classes} outputs: "
            f"{', '.join(map(repr, given))}"
        )
    return tuple(given)


def _from_transformers(source: str, trust_remote_code: bool) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    check_weights_files(source)
    with reading(f"{source} cannot be loaded as a sequence classifier"):
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            source,
            output_loading_info=True,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise InputError(
            f"{source} is a PEFT checkpoint on the hub, and its tensors are checked on "
            "disk: download it (`hf download`) and pass the directory"
        )
    for architecture in getattr(model.config, "architectures", None) or ():
        _check_kind(source, architecture)
    missing = sorted(loading["missing_keys"])
    if missing:
        raise InputError(
            f"{source} has no trained weights for {few(missing)}; it is not a "
            "fine-tuned sequence classifier"
        )
    check_fit(source, model, loading)
    found: nn.Module = model
    return found


def _check_kind(name: str, architecture: str) -> None:
    for ending, what in _OTHER_HEADS.items():
        if str(architecture).endswith(ending):
            raise InputError(
                f"{name} is a {architecture}, which classifies {what}; a sequence classifier, with "
                "one label a text, is needed"
            )
