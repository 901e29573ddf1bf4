"""Where a network may be exported to, and how an earlier export of ours is recognised."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from bayeslora._version import __version__
from bayeslora.errors import InputError
from bayeslora.files import (
    check_writable,
    refuse_existing,
    refuse_inputs,
    write_json,
)
from bayeslora.layouts import Layout
from bayeslora.manifest import TOKENIZER_FILES
from bayeslora.output import listed_files, refuse_target
from bayeslora.tensor_files import open_tensors

ExportKind = Literal["peft", "merged", "safetensors"]

FORMAT_VERSION = 1
MANIFEST = "bayeslora-export.json"
NOTE = "bayeslora"
"""Key in the metadata of a safetensors export, whose value is JSON with `format_version`."""

_KEYS = frozenset({"bayeslora", "format", "files"})
EXPORTS = {
    "peft": Layout(
        "a PEFT checkpoint that bayeslora exported",
        MANIFEST,
        FORMAT_VERSION,
        _KEYS,
        ("adapter_config.json", "adapter_model.safetensors", "README.md"),
    ),
    "merged": Layout(
        "a transformers model that bayeslora exported",
        MANIFEST,
        FORMAT_VERSION,
        _KEYS,
        (
            *("config.json", "generation_config.json", "head.json", "head.safetensors"),
            "README.md",
            *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
            *TOKENIZER_FILES,
        ),
    ),
}
"""Directories of exports, by format."""


def check_export(
    path: str | Path, kind: ExportKind, *, overwrite: bool, inputs: Sequence[str | Path] = ()
) -> None:
    """Raise InputError if a network cannot be exported to `path`; nothing is written.

    Args:
        path: Where it would go.
        kind: What would be written there.
        overwrite: Whether an export of the same kind may be replaced.
        inputs: What it is made from: a model without its backbone is lost.

    Raises:
        InputError: It exists and is not to be replaced, holds something else than an export of
            ours, or one of the inputs.
    """
    target = Path(path)
    if kind == "safetensors" and target.suffix != ".safetensors":
        raise InputError(f"format 'safetensors' is one file .safetensors, got {target.name!r}")
    refuse_existing(target, overwrite=overwrite)
    refuse_inputs(target, *inputs)
    if kind == "safetensors":
        _refuse_foreign_file(target)
    else:
        refuse_target(target, EXPORTS[kind], overwrite=overwrite)
    check_writable(target)


def write_manifest(directory: Path, kind: ExportKind) -> None:
    """Write the marker of a finished export, with the names of its files."""
    about = {"format_version": FORMAT_VERSION, "bayeslora": __version__, "format": kind}
    write_json(directory / MANIFEST, {**about, "files": listed_files(directory)})


def _refuse_foreign_file(path: Path) -> None:
    """Raise InputError if `path` is something else than tensors that we exported."""
    if not path.exists():
        return
    problem = "its metadata is of another program, or of a newer bayeslora"
    try:
        with open_tensors(path) as file:
            note = json.loads((file.metadata() or {})[NOTE])
    except (KeyError, ValueError, RecursionError):  # InputError is a ValueError
        note = None
    version = note.get("format_version") if isinstance(note, dict) else None
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise InputError(
            f"{path} was not exported by bayeslora, so it is not overwritten: {problem}; choose "
            "another path"
        )
