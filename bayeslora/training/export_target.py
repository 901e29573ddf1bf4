"""Where a network may be exported to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from bayeslora.errors import InputError
from bayeslora.files import check_writable, refuse_existing, refuse_ground, refuse_inputs

ExportKind = Literal["peft", "merged", "safetensors"]

_CALLED: dict[ExportKind, str] = {
    "peft": "a PEFT checkpoint",
    "merged": "a transformers model",
    "safetensors": "a file",
}


def check_export(
    path: str | Path, kind: ExportKind, *, overwrite: bool, inputs: Sequence[str | Path] = ()
) -> None:
    """Complain where a network may not be exported to; nothing is written.

    Args:
        path: Where it would go.
        kind: What would be written there.
        overwrite: Whether an export of the same kind may be replaced.
        inputs: What it is made from: a model without its backbone is lost.

    Raises:
        InputError: It exists and is not to be replaced, is something else than such an export, or
            one of the inputs.
    """
    target = Path(path)
    if kind == "safetensors" and target.suffix != ".safetensors":
        raise InputError(f"format 'safetensors' is one file .safetensors, got {target.name!r}")
    refuse_existing(target, overwrite=overwrite)
    refuse_inputs(target, *inputs)
    if kind != "safetensors":
        refuse_ground(target)
    is_one = {
        "peft": (target / "adapter_config.json").is_file(),
        "merged": (target / "config.json").is_file(),
        "safetensors": target.is_file(),
    }
    empty = kind != "safetensors" and target.is_dir() and not any(target.iterdir())
    if target.exists() and not is_one[kind] and not empty:
        raise InputError(
            f"{target} is not {_CALLED[kind]} and is not replaced; choose another path"
        )
    check_writable(target)
