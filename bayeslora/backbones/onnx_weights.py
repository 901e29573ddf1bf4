"""Extraction of DINOv2 ViT-S/14 weights from an ONNX file, with transformers' names.

An ONNX file is a protocol buffer; only five kinds of fields are needed, so it is parsed without a
library. Biases, norms, layer scales, the class token and the patch projection are named tensors.
Linear weights were folded to anonymous matrices [in, out] and are identified by the bias that is
added to their product.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError

Array = NDArray[np.float32]

_PREFIX = "backbone."
_FLOAT = 1
_RENAMED = (
    (r"attention\.attention\.query", "attention.q_proj"),
    (r"attention\.attention\.key", "attention.k_proj"),
    (r"attention\.attention\.value", "attention.v_proj"),
    (r"attention\.output\.dense", "attention.o_proj"),
)
"""Names in older versions of transformers and in version 5."""
# Anonymous in the file: position embeddings of the class token and of 37 × 37 patches.
_CLASS_POSITION, _GRID_POSITIONS = "onnx::Concat_1957", "onnx::Reshape_1962"


def write_dinov2(path: Path, directory: Path) -> None:
    """Convert the backbone in an ONNX file to a transformers model directory.

    Raises:
        InputError: The file lacks weights.
    """
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
    state = {name: torch.from_numpy(item.copy()) for name, item in dinov2_weights(path).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise InputError(
            f"{path} does not match the model: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    model.save_pretrained(directory)
    ImageReader().save_pretrained(directory)


def dinov2_weights(path: Path) -> dict[str, Array]:
    """Return the tensors of the backbone by their names in transformers 5."""
    tensors, nodes = _graph(path.read_bytes())
    weights = {
        name.removeprefix(_PREFIX): item
        for name, item in tensors.items()
        if name.startswith(_PREFIX)
    }
    adds = {name: inputs for kind, inputs, _ in nodes if kind == "Add" for name in inputs}
    for kind, inputs, outputs in nodes:
        if kind != "MatMul" or inputs[-1] not in tensors:
            continue
        bias = next((name for name in adds.get(outputs[0], ()) if name.startswith(_PREFIX)), None)
        if bias is not None:
            weight = bias.removeprefix(_PREFIX).removesuffix("bias") + "weight"
            weights[weight] = tensors[inputs[-1]].T
    grid = tensors[_GRID_POSITIONS].reshape(1, -1, 384)
    positions = np.concatenate([tensors[_CLASS_POSITION].reshape(1, 1, 384), grid], 1)
    weights["embeddings.position_embeddings"] = positions
    weights["embeddings.mask_token"] = np.zeros((1, 384), dtype=np.float32)
    return {_renamed(name): item for name, item in weights.items()}


def _renamed(name: str) -> str:
    for old, new in _RENAMED:
        name = re.sub(old, new, name)
    return name


Node = tuple[str, list[str], list[str]]


def _graph(content: bytes) -> tuple[dict[str, Array], list[Node]]:
    """Return the float tensors of a model by name, and its nodes: kind, inputs, outputs."""
    graph = next(value for field, value in _fields(memoryview(content)) if field == 7)
    tensors: dict[str, Array] = {}
    nodes: list[Node] = []
    for field, value in _fields(_part(graph)):
        if field == 1:
            nodes.append(_node(_part(value)))
        elif field == 5:
            tensors |= _tensor(_part(value))
    return tensors, nodes


def _node(content: memoryview) -> Node:
    kind, inputs, outputs = "", [], []
    for field, value in _fields(content):
        if field == 1:
            inputs.append(_text(value))
        elif field == 2:
            outputs.append(_text(value))
        elif field == 4:
            kind = _text(value)
    return kind, inputs, outputs


def _tensor(content: memoryview) -> dict[str, Array]:
    shape: list[int] = []
    kind, name, raw = 0, "", memoryview(b"")
    for field, value in _fields(content):
        if field == 1:
            # Packed, or one by one.
            shape += [value] if isinstance(value, int) else _packed(value)
        elif field == 2 and isinstance(value, int):
            kind = value
        elif field == 8:
            name = _text(value)
        elif field == 9:
            raw = _part(value)
    if kind != _FLOAT or not len(raw):
        return {}
    return {name: np.frombuffer(raw, "<f4").reshape(shape)}


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value (integer or bytes) of each field of a message."""
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        wire = tag & 7
        if wire == 0:
            value, position = _varint(content, position)
            yield tag >> 3, value
        elif wire in (1, 5):
            position += 8 if wire == 1 else 4
        elif wire == 2:
            size, position = _varint(content, position)
            yield tag >> 3, content[position : position + size]
            position += size
        else:
            raise InputError(f"invalid ONNX file: unknown wire type {wire}")


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _packed(content: memoryview) -> list[int]:
    values, position = [], 0
    while position < len(content):
        value, position = _varint(content, position)
        values.append(value)
    return values


def _part(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise InputError("invalid ONNX file: found a number instead of a message")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_part(value)).decode()
