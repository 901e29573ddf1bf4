"""Reading of checkpoints in PEFT's layout.

Supported is LoRA with any rank, scale and initialisation that a plain site reproduces. Nothing is
unpickled, and PEFT need not be installed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.peft_targets import Targets, read_targets
from bayeslora.errors import InputError, located
from bayeslora.io.files import read_json, read_tensors
from bayeslora.peft_layout import (
    CONFIG_FILE,
    CONVERSION,
    EXACT_PISSA,
    TENSOR_ROOT,
    WEIGHTS_FILE,
    check_patterns,
    embedded_base,
    is_finite,
    is_plain,
    pattern_options,
)

_PICKLE_FILE = "adapter_model.bin"
_FACTOR = re.compile(r"(?P<path>.+)\.lora_(?P<factor>[AB])\.weight")
_PATTERNS = {"r": "rank_pattern", "lora_alpha": "alpha_pattern"}
_REFUSED_OPTIONS = (
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
"""Variants of LoRA that a plain site does not reproduce."""


@dataclass(frozen=True)
class PeftCheckpoint:
    """Content of a directory written by PEFT.

    Attributes:
        config: Its options; `target_modules` are the full paths of the adapted layers. Ranks and
            scales may differ between layers.
        scales: The factor s of each adapted layer by path.
        targets: PEFT's choice of layers, if the options record it.
        is_pissa: Whether the factors are relative to the principal part of each weight, which
            PEFT removed from the base model when training began.
        tensors: `<path>.A` [r, in] and `<path>.B` [out, r], float32; paths are relative to the
            model that PEFT wrapped.
        modules_to_save: Tensors of modules that were trained and saved in full, such as a
            classifier's head, by their names in that model.
        base_model_name: Directory or hub id of that model, if recorded.
    """

    config: LoRA
    scales: dict[str, float]
    targets: Targets | None
    is_pissa: bool
    tensors: dict[str, Tensor]
    modules_to_save: dict[str, Tensor]
    base_model_name: str | None


def read_peft(directory: str | Path) -> PeftCheckpoint:
    """Return the content of a LoRA checkpoint in PEFT's layout.

    Raises:
        InputError: The directory is damaged, or holds a pickle, a method other than LoRA, or a
            variant of LoRA that a plain site cannot reproduce.
    """
    folder = Path(directory)
    options = read_json(folder / CONFIG_FILE)
    _check_readable(folder / CONFIG_FILE, options)
    tensors, modules_to_save = _split(folder / WEIGHTS_FILE, _read_weights(folder))
    _check_pairs(folder / WEIGHTS_FILE, tensors)
    paths = tuple(dict.fromkeys(name.rpartition(".")[0] for name in tensors))
    with located(folder / CONFIG_FILE):
        targets = read_targets(options)
    check_patterns(str(folder / CONFIG_FILE), pattern_options(options), paths)
    is_pissa = options.get("init_lora_weights") == EXACT_PISSA
    ranks, alphas = _of_layers(options, "r", paths), _of_layers(options, "lora_alpha", paths)
    for path, rank in ranks.items():
        _check_rank(folder, path, rank, tensors, is_pissa=is_pissa)
    config = LoRA(
        r=options["r"],
        alpha=options["lora_alpha"],
        dropout=options.get("lora_dropout", 0.0),
        target_modules=paths,
        num_layers=None,
        use_rslora=bool(options.get("use_rslora")),
    )
    return PeftCheckpoint(
        config,
        {path: _scale(options, alphas[path], ranks[path]) for path in paths},
        targets,
        is_pissa,
        tensors,
        modules_to_save,
        embedded_base(folder) or options.get("base_model_name_or_path"),
    )


def _scale(options: dict[str, Any], alpha: float, rank: float) -> float:
    """Return the scale s of a layer, from the configured rank, as PEFT computes it."""
    return float(alpha / (rank**0.5 if options.get("use_rslora") else rank))


def _of_layers(options: dict[str, Any], key: str, paths: Sequence[str]) -> dict[str, float]:
    """Return rank or alpha of each layer, from the first pattern that matches its path's end."""
    by_pattern: dict[str, float] = options.get(_PATTERNS[key]) or {}
    patterns = [(_pattern(pattern), value) for pattern, value in by_pattern.items()]

    def of_layer(path: str) -> float:
        matches = (value for pattern, value in patterns if pattern.fullmatch(path))
        # PEFT then takes a key that equals the path, whatever it means as a pattern.
        return next(matches, by_pattern.get(path, options[key]))

    return {path: of_layer(path) for path in paths}


