"""`bayeslora methods`: adapters, posteriors, recalibrators and scores, with their options."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from bayeslora.cli import arguments
from bayeslora.cli.arguments import argument
from bayeslora.cli.output import print_json, show, show_wrapped
from bayeslora.errors import unknown_choice

Entries = dict[str, list[dict[str, Any]]]
"""Methods by kind."""


class Options(arguments.Everywhere):
    """Arguments of the verb."""

    names: list[str] = argument("NAME", "names", nargs="*")
    """show only these methods, with the meaning of each option"""


def run(args: Options) -> None:
    """Print one line per method, or the options of the named ones, or everything as JSON.

    Raises:
        InputError: A name is unknown.
    """
    methods = catalogue()
    known = {entry["name"] for entries in methods.values() for entry in entries}
    for name in args.names:
        if name not in known:
            raise unknown_choice("method", name, known)
    if args.names:
        chosen = {
            kind: [entry for entry in entries if entry["name"] in args.names]
            for kind, entries in methods.items()
        }
        methods = {kind: entries for kind, entries in chosen.items() if entries}
    if args.json:
        print_json(methods)
    elif args.names:
        _print_options(methods)
    else:
        _print_list(methods, indent=4 + max(map(len, known)))


def _print_list(methods: Entries, indent: int) -> None:
    for kind, entries in methods.items():
        show(kind.replace("_", " "))
        for entry in entries:
            passes = entry.get("passes", "1")
            many = "" if passes == "1" else f" (passes: {passes})"
            text = f"  {entry['name']}".ljust(indent) + entry["summary"] + _origin(entry) + many
            show_wrapped(text, " " * indent)
    show()
    show_wrapped("`bayeslora methods NAME` shows source and options, --json all defaults.", "")


def _print_options(methods: Entries) -> None:
    """Print each method with its options: defaults, allowed values, meanings."""
    for kind, entries in methods.items():
        for entry in entries:
            singular = kind.replace("_", " ").removesuffix("s")
            title = f"{entry['name']} ({singular}){_origin(entry)}"
            show_wrapped(f"{title}: {entry['summary']}", "  ")
            passes = [f"passes: {entry['passes']}"] if "passes" in entry else []
            for text in (entry.get("use", ""), "; ".join([entry["source"], *passes])):
                show_wrapped(f"  {text}", "  ")
            for name, default in entry["options"].items():
                allowed = entry["allowed"].get(name, "")
                typed = default if isinstance(default, str) else json.dumps(default)
                show_wrapped(f"  {name} = {typed}" + (allowed and f" ({allowed})"))
                show_wrapped(f"      {entry['meanings'].get(name, '')}")
            show()


def catalogue() -> Entries:
    """Return every method by kind, with its options: defaults, allowed values, meanings."""
    from bayeslora.adapters import registry as adapters
    from bayeslora.conformal import CONFORMAL
    from bayeslora.posteriors import registry as posteriors
    from bayeslora.posteriors.feature_scores import FEATURE_SCORES, LOGIT_SCORES
    from bayeslora.recalibration import recalibrate as recalibrators

    methods: Entries = {
        f"{each.kind}s": [
            {**_described(config), "package": package} for config, package in each.listed()
        ]
        for each in (adapters.CATALOGUE, posteriors.CATALOGUE, recalibrators.CATALOGUE)
    }
    methods["conformal sets"] = [_described(config) for config in CONFORMAL.values()]
    for kind, infos in (("logit_scores", LOGIT_SCORES), ("feature_scores", FEATURE_SCORES)):
        no_options: dict[str, Any] = {"options": {}, "allowed": {}, "meanings": {}}
        methods[kind] = [dataclasses.asdict(info) | no_options for info in infos.values()]
    return methods


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
        **({"passes": config.passes} if hasattr(config, "passes") else {}),
        "source": config.source,
        "options": defaults,
        "allowed": allowed(config),
        "meanings": meanings(config),
    }
