"""Directives that write a part of the site from the code: commands, methods and their options.

A page per adapter and posterior is in `docs/methods/`; `write_missing_pages` makes that of a new
method, which needs nothing but its directive.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from bayeslora.adapters import registry as adapters
from bayeslora.cli.parser import build_parser
from bayeslora.cli.verbs.methods import catalogue
from bayeslora.posteriors import registry as posteriors

_COLUMNS = "100"


class Commands(SphinxDirective):
    """The help of every command, a section each."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        with patch.dict(os.environ, {"COLUMNS": _COLUMNS, "NO_COLOR": "1"}):
            parser = build_parser()
            verbs = next(
                action.choices
                for action in parser._actions
                if isinstance(action, argparse._SubParsersAction)
            )
            texts = {name: verb.format_help() for name, verb in verbs.items()}
        return [self._section(f"bayeslora {name}", text) for name, text in texts.items()]

    def _section(self, title: str, text: str) -> nodes.Node:
        section = nodes.section(ids=[nodes.make_id(title)], names=[title])
        section += nodes.title(text=title)
        section += nodes.literal_block(text, text, language="text")
        return section


class Methods(SphinxDirective):
    """A table of the methods of a kind, such as `recalibrators`, then the options of each."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the table and the lists of options."""
        entries = catalogue()[self.arguments[0]]
        lines = ["| Name | What it is | Source |", "|---|---|---|"]
        lines += [
            f"| `{entry['name']}` | {entry['summary']} | {entry['source']} |" for entry in entries
        ]
        for entry in entries:
            if entry["options"]:
                lines += ["", f"**{entry['name']}**", "", *_options(entry)]
        return _parsed(self, lines)


class MethodList(SphinxDirective):
    """A table of `adapters` or `posteriors` that leads to the page of each."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        kind = self.arguments[0]
        lines = ["| Name | What it is | When to use it |", "|---|---|---|"]
        lines += [
            f"| [`{entry['name']}`]({kind}/{entry['name']}.md) | {entry['summary']}"
            f" | {entry['use']} |"
            for entry in catalogue()[kind]
        ]
        return _parsed(self, lines)


class AboutMethod(SphinxDirective):
    """What the code says of one method: `adapters polar`."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Return what it is, when to use it, an example, its cost, limits and options."""
        kind, name = self.arguments
        [entry] = (one for one in catalogue()[kind] if one["name"] == name)
        config = _config(kind, name)
        use = f" **When to use it:** {entry['use']}" if entry["use"] else ""
        lines = [
            f"{entry['summary'][0].upper()}{entry['summary'][1:]}.{use}",
            "",
            *_example(config),
        ]
        lines += ["", "| | |", "|---|---|", f"| Python | {_linked(config)} |"]
        lines += [f"| {title} | {value} |" for title, value in _facts(entry)]
        lines += ["", *(f"- {limit}" for limit in _limits(config))]
        if entry["options"]:
            lines += ["", "**Options**", "", *_options(entry)]
        return _parsed(self, lines)


_LIMITS = {
    "from_start": "Cannot be fitted to a finished network: it",
    "no_resting": "Not with layer sampling: it",
    "not_on_layers": "Not with LISA: it",
    "not_idle": "Every adapter must train at least once: it",
}
"""What begins the sentence of each reason that a posterior gives."""


def _config(kind: str, name: str) -> type[Any]:
    home = adapters if kind == "adapters" else posteriors
    return next(item.config for item in home.CATALOGUE.listed() if item.config.name == name)


def _linked(config: type[Any]) -> str:
    """Return a link to the class in the API reference."""
    return f"{{py:class}}`bl.{config.__name__} <bayeslora.{config.__name__}>`"


def _example(config: type[Any]) -> list[str]:
    """Return the shortest command that uses a method."""
    kind = "adapter" if any(base.__name__ == "Adapter" for base in config.__mro__) else "posterior"
    lines = [f"bayeslora fit train.jsonl --{kind} {config.name} --out my-model"]
    if kind == "posterior" and not config.from_start:
        lines.append(
            f"bayeslora calibrate MODEL held-out.jsonl --posterior {config.name} --out calibrated"
        )
    return ["```", *lines, "```"]


def _facts(entry: dict[str, Any]) -> list[tuple[str, str]]:
    found = [("Source", entry["source"])]
    if "passes" in entry:
        found.append(("Passes per prediction", entry["passes"]))
    if "parameters" in entry:
        found.append(("Added parameters", entry["parameters"]))
    return found


def _limits(config: type[Any]) -> list[str]:
    found = [
        f"{begin} {reason}."
        for key, begin in _LIMITS.items()
        if (reason := getattr(config, key, ""))
    ]
    if getattr(config, "over_factors", False):
        found.append("Needs a low-rank adapter: it is over the factors.")
    return found


def _options(entry: dict[str, Any]) -> list[str]:
    lines = ["| Option | Default | Allowed | Meaning |", "|---|---|---|---|"]
    for name, default in entry["options"].items():
        meaning = " ".join(entry["meanings"].get(name, "").split()).replace("|", "\\|")
        allowed = entry["allowed"].get(name, "")
        lines.append(f"| `{name}` | `{default}` | {allowed} | {meaning} |")
    return lines


def _parsed(directive: SphinxDirective, lines: list[str]) -> list[nodes.Node]:
    node = nodes.Element()
    directive.state.nested_parse(StringList(lines, source="bayeslora methods"), 0, node)
    return list(node.children)


def write_missing_pages(docs: Path) -> None:
    """Write the page of each of our adapters and posteriors that has none."""
    found = catalogue()
    for kind in ("adapters", "posteriors"):
        for entry in found[kind]:
            page = docs / "methods" / kind / f"{entry['name']}.md"
            if entry["package"].split()[0] == "bayeslora" and not page.exists():
                page.parent.mkdir(parents=True, exist_ok=True)
                title = _config(kind, entry["name"]).__name__
                text = f"# {title}\n\n```{{about-method}} {kind} {entry['name']}\n```\n"
                page.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register the directives, and write the pages that are missing."""
    write_missing_pages(Path(__file__).parent)
    app.add_directive("commands", Commands)
    app.add_directive("methods", Methods)
    app.add_directive("about-method", AboutMethod)
    app.add_directive("method-list", MethodList)
    return {"parallel_read_safe": True}
