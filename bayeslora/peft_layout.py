"""Checkpoints in PEFT's layout: names of their files, and their initialisations.

Some initialisations move a part of the base model's weights into the factors. A checkpoint holds
only the trained factors, so that part must be recomputed from the base model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.errors import InputError
from bayeslora.io.files import open_tensors

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
TENSOR_ROOT = "base_model.model."
"""PEFT's prefix of a module's path in the model that it wraps."""

EMBEDDED_BASE = "bayeslora.embedded"
"""Metadata key of the tensors: short name of the embedded base model of the adapters."""

PLAIN_STARTS = (None, True, False, "gaussian", "eva", "mica", "orthogonal")
"""Values of `init_lora_weights` that leave the base model's weights unchanged."""

EXACT_PISSA = "pissa"

REPEATED_STARTS = (EXACT_PISSA, "olora", "loftq")
"""Values that move the same part of a base model every time, as PEFT does on loading."""

CONVERSION = (
    "save it with PEFT's path_initial_model_for_weight_conversion, which converts it to plain LoRA"
)
"""Advice for all other values."""


_PATTERNS = (
    *("target_modules", "exclude_modules", "feedforward_modules", "target_parameters"),
    *("modules_to_save", "layers_pattern", "rank_pattern", "alpha_pattern"),
)
_REPETITION = re.compile(r"[*+{]|(?<!\()\?")
_REPEATED_GROUP = re.compile(r"\)[*+{]")
_MOST_WAYS = 1_000_000


def pattern_options(options: Mapping[str, Any]) -> list[str]:
    """Return every pattern in PEFT's options, ignoring options of a wrong type."""
    values = [options.get(key) for key in _PATTERNS]
    lists = [[value] if isinstance(value, str) else value for value in values]
    return [
        item
        for value in lists
        if isinstance(value, list | tuple | dict)
        for item in value
        if isinstance(item, str)
    ]


def check_patterns(prefix: str, patterns: Iterable[str], names: Collection[str]) -> None:
    """Raise InputError if a file's regular expressions may take exponential time to match.

    Python's `re` tries all ways to divide a name among repetitions and alternatives. Without
    repeated groups, a name of n characters and r repetitions have at most (n + r choose r).

    Args:
        prefix: Beginning of the message.
        patterns: Regular expressions.
        names: Names to match.
    """
    longest = max(map(len, names), default=0)
    ways = 0.0
    for pattern in set(patterns):
        repetitions = len(_REPETITION.findall(pattern))
        groups = 1 + pattern.count("(")
        alternatives = (1 + pattern.count("|") / groups) ** groups
        ways += math.comb(longest + repetitions, repetitions) * alternatives
        if _REPEATED_GROUP.search(pattern) or ways > _MOST_WAYS:
            raise InputError(
                f"{prefix}: the pattern {pattern!r:.80} may take too long to match; use fewer "
                "repetitions, none of a group, or names of layers"
            )


def embedded_base(directory: str | Path) -> str | None:
    """Return the embedded base model of one of our checkpoints; None if it names none.

    Also None if its tensors cannot be read: reading them later raises the error.
    """
    try:
        with open_tensors(Path(directory) / WEIGHTS_FILE) as file:
            name: str | None = (file.metadata() or {}).get(EMBEDDED_BASE)
    except InputError:
        return None
    return name


def is_plain(start: Any) -> bool:
    """Return whether an `init_lora_weights` leaves the base model's weights unchanged."""
    # PEFT takes these names in any case.
    return (start.lower() if isinstance(start, str) else start) in PLAIN_STARTS


def is_finite(value: Tensor) -> bool:
    """Return whether every value of a stored tensor is finite, also for 8-bit floats."""
    return bool((value.float() if value.is_floating_point() else value).isfinite().all())
