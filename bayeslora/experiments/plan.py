"""The plan of a grid: a check of every cell, with an estimate of time and memory.

The estimate counts multiplications. With N training rows of t tokens, E epochs, F fits, P_f and P_a
parameters of the frozen and of the adapted layers, batch B, width h, A heads, w bytes per weight::

    tokens per row  t = min(max_length, 1.3 · mean words + 8)
    fit             F · N · t · (2 P_f + E · 4 P_a)          frozen layers run once, adapted ones
                                                             forward and backward in each epoch
    prediction      rows · t · 2 (P_f + passes · P_a)
    seconds         1 + operations / (0.5 · measured rate of a product of matrices)
    memory          w · P + 16 · trained parameters + 2 N t h + 0.8 GB
                    + layers adapted · B t h (34 + 5 A t / h) · w / 2    (Korthikanti et al. 2022,
                                                                         arXiv 2205.05198)

It can be off by a factor of two, since early stopping, padding and the last layer are ignored, and
by more for `laplace_lora`, whose predictions take a backward pass per class. For
SmolLM2-135M with 128 rows of OpenBookQA and of SST-2, both fits, their predictions and the start of
the process took 110 s of one core (estimate: 84 s) and 1.5 GB (estimate: 1.2 GB).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayeslora.adapters.base import USUAL_LAYERS, layers_that_answer
from bayeslora.errors import InputError
from bayeslora.experiments.cells import Setup, Workshop
from bayeslora.experiments.checks import check_cell, check_effects
from bayeslora.experiments.grid import Cell, Grid
from bayeslora.io.files import read_json
from bayeslora.option_checks import MAX_LENGTH
from bayeslora.posteriors.base import FEW_ROWS

_EFFICIENCY = 0.5
_TOKENS_PER_WORD, _FRAME_TOKENS = 1.3, 8
_PROCESS_BYTES = 0.8e9
_DECODER_DEPTH = 0.8
_AUTO_ROWS, _AUTO_PARTS = 128, 5
_BILLIONS = re.compile(r"(\d+(?:\.\d+)?)\s*([bm])(?![a-z])", re.IGNORECASE)
_EMBEDDED = {
    "smollm2-135m": {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "hidden_act": "silu",
    },
    "minilm": {
        "model_type": "bert",
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "vocab_size": 30522,
        "hidden_act": "gelu",
    },
}


@dataclass(frozen=True)
class BackboneSize:
    """The size of a backbone.

    Attributes:
        parameters: Number of parameters, embeddings included.
        layer_parameters: Number of parameters of one transformer layer.
        num_layers: Number of transformer layers.
        width: Hidden size.
        num_heads: Number of attention heads.
        kv_width: Width of the values, below `width` with grouped queries.
        is_encoder: Whether it is trained as a masked language model.
        positions: Maximum number of tokens; None if unknown.
        source: Source of the numbers: `config.json`, or the name.
    """

    parameters: float
    layer_parameters: float
    num_layers: int
    width: int
    num_heads: int
    kv_width: int
    is_encoder: bool
    positions: int | None
    source: str


@dataclass(frozen=True)
class Estimate:
    """Rough cost of a cell.

    Attributes:
        operations: Floating-point operations.
        memory_bytes: Peak memory.
        fits: Number of trained networks.
        passes: Passes of the adapted layers per prediction.
    """

    operations: float
    memory_bytes: float
    fits: int
    passes: int


@dataclass(frozen=True)
class Plan:
    """A checked grid.

    Attributes:
        grid: The grid.
        settings: The settings of each cell, JSON-ready.
        estimates: The cost of each cell; None if the size of its backbone is unknown.
        deviations: Deviations of each cell from its protocol.
        notes: Notes on missing and estimated sizes.
    """

    grid: Grid
    settings: Mapping[Cell, dict[str, Any]]
    estimates: Mapping[Cell, Estimate | None]
    deviations: Mapping[Cell, tuple[str, ...]]
    notes: tuple[str, ...] = ()

    def groups(self) -> list[tuple[Cell, int, Estimate | None]]:
        """Return the first cell, count and cost of each task, backbone, method and size."""
        groups: dict[tuple[Any, ...], list[Cell]] = {}
        for cell in self.settings:
            key = (cell.task, cell.backbone, cell.method.name, cell.rows)
            groups.setdefault(key, []).append(cell)
        return [(cells[0], len(cells), self.estimates[cells[0]]) for cells in groups.values()]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values."""
        rate = operation_rate()
        return {
            "protocol": self.grid.protocol.name,
            "protocol_settings": self.grid.protocol.settings(),
            "num_cells": len(self.settings),
            "operations_per_second": rate,
            "cells": [
                {
                    **{key: value for key, value in cell.key.items() if key != "seed"},
                    "seeds": count,
                    "seconds": None if cost is None else 1 + cost.operations / rate,
                    "memory_bytes": None if cost is None else cost.memory_bytes,
                    "fits": None if cost is None else cost.fits,
                    "deviations": list(self.deviations[cell]),
                }
                for cell, count, cost in self.groups()
            ],
            "notes": list(self.notes),
        }


