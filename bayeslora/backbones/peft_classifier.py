"""A PEFT checkpoint of a sequence classifier: adapters and head, to be merged into its base."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from bayeslora.backbones.hub import check_reachable
from bayeslora.errors import InputError, MissingAssetError
from bayeslora.files import read_json

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_HEADS = (".score.weight", ".classifier.weight", ".classifier.out_proj.weight")


def is_peft(source: str) -> bool:
    """Return whether `source` is the directory of a PEFT checkpoint."""
    return (Path(source) / _CONFIG).is_file()


def base_name(source: str) -> str:
    """Return the directory or hub id of the model that a checkpoint adapts.

    Raises:
        InputError: The checkpoint does not say.
    """
    path = Path(source) / _CONFIG
    config = read_json(path)
    name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(name, str) or not name:
        raise InputError(f"{path} does not name its base model")
    return name


def tokenizer_source(source: str) -> str:
    """Return where the tokenizer of a checkpoint is: with it, or else with its base model."""
    has_own = (Path(source) / "tokenizer_config.json").is_file()
    return source if has_own else base_name(source)


def merged_classifier(source: str) -> nn.Module:
    """Return the base model with the checkpoint's adapters merged into it and its head in place.

    Raises:
        InputError: peft is not installed, the checkpoint has no head, or it cannot be loaded.
    """
    try:
        from peft import AutoPeftModelForSequenceClassification
    except ImportError:
        raise MissingAssetError(
            f"{source} is a PEFT checkpoint; run `pip install bayeslora[peft]`"
        ) from None
    base = base_name(source)
    check_reachable(base)
    try:
        model = AutoPeftModelForSequenceClassification.from_pretrained(
            source, num_labels=_num_classes(source), dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise InputError(
            f"{source} (adapters of {base}) cannot be loaded as a sequence classifier: {reason}"
        ) from error
    merged: nn.Module = model.merge_and_unload()
    return merged


def _num_classes(source: str) -> int:
    """Return the number of outputs of the head that a checkpoint holds."""
    from safetensors import SafetensorError, safe_open

    path = Path(source) / _WEIGHTS
    if not path.is_file():
        raise InputError(f"{source} has no {_WEIGHTS}; pickled weights are not read")
    try:
        with safe_open(str(path), "pt") as file:
            heads = [name for name in file.keys() if name.endswith(_HEADS)]  # noqa: SIM118 - no mapping
            shapes = [file.get_slice(name).get_shape() for name in heads]
    except SafetensorError as error:
        raise InputError(f"{path} is damaged or truncated: {error}") from None
    if not shapes:
        raise InputError(f"{source} holds no classification head; save it with modules_to_save")
    return int(shapes[-1][0])
