"""Models that others made: checks before, during and after libraries read their directories.

transformers, tokenizers, safetensors and PEFT trust their input. A damaged or malicious directory
can make them raise any exception, or silently skip weights. Pickles are refused by
`use_safetensors=True`.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora.errors import InputError, MissingAssetError, first_line
from bayeslora.io.files import open_tensors, read_json, read_tensors
from bayeslora.plain_text import counted

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""Files of a PEFT checkpoint."""
TENSOR_ROOT = "base_model.model."
"""PEFT's prefix of a module's path in the model that it wraps."""
EMBEDDED_BASE = "bayeslora.embedded"
"""Metadata key of the tensors: short name of the embedded base model of the adapters."""

_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "mica", "orthogonal")
CONVERSION = (
    "save it with PEFT's path_initial_model_for_weight_conversion, which converts it to plain LoRA"
)
"""Advice for an `init_lora_weights` that changed the base model's weights."""

_CONFIG = "config.json"
_TIMEOUT = 10.0  # seconds, for an answer of the hub
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
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
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


def is_here(source: str) -> bool:
    """Return whether `source` is a path or in the hub's cache."""
    from huggingface_hub import errors, try_to_load_from_cache

    if Path(source).exists():
        return True
    try:
        # Every model repository has one of these files.
        files = [try_to_load_from_cache(source, file) for file in (_CONFIG, PEFT_CONFIG)]
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
    except errors.HFValidationError:
        raise InputError(f"{source} is neither a directory nor a hub id (owner/name)") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"model {source!r} does not exist on the Hugging Face hub, or is private; for a "
            "private model run `hf auth login`"
        ) from None
    except (unreachable, OSError) as error:
        raise InputError(
            f"{source} is not a local directory, is not in the hub's cache, and the hub cannot "
            f"be reached: {first_line(error)}"
        ) from None


def check_weights_files(source: str) -> None:
    """Raise InputError if a model directory holds an adapter or quantised weights.

    transformers would load an adapter into another model, and integers without their scales.
    """
    folder = Path(source)
    if (folder / PEFT_CONFIG).is_file():
        raise InputError(
            f"{folder} is a PEFT adapter ({PEFT_CONFIG}), not a plain model; merge it into its "
            "base model first"
        )
    for path in sorted(folder.glob("*.safetensors")):
        with reading(f"{path} cannot be loaded"), open_tensors(path) as file:
            names = [name for name in file.keys() if name.endswith((".weight", ".bias"))]  # noqa: SIM118
            # Buffers may be integers.
            whole = [name for name in names if file.get_slice(name).get_dtype()[0] in "IU"]
        if whole:
            raise InputError(
                f"{path} contains quantised weights ({few(whole)}), which are not supported; save "
                "the model in float32, float16 or bfloat16"
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
        name = key if hasattr(model, model.base_model_prefix) else key.removeprefix(prefix)
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


def _deepest(model: nn.Module, name: str) -> nn.Module:
    """Return the deepest existing module on the path of a tensor's name."""
    module = model
    for part in name.split(".")[:-1]:
        inner = dict(module.named_children()).get(part)
        if inner is None:
            break
        module = inner
    return module


def peft_options(directory: str | Path) -> dict[str, Any]:
    """Return the options of a PEFT checkpoint.

    Raises:
        InputError: There are none.
    """
    path = Path(directory) / PEFT_CONFIG
    options = read_json(path)
    if not isinstance(options, dict) or "peft_type" not in options:
        raise InputError(f"{path} is not a PEFT configuration: it has no 'peft_type'")
    return options


def peft_config(directory: str | Path) -> Any:
    """Return the `PeftConfig` of a checkpoint.

    Raises:
        InputError: See `peft_options`; or PEFT refuses the options.
        MissingAssetError: peft is not installed.
    """
    peft_options(directory)
    try:
        from peft import PeftConfig
    except ImportError:
        raise MissingAssetError(
            f"{directory} is a PEFT checkpoint; run `pip install 'bayeslora[peft]'`"
        ) from None
    with reading(f"{Path(directory) / PEFT_CONFIG} cannot be loaded"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftConfig.from_pretrained(str(directory))


def peft_tensors(directory: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a PEFT checkpoint by their names in its file.

    Raises:
        InputError: The file is missing, damaged or a pickle.
    """
    return read_tensors(_peft_weights(directory))


def _peft_weights(directory: str | Path) -> Path:
    folder = Path(directory)
    path, pickle = folder / PEFT_WEIGHTS, folder / "adapter_model.bin"
    if pickle.exists() and not path.exists():
        raise InputError(
            f"{pickle} is a pickle, which can run arbitrary code when loaded; save the adapter "
            "again with PEFT's save_pretrained(..., safe_serialization=True)"
        )
    return path


def embedded_base(directory: str | Path) -> str | None:
    """Return the embedded base model of one of our PEFT checkpoints; None if it names none."""
    with open_tensors(_peft_weights(directory)) as file:
        name: str | None = (file.metadata() or {}).get(EMBEDDED_BASE)
    return name


def check_start(directory: str | Path, start: object, repeated: Collection[str]) -> None:
    """Raise InputError for an initialisation that moved a part of the base model's weights.

    A checkpoint holds only the trained factors, so that part must be recomputed from the base.

    Args:
        directory: The checkpoint.
        start: Its `init_lora_weights`.
        repeated: Values that move the same part of a base model every time.

    Raises:
        InputError: The initialisation is neither plain nor in `repeated`.
    """
    # PEFT takes the names of plain starts in any case.
    plain = (start.lower() if isinstance(start, str) else start) in _PLAIN_STARTS
    if not plain and start not in repeated:
        raise InputError(
            f"{Path(directory) / PEFT_CONFIG}: init_lora_weights {start!r} changed the base "
            f"model's weights, and the checkpoint does not contain the changed weights; "
            f"{CONVERSION}"
        )


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
    if len(best) == 1:
        return best[0]
    names = ", ".join(name or "itself" for name, _ in best) or "none"
    raise InputError(
        f"cannot find the layers of {type(model).__name__}: one list of layers of the same class "
        f"must be the longest, it has {names}"
    )


def is_sharded(module: nn.Module | type[nn.Module]) -> bool:
    """Return whether FSDP has sharded a module's weights, which changes its class."""
    return hasattr(module, "set_reshard_after_forward")


def _kind(module: nn.Module) -> type[nn.Module]:
    return next(kind for kind in type(module).__mro__ if not is_sharded(kind))