def _pattern(key: str) -> re.Pattern[str]:
    return re.compile(rf"(?:.*\.)?(?:{key})")


def _check_rank(
    folder: Path, path: str, rank: float, tensors: dict[str, Tensor], *, is_pissa: bool
) -> None:
    """Raise InputError if the factors do not have the configured rank.

    PiSSA has no more directions than the weight, whatever the configured rank.
    """
    A, B = tensors[f"{path}.A"], tensors[f"{path}.B"]
    expected = min(rank, A.shape[1], len(B)) if is_pissa else rank
    if len(A) != expected:
        raise InputError(
            f"{folder / WEIGHTS_FILE}: the factors of {path!r} have rank {len(A)}, expected "
            f"{expected:g} from {CONFIG_FILE}"
        )


def _check_readable(path: Path, options: Any) -> None:
    if not isinstance(options, dict) or "peft_type" not in options:
        raise InputError(f"{path} is not a PEFT configuration: it has no 'peft_type'")
    if options["peft_type"] != "LORA":
        raise InputError(f"{path}: peft_type must be 'LORA', got {options['peft_type']!r}")
    for key in _REFUSED_OPTIONS:
        if options.get(key):
            raise InputError(
                f"{path}: {key} = {options[key]!r} is not supported; only plain LoRA is"
            )
    if options.get("bias", "none") != "none":
        raise InputError(f"{path}: bias must be 'none', got {options['bias']!r}")
    start = options.get("init_lora_weights")
    if not is_plain(start) and start != EXACT_PISSA:
        raise InputError(
            f"{path}: init_lora_weights {start!r} changed the base model's weights, and the "
            f"factors do not record how; {CONVERSION}, or load it on the changed base model, if "
            "that was saved, with init_lora_weights set to true"
        )
    base = options.get("base_model_name_or_path")
    if not isinstance(base, str | None):
        raise InputError(f"{path}: base_model_name_or_path must be a name, got {base!r}")
    for key, patterns in _PATTERNS.items():
        value: Any = options.get(key)
        if not _is_number(value) or value <= 0:
            raise InputError(f"{path}: {key} must be a number > 0, got {value!r}")
        _check_patterns(path, patterns, options.get(patterns))


def _check_patterns(path: Path, key: str, patterns: Any) -> None:
    if not isinstance(patterns, dict | None):
        raise InputError(f"{path}: {key} must map patterns to numbers, got {patterns!r}")
    for pattern, value in (patterns or {}).items():
        try:
            _pattern(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise InputError(
                f"{path}: {key} has the invalid pattern {pattern!r}: {error}"
            ) from None
        if not _is_number(value):
            raise InputError(f"{path}: {key} of {pattern!r} must be a number, got {value!r}")


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _check_pairs(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raise InputError if a factor is missing or the shapes of a pair do not match."""
    for name, value in tensors.items():
        layer, _, factor = name.rpartition(".")
        other = f"{layer}.{'B' if factor == 'A' else 'A'}"
        if other not in tensors:
            raise InputError(f"{path}: {name!r} has no matching {other!r}")
        rank = tensors[f"{layer}.B"].shape[-1]
        if value.ndim != 2 or tensors[f"{layer}.A"].shape[0] != rank:
            shapes = [list(tensors[f"{layer}.{key}"].shape) for key in "AB"]
            raise InputError(
                f"{path}: the factors of {layer!r} have incompatible shapes {shapes[0]} and "
                f"{shapes[1]}"
            )


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    if not path.exists() and (folder / _PICKLE_FILE).exists():
        raise InputError(
            f"{folder / 'adapter_model.bin'} is a pickle, which can run arbitrary code when "
            "loaded; save the adapter again with PEFT's save_pretrained(..., "
            "safe_serialization=True)"
        )
    return read_tensors(path)


def _split(path: Path, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the factors as `<path>.A` and `<path>.B`, and all other tensors by name."""
    factors: dict[str, Tensor] = {}
    modules_to_save: dict[str, Tensor] = {}
    for full_name, value in tensors.items():
        name = full_name.removeprefix(TENSOR_ROOT)
        match = _FACTOR.fullmatch(name)
        if not is_finite(value):
            raise InputError(f"{path}: tensor {full_name!r} has values that are not finite")
        if match:
            factors[f"{match['path']}.{match['factor']}"] = value.float()
        elif "lora_" in name:
            raise InputError(
                f"{path}: tensor {full_name!r} does not belong to a plain linear LoRA layer"
            )
        else:
            modules_to_save[name] = value
    if not factors:
        raise InputError(f"{path} contains no tensor named …lora_A.weight or …lora_B.weight")
    return factors, modules_to_save