def made_plan(workshop: Workshop, cells: Sequence[Cell]) -> Plan:
    """Check cells and estimate their cost.

    Raises:
        InputError: A cell is impossible, or its rows cannot be read.
    """
    settings, estimates, deviations = {}, {}, {}
    notes: dict[str, None] = {}
    sizes = {name: backbone_size(name) for name in dict.fromkeys(cell.backbone for cell in cells)}
    for name, size in sizes.items():
        if size is None:
            notes[f"{name}: size unknown (not on this machine)"] = None
        elif size.source == "name":
            notes[f"{name}: no config.json on this machine; size guessed from the name"] = None
    if workshop.grid.search is not None:
        from bayeslora.experiments.search import check_search

        check_search(workshop.grid)
    setups = {cell: check_cell(workshop, cell) for cell in cells}
    check_effects([*setups.values()], workshop.grid)
    for cell, setup in setups.items():
        settings[cell] = setup.settings()
        deviations[cell] = setup.deviations
        size = sizes[cell.backbone]
        _check_positions(setup, size)
        _check_depth(setup, size)
        estimates[cell] = None if size is None else estimate(setup, size)
    return Plan(workshop.grid, settings, estimates, deviations, tuple(notes))


def _check_positions(setup: Setup, size: BackboneSize | None) -> None:
    """Raise InputError if a cell's `max_length` exceeds the positions of its backbone."""
    length = int(setup.model.get("max_length", MAX_LENGTH))
    if size is not None and size.positions and length > max(size.positions, MAX_LENGTH):
        raise InputError(
            f"cell {setup.cell}: max_length must be at most {size.positions}, the number of "
            f"positions of the backbone, got {length}"
        )


def _check_depth(setup: Setup, size: BackboneSize | None) -> None:
    """Raise InputError if a cell drops layers of a decoder that scores options."""
    depth, form = setup.model.get("depth"), setup.model.get("format", "options")
    if size is None or size.is_encoder or setup.train.choices is None or form != "options":
        return
    is_smaller = isinstance(depth, int | float) and _layers_read(depth, size) < size.num_layers
    if is_smaller and (size.source == "config.json" or isinstance(depth, float)):
        raise InputError(
            f"cell {setup.cell}: format 'options' needs all {size.num_layers} layers of the "
            f"backbone; remove depth, which is {depth}"
        )


