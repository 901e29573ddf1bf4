"""Checks of foreign model directories before, during and after libraries read them.

transformers, tokenizers, safetensors and PEFT trust their input. A damaged or malicious directory
can make them raise any exception, wait for a pipe, build a trillion layers, or silently skip
weights. Pickles are refused by `use_safetensors=True`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bayeslora.errors import InputError
from bayeslora.io.files import read_json
from bayeslora.peft_layout import CONFIG_FILE, TENSOR_ROOT
from bayeslora.plain_text import counted

_CONFIG = "config.json"
_MOST_LAYERS = 1000
_MOST_LABELS = 100_000
_LONGEST_REASON = 200

# The messages of these are informative; others, such as KeyError, need the exception name.
_TELLING = (OSError, ValueError, ImportError)


@contextmanager
def reading(subject: str) -> Iterator[None]:
    """Convert any exception of a library that reads a foreign directory to InputError.

    Only library calls belong inside. They raise exceptions of any type for bad content, so all are
    caught: tokenizers raises `Exception` itself, and a Rust panic is not even an `Exception`.

    Args:
        subject: Start of the message, such as `backbone 'x' cannot be loaded`.
    """
    dtype = torch.get_default_dtype()
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{subject}: {_reason(error)}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{subject}: {_reason(error)}") from error
    finally:
        # transformers sets the default dtype while building a model, and keeps it if that fails.
        torch.set_default_dtype(dtype)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if "weights_only" in text:  # PyTorch advises to unpickle
        text = "it is a pickle, which is not supported"
    if "ignore_mismatched_sizes" in text:
        return "its weights do not have the shapes in its configuration"
    if len(text) > _LONGEST_REASON:
        text = f"{text[:_LONGEST_REASON]}…"
    name = type(error).__name__
    return text if text and isinstance(error, _TELLING) else f"{name}: {text}".removesuffix(": ")


def check_name(name: str) -> None:
    """Raise InputError for a name that is neither a valid path nor a hub id."""
    try:
        Path(name).exists()
        fits = "\0" not in name and name.isprintable()
    except (OSError, ValueError):  # such as a path component that is too long
        fits = False
    if not fits:
        raise InputError(f"{name[:80]!r} is neither a directory nor a hub id (owner/name)")


def check_directory(source: str) -> None:
    """Raise InputError if libraries might hang on a directory.

    They wait for a pipe, and build any number of layers. Anything else than a directory passes,
    since it may be a hub id.
    """
    if not Path(source).is_dir():
        return
    for path in Path(source).iterdir():
        if not (path.is_file() or path.is_dir()):
            raise InputError(f"{path} is not a regular file")
    path = Path(source) / _CONFIG
    if path.is_file():
        config = read_json(path)
        if not isinstance(config, dict):
            raise InputError(f"{path} must hold a JSON object, got {type(config).__name__}")
        for part in (config, *(value for value in config.values() if isinstance(value, dict))):
            _check_counts(path, part)


def _check_counts(path: Path, config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if key.endswith(("layer", "layers", "num_labels")) and isinstance(value, int):
            most = _MOST_LABELS if key == "num_labels" else _MOST_LAYERS
            if value > most:
                raise InputError(f"{path}: {key} must be at most {most:,}, got {str(value)[:20]}")


def check_weights_files(source: str) -> None:
    """Raise InputError if a model directory holds an adapter or quantised weights.

    transformers would load an adapter into another model, and integers without their scales.
    """
    check_directory(source)
    folder = Path(source)
    if (folder / CONFIG_FILE).is_file():
        raise InputError(
            f"{folder} is a PEFT adapter ({CONFIG_FILE}), not a plain model; merge it into its "
            "base model first"
        )
    for path in sorted(folder.glob("*.safetensors")):
        _check_dtypes(path)


def _check_dtypes(path: Path) -> None:
    """Raise InputError for integer weights, which are quantised and lack their scales.

    transformers would cast them to floats without scaling. Buffers may be integers.
    """
    from safetensors import safe_open

    with reading(f"{path} cannot be loaded"), safe_open(path, framework="pt") as file:
        dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    whole = [
        name
        for name, dtype in dtypes.items()
        if name.endswith((".weight", ".bias")) and dtype.startswith(("I", "U"))
    ]
    if whole:
        raise InputError(
            f"{path} contains quantised weights ({few(whole)}: {dtypes[whole[0]]}), which are "
            "not supported; save the model in float32, float16 or bfloat16"
        )


def check_fit(subject: str, model: Any, loading: Mapping[str, Any]) -> None:
    """Raise InputError if weights of a checkpoint do not fit the model that was built.

    Unused weights are allowed for parts that the model lacks, such as another head or a pooler, and
    for buffers. They are not allowed inside a part that the model has: the configuration then has
    fewer or other layers than the weights.

    Args:
        subject: Start of the message.
        model: The model as built by transformers.
        loading: The loading information of transformers.
    """
    prefix = f"{model.base_model_prefix}."
    buffers = {name for name, _ in model.named_buffers()}
    homes = (model, model.base_model)
    strange = []
    for key in sorted(loading["unexpected_keys"]):
        name = key if _has(model, prefix[:-1]) else key.removeprefix(prefix)
        if name not in buffers and _deepest(model, name) not in homes:
            strange.append(key)
    if strange:
        raise InputError(
            f"{subject} has {counted(len(strange), 'weight')} without a matching layer in its "
            f"{_CONFIG}, such as {few(strange)}; the weights and the configuration belong to "
            "different models"
        )


def few(names: Collection[str]) -> str:
    """Return the first three names of tensors, shortened, for a message."""
    return ", ".join(name.removeprefix(TENSOR_ROOT)[:80] for name in list(names)[:3])


def _has(model: nn.Module, name: str) -> bool:
    return bool(name) and any(child == name for child, _ in model.named_children())


def _deepest(model: nn.Module, name: str) -> nn.Module:
    """Return the deepest existing module on the path of a tensor's name."""
    module = model
    for part in name.split(".")[:-1]:
        inner = dict(module.named_children()).get(part)
        if inner is None:
            break
        module = inner
    return module
