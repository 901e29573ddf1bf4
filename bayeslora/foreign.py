"""Models that others made: what libraries read from their directories, and their layers.

transformers, tokenizers, safetensors and PEFT trust their input. A damaged or malicious directory
can make them raise any exception, or silently skip weights. Pickles are refused by
`use_safetensors=True`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bayeslora.errors import InputError, MissingAssetError, first_line
from bayeslora.io import read_json, read_tensors

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""Files of a PEFT checkpoint."""
TENSOR_ROOT = "base_model.model."
"""PEFT's prefix of a module's path in the model that it wraps."""

# Others, such as `pissa_niter_4`, change the base model's weights in a way that is in no file.
_STARTS = (None, True, False, "gaussian", "eva", "mica", "orthogonal", "pissa", "olora", "loftq")
_TIMEOUT = 10.0  # seconds, for an answer of the hub
_LONGEST_REASON = 300


@contextmanager
def reading(subject: str) -> Iterator[None]:
    """Convert any exception of a library that reads a foreign directory to InputError.

    Only library calls belong inside: they raise exceptions of any type for bad content.

    Args:
        subject: Start of the message, such as `backbone 'x' cannot be loaded`.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(f"{subject}: {reason[:_LONGEST_REASON]}") from error


def is_here(source: str) -> bool:
    """Return whether `source` is a path or in the hub's cache."""
    from huggingface_hub import errors, try_to_load_from_cache

    if Path(source).exists():
        return True
    try:
        # Every model repository has one of these files.
        files = [try_to_load_from_cache(source, file) for file in ("config.json", PEFT_CONFIG)]
    except errors.HFValidationError:
        return False
    return any(isinstance(file, str) for file in files)


def check_reachable(source: str) -> None:
    """Raise InputError if `source` is neither a path, nor cached, nor on the hub.

    Loading from an unreachable hub would be retried for half a minute per file.

    Raises:
        InputError: It is none of these, or the hub is unreachable; the message says which.
    """
    from huggingface_hub import HfApi, errors

    unreachable: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    try:
        if not is_here(source):
            HfApi().model_info(source, timeout=_TIMEOUT)
    except (errors.HFValidationError, unreachable, OSError) as error:
        raise InputError(
            f"{source} is neither a local directory nor in the hub's cache, and the hub has no "
            f"answer: {first_line(error)}"
        ) from None


def check_fit(subject: str, model: nn.Module, loading: Mapping[str, Any]) -> None:
    """Raise InputError if a checkpoint has weights of layers that its configuration leaves out.

    Other unused weights are allowed, such as those of another head.

    Args:
        subject: Start of the message.
        model: The model as built by transformers.
        loading: The loading information of transformers.
    """
    try:
        path, _ = find_layers(model)
    except InputError:
        return
    layers = path.removeprefix(f"{getattr(model, 'base_model_prefix', '')}.")
    if strange := [key for key in loading["unexpected_keys"] if f"{layers}." in key]:
        raise InputError(
            f"{subject} has weights of layers that its configuration leaves out: {few(strange)}"
        )


def few(names: Iterable[str]) -> str:
    """Return the first three names of tensors in order, for a message."""
    return ", ".join(name.removeprefix(TENSOR_ROOT) for name in sorted(names)[:3])


def peft_config(directory: str | Path) -> Any:
    """Return the `PeftConfig` of a checkpoint.

    Raises:
        InputError: There is none, PEFT refuses it, or its adapters started from a part of the base
            model's weights that is lost.
        MissingAssetError: peft is not installed.
    """
    path = Path(directory) / PEFT_CONFIG
    read_json(path)
    try:
        from peft import PeftConfig
    except ImportError:
        raise MissingAssetError(
            f"{directory} is a PEFT checkpoint; run `pip install 'bayeslora[peft]'`"
        ) from None
    with reading(f"{path} cannot be loaded"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = PeftConfig.from_pretrained(str(directory))
    start = getattr(config, "init_lora_weights", None)
    if start not in _STARTS:
        raise InputError(
            f"{path}: init_lora_weights {start!r} changed the base model's weights, and the "
            "checkpoint lacks the changed weights; save it with PEFT's "
            "path_initial_model_for_weight_conversion, which converts it to plain LoRA"
        )
    return config


def peft_tensors(directory: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a PEFT checkpoint by their names in its file.

    Raises:
        InputError: The file is missing or damaged.
    """
    return read_tensors(Path(directory) / PEFT_WEIGHTS)


def find_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the dotted name of a model's list of layers, and the list.

    This is the longest list of modules of one class that is not inside another list.

    Raises:
        InputError: There is none, or several are the longest.
    """
    lists: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in lists)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            lists.append((name, module))
    alike = [(name, items) for name, items in lists if len({_kind(item) for item in items}) == 1]
    longest = max((len(items) for _, items in alike), default=0)
    best = [(name, items) for name, items in alike if len(items) == longest]
    if len(best) != 1:
        raise InputError(
            f"cannot find the layers of {type(model).__name__}: it has {len(best)} longest lists "
            "of layers of one class, not 1"
        )
    return best[0]


def is_sharded(module: nn.Module | type[nn.Module]) -> bool:
    """Return whether FSDP has sharded a module's weights, which changes its class."""
    return hasattr(module, "set_reshard_after_forward")


def _kind(module: nn.Module) -> type[nn.Module]:
    return next(kind for kind in type(module).__mro__ if not is_sharded(kind))