def estimate(setup: Setup, size: BackboneSize) -> Estimate:
    """Return the cost of a cell; see the formula at the top of this module."""
    adapter, posterior, fit = setup.adapter, setup.posterior, setup.fit
    depth = 1.0 if setup.train.choices is not None else None
    read = _layers_read(setup.model.get("depth", depth), size)
    by_option = setup.train.choices is not None and setup.model.get("format") != "letters"
    usual = layers_that_answer(read) if by_option and not size.is_encoder else USUAL_LAYERS
    top = adapter.with_layers(usual).top_layers
    adapted = min(top or read, read) if adapter.trains else 0
    frozen_parameters = (read - adapted) * size.layer_parameters
    adapted_parameters = adapted * size.layer_parameters
    tokens = _tokens(setup)
    rows, epochs = len(setup.train), _epochs(setup)
    fits = _num_fits(setup)
    trials = 0 if setup.search is None else setup.search.trials
    per_fit = rows * tokens * (2 * frozen_parameters + epochs * 4 * adapted_parameters)
    passes = posterior.num_members * posterior.num_passes(setup.predict.get("num_samples"))
    predicted = len(setup.rows.reported) * (1 + len(setup.corruptions))
    predicted += sum(map(len, setup.rows.ood.values()))
    prediction = predicted * tokens * 2 * (frozen_parameters + passes * adapted_parameters)
    weight_bytes = _weight_bytes(setup.model.get("dtype", "auto"))
    batch = int(fit.get("batch_size", 16))
    activations = (
        adapted
        * (batch * tokens * size.width)
        * (34 + 5 * size.num_heads * tokens / size.width)
        * (weight_bytes / 2)
    )
    memory = (
        weight_bytes * size.parameters
        + 16 * _trained(setup, size, adapted)
        + 2 * rows * tokens * size.width
        + activations
        + _PROCESS_BYTES
    )
    return Estimate((fits + trials) * per_fit + prediction, memory, fits + trials, passes)


