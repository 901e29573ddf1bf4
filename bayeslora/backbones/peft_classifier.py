"""PEFT checkpoints of sequence classifiers: merge adapters and head into the base model.

PEFT loads an incomplete checkpoint and leaves missing tensors at random values. Here the file must
contain every adapter tensor and every tensor for which the base has no trained values.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora import foreign
from bayeslora.backbones.embedded import EMBEDDED_MODELS, embedded_directory
from bayeslora.errors import InputError
from bayeslora.foreign import PEFT_CONFIG, TENSOR_ROOT, few
from bayeslora.plain_text import counted

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
