"""Loading of existing sequence classifiers from disk or hub, and their class names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bayeslora.backbones.hub import check_reachable
from bayeslora.backbones.images import is_image_model, is_vision
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
"""Name of a classifier that was passed as a module without a path."""

# What other heads classify. Several use the weight names of a sequence classifier.
_OTHER_HEADS = {
    "ForTokenClassification": "each token",
    "ForQuestionAnswering": "spans of a text",
    "ForMultipleChoice": "choices",
}


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
    check_name(source)
    if is_peft(source):
        model = merged_classifier(source, trust_remote_code=trust_remote_code)
        return model, source, tokenizer_source(source)
    adapters = named_adapters(source)
    if adapters:
        raise InputError(
            f"{source} contains several PEFT checkpoints; pass the directory of one: "
            f"{', '.join(adapters)}"
        )
    check_reachable(source)
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
    if config.problem_type == "multi_label_classification":
        raise InputError(
            f"{name} is a multi-label classifier; only classifiers with one label per text are "
            "supported"
        )
    if config.num_labels < 2:
        raise InputError(
            f"{name} has {config.num_labels} output; a classifier needs at least two classes"
        )
    if config.problem_type == "regression":
        raise InputError(
            f"{name} is a regression model with {config.num_labels} outputs, not a classifier"
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
    not_list = isinstance(classes, str) or not isinstance(classes, Sequence)
    if not_list or not all(isinstance(item, str) and item.strip() for item in classes):
        raise InputError(f"classes must be a list of class names in index order, got {classes!r}")
    if len(set(classes)) < max(2, len(classes)):
        raise InputError(f"classes must be at least two distinct names, got {list(classes)!r}")
    if num_classes is not None and len(classes) != num_classes:
        raise InputError(
            f"classes has {len(classes)} names, but the classifier has {num_classes} outputs: "
            f"{', '.join(map(repr, classes))}"
        )
    return tuple(classes)


def _from_transformers(source: str, trust_remote_code: bool) -> nn.Module:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    check_weights_files(source)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError):  # such as a PEFT checkpoint on the hub, which has none
        config = None
    if config is not None:
        _check_texts(source, config)
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
            f"{source} is a PEFT checkpoint on the hub; only local PEFT checkpoints can be "
            "loaded: download it with `hf download` and pass the directory"
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
    classifier: nn.Module = model
    return classifier


def _check_texts(name: str, config: Any) -> None:
    """Raise InputError for an image classifier."""
    if is_image_model(config):
        advice = "; fit one with it as the backbone (fit --backbone)" if is_vision(config) else ""
        raise InputError(
            f"{name} is an image classifier ({config.model_type}); of finished classifiers, only "
            f"those of texts are supported{advice}"
        )


def _check_kind(name: str, architecture: str) -> None:
    for ending, unit in _OTHER_HEADS.items():
        if str(architecture).endswith(ending):
            raise InputError(
                f"{name} is a {architecture}, which classifies {unit}; expected a sequence "
                "classifier with one label per text"
            )
