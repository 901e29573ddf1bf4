"""Checkpoints in PEFT's layout: what their files are called, and which starts they can have.

Some starts take a part of the base model's weights into the factors. A checkpoint holds the factors
after training alone, so what was taken out has to be found again from the base model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.errors import InputError
from bayeslora.tensor_files import open_tensors

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
TENSOR_ROOT = "base_model.model."
"""What PEFT puts before the path of a module in the model that it wraps."""

EMBEDDED_BASE = "bayeslora.embedded"
"""Metadata of the tensors: short name of the embedded model that the adapters were fitted on."""

PLAIN_STARTS = (None, True, False, "gaussian", "eva", "mica", "orthogonal")
"""`init_lora_weights` that leave the base model's weights as they were."""

EXACT_PISSA = "pissa"

REPEATED_STARTS = (EXACT_PISSA, "olora", "loftq")
"""Those that take the same out of the same base model each time, as PEFT does when it loads."""

CONVERSION = (
    "save it with PEFT's path_initial_model_for_weight_conversion, which gives a plain LoRA"
)
"""What to do about any other."""


def embedded_base(directory: str | Path) -> str | None:
    """Return the embedded model that a checkpoint of ours was fitted on; None where it says none.

    A checkpoint whose tensors cannot be read says none: whoever reads them complains.
    """
    try:
        with open_tensors(Path(directory) / WEIGHTS_FILE) as file:
            name: str | None = (file.metadata() or {}).get(EMBEDDED_BASE)
    except InputError:
        return None
    return name


def is_plain(start: Any) -> bool:
    """Return whether an `init_lora_weights` leaves the base model's weights as they were."""
    # PEFT takes these names in any case.
    return (start.lower() if isinstance(start, str) else start) in PLAIN_STARTS


def is_finite(value: Tensor) -> bool:
    """Return whether every value of a stored tensor is finite; 8-bit floats have no own test."""
    return bool((value.float() if value.is_floating_point() else value).isfinite().all())
