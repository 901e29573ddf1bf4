"""`bayeslora methods`: adapters, posteriors, recalibrators and scores, with their options."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bayeslora.cli.output import print_json, show, show_wrapped
from bayeslora.cli.parser import VerbParser
from bayeslora.errors import unknown_choice

if TYPE_CHECKING:
    from bayeslora.plugins import Catalogue

# Passes of the adapted layers per prediction, and parameters in addition to the mean weights.
_COSTS = ("passes", "parameters")
_SINGULAR = {
    "adapters": "adapter",
    "posteriors": "posterior",
    "recalibrators": "recalibrator",
    "conformal sets": "conformal set",
    "logit_scores": "score of the logits",
    "feature_scores": "score of the features",
}


def add_arguments(parser: VerbParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="show only these methods, with the meaning of each option",
    )


def run(args: argparse.Namespace) -> None:
    """Print one line per method, or the options of the named ones, or everything as JSON.

    Raises:
        InputError: A name is unknown, or a package's method is invalid.
    """
    for kind in _catalogues():
        for name in args.names:
            kind.get(name)  # raises, while the list would only warn of an invalid method
    methods = catalogue()
    if args.names:
        methods = _named(methods, args.names)
    if args.json:
        print_json(methods)
    elif args.names:
        _print_options(methods)
    else:
        _print_list(methods)


def _print_list(methods: dict[str, list[dict[str, Any]]]) -> None:
    indent = 4 + max(len(entry["name"]) for entries in methods.values() for entry in entries)
    for kind, entries in methods.items():
        show(kind.replace("_", " "))
        for entry in entries:
            passes = entry.get("passes", "1")
            many = "" if passes == "1" else f" (passes: {passes})"
            text = f"  {entry['name']}".ljust(indent) + entry["summary"] + _origin(entry) + many
            show_wrapped(text, " " * indent)
    show()
    show_wrapped("`bayeslora methods NAME` shows source and options, --json all defaults.", "")


def _named(
    methods: dict[str, list[dict[str, Any]]], names: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return only the entries with these names.

    Raises:
        InputError: A name is unknown.
    """
    known = {entry["name"] for entries in methods.values() for entry in entries}
    for name in names:
        if name not in known:
            raise unknown_choice("method", name, known)
    chosen = {
        kind: [entry for entry in entries if entry["name"] in names]
        for kind, entries in methods.items()
    }
    return {kind: entries for kind, entries in chosen.items() if entries}


def _print_options(methods: dict[str, list[dict[str, Any]]]) -> None:
    """Print each method with its options: defaults, allowed values, meanings."""
    for kind, entries in methods.items():
        for entry in entries:
            title = f"{entry['name']} ({_SINGULAR.get(kind, kind)}){_origin(entry)}"
            show_wrapped(f"{title}: {entry['summary']}", "  ")
            facts = [
                entry["source"],
                *(f"{name}: {entry[name]}" for name in _COSTS if name in entry),
            ]
            for text in (entry.get("use", ""), "; ".join(facts)):
                show_wrapped(f"  {text}", "  ")
            for name, default in entry["options"].items():
                allowed = entry["allowed"].get(name, "")
                typed = default if isinstance(default, str) else json.dumps(default)
                show_wrapped(f"  {name} = {typed}" + (allowed and f" ({allowed})"))
                show_wrapped(f"      {entry['meanings'].get(name, '')}")
            show()


def _catalogues() -> list[Catalogue]:
    from bayeslora.adapters import registry as adapters
    from bayeslora.posteriors import registry as posteriors
    from bayeslora.recalibration import recalibrate as recalibrators

    return [adapters.CATALOGUE, posteriors.CATALOGUE, recalibrators.CATALOGUE]


def catalogue() -> dict[str, list[dict[str, Any]]]:
    """Return every method by kind, with its options: defaults, allowed values, meanings."""
    from bayeslora.conformal import CONFORMAL
    from bayeslora.posteriors.feature_scores import FEATURE_SCORES, LOGIT_SCORES

    adapters, posteriors, recalibrators = (
        [{**_described(config), "package": package} for config, package in kind.listed()]
        for kind in _catalogues()
    )
    return {
        "adapters": adapters,
        "posteriors": posteriors,
        "recalibrators": recalibrators,
        "conformal sets": [_described(config) for config in CONFORMAL.values()],
        "logit_scores": [_listed(info) for info in LOGIT_SCORES.values()],
        "feature_scores": [_listed(info) for info in FEATURE_SCORES.values()],
    }


def _listed(info: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(info), "options": {}, "allowed": {}, "meanings": {}}


def _origin(entry: dict[str, Any]) -> str:
    package = entry.get("package", "bayeslora")
    return "" if package.split()[0] == "bayeslora" else f" ({package})"


def _described(config: type[Any]) -> dict[str, Any]:
    from bayeslora.option_checks import allowed, meanings
    from bayeslora.options import as_mapping

    defaults = as_mapping(config())
    name = defaults.pop("name")
    return {
        "name": name,
        "summary": config.summary,
        "use": getattr(config, "use", ""),
        **{key: getattr(config, key) for key in _COSTS if hasattr(config, key)},
        "source": config.source,
        "options": defaults,
        "allowed": allowed(config),
        "meanings": meanings(config),
    }