def backbone_size(name: str) -> BackboneSize | None:
    """Return the size of a backbone from its configuration, else from its name; else None."""
    config = _config(name)
    if config is not None:
        return _size_of(config)
    match = _BILLIONS.search(name.rpartition("/")[2])
    if match is None:
        return None
    parameters = float(match[1]) * (1e9 if match[2].lower() == "b" else 1e6)
    # Decoders from 1B on have roughly h / 128 layers of 12 h² parameters.
    width = round((parameters * 128 / 12) ** (1 / 3))
    layers = max(1, round(width / 128))
    heads = max(1, width // 128)
    return BackboneSize(
        *(parameters, parameters / layers, layers, width, heads, width, False, None, "name")
    )


def check_backbones(grid: Grid) -> None:
    """Raise InputError if a backbone of the grid is not available; no weights are read.

    Raises:
        InputError: It is not available; the message names it.
    """
    from bayeslora.backbones.embedded import EMBEDDED_MODELS, embedded_directory
    from bayeslora.backbones.hub import check_reachable
    from bayeslora.backbones.load import source_of

    for name in dict.fromkeys(cell.backbone for cell in grid.cells):
        if name in EMBEDDED_MODELS:
            embedded_directory(name)
        else:
            check_reachable(source_of(name))


def operation_rate() -> float:
    """Return the approximate operations per second of a fit on this machine.

    Measured with a matrix product in the precision of `dtype="auto"`, in a few tenths of a second;
    other load on the machine lowers it.
    """
    import time

    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.bfloat16 if _weight_bytes("auto") == 2 else torch.float32
    size = 4096 if device == "cuda" else 768
    matrix = torch.ones(size, size, device=device, dtype=kind)
    times = []
    for _ in range(10):
        begun = time.perf_counter()
        product = matrix @ matrix
        product[0, 0].item()  # waits for a GPU
        times.append(time.perf_counter() - begun)
    return _EFFICIENCY * 2 * size**3 / max(min(times), 1e-9)


def _config(name: str) -> Mapping[str, Any] | None:
    if name in _EMBEDDED:
        return _EMBEDDED[name]
    file: Any = Path(name) / "config.json"
    if not file.is_file():
        from huggingface_hub import errors, try_to_load_from_cache

        try:
            file = try_to_load_from_cache(name, "config.json")
        except errors.HFValidationError:
            return None
        if not isinstance(file, str):
            return None
    content = read_json(file)
    if not isinstance(content, Mapping):
        raise InputError(f"{file} is not a model configuration")
    # Multimodal models have a separate configuration for text.
    text = content.get("text_config", content)
    return text if isinstance(text, Mapping) else content


def _size_of(config: Mapping[str, Any]) -> BackboneSize | None:
    try:
        width = int(config.get("hidden_size") or config["n_embd"])
        layers = int(config.get("num_hidden_layers") or config["n_layer"])
        heads = int(config.get("num_attention_heads") or config["n_head"])
        vocabulary = int(config["vocab_size"])
    except (KeyError, TypeError, ValueError):
        return None
    inner = int(config.get("intermediate_size") or config.get("ffn_dim") or 4 * width)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    kv_width = kv_heads * int(config.get("head_dim") or width // heads)
    is_gated = config.get("hidden_act") in ("silu", "swish")
    layer = 2 * width * width + 2 * width * kv_width + (3 if is_gated else 2) * width * inner
    kind = config.get("model_type", "")
    is_encoder = any(word in str(kind) for word in ("bert", "deberta", "electra"))
    total = layers * layer + vocabulary * width
    # Relative positions do not limit the length.
    positions = None if config.get("relative_attention") else config.get("max_position_embeddings")
    return BackboneSize(
        *(total, layer, layers, width, heads, kv_width, is_encoder, positions, "config.json")
    )


def _layers_read(depth: Any, size: BackboneSize) -> int:
    if isinstance(depth, int) and not isinstance(depth, bool):
        return min(depth, size.num_layers)
    if isinstance(depth, float):
        return max(1, round(depth * size.num_layers))
    return size.num_layers if size.is_encoder else round(_DECODER_DEPTH * size.num_layers)


def _tokens(setup: Setup) -> float:
    """Return the mean number of tokens of a training row."""
    rows = setup.train
    texts = list(rows.texts) + [text or "" for text in rows.pairs or ()]
    words = sum(len(text.split()) for text in texts)
    for options in rows.choices or ():
        words += sum(len(option.split()) + 2 for option in options)
    mean = words / max(1, len(rows))
    most = int(setup.model.get("max_length", MAX_LENGTH))
    return min(float(most), _TOKENS_PER_WORD * mean + _FRAME_TOKENS)


def _epochs(setup: Setup) -> int:
    from bayeslora.engine.training_options import default_epochs

    if not setup.adapter.trains:
        return 0
    if "epochs" in setup.fit:
        return int(setup.fit["epochs"])
    validated = bool(setup.fit.get("hold_out"))
    return default_epochs(
        setup.posterior,
        len(setup.train),
        validated=validated,
        cross_validated=_num_folds(setup) > 0,
    )


def _num_folds(setup: Setup) -> int:
    fit, posterior = setup.fit, setup.posterior
    folds = fit.get("cv")
    if folds is None:
        scales = setup.adapter.trains or len(setup.train) > FEW_ROWS
        usual = posterior.scales_logits and not fit.get("hold_out") and scales
        folds = "auto" if usual else 0
    if folds != "auto":
        return int(folds)
    if fit.get("keep_folds"):
        return _AUTO_PARTS
    return min(_AUTO_PARTS, math.ceil(_AUTO_ROWS * _AUTO_PARTS / len(setup.train)))


def _num_fits(setup: Setup) -> int:
    """Return the networks that are trained in full; the last epochs on all rows are few."""
    count = _num_folds(setup) or 1 + bool(setup.fit.get("refit"))
    return int(setup.posterior.num_members) * count


def _trained(setup: Setup, size: BackboneSize, adapted: int) -> float:
    """Return the number of trained parameters of the adapter."""
    rank = getattr(setup.adapter, "r", None)
    if rank is None:
        return adapted * size.layer_parameters
    # Query and value projections, the default.
    return float(adapted * rank * (3 * size.width + size.kv_width))


def _weight_bytes(dtype: str) -> int:
    if dtype != "auto":
        return 4 if dtype == "float32" else 2
    import torch

    from bayeslora.backbones.load import computes_in_bfloat16

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return 2 if computes_in_bfloat16(device) else 4
