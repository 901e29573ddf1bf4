"""Directives that write a part of the site from the code: commands, methods and their options."""

from __future__ import annotations

import argparse
import os
from typing import Any
from unittest.mock import patch

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from bayeslora.cli.parser import build_parser
from bayeslora.cli.verbs.methods import catalogue

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
    """A table of the methods of a kind, such as `adapters`, then the options of each."""

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
                lines += ["", *self._options(entry)]
        node = nodes.Element()
        self.state.nested_parse(StringList(lines, source="bayeslora methods"), 0, node)
        return list(node.children)

    def _options(self, entry: dict[str, Any]) -> list[str]:
        head = ["| Option | Default | Allowed | Meaning |", "|---|---|---|---|"]
        lines = [f"**{entry['name']}**", "", *head]
        for name, default in entry["options"].items():
            meaning = " ".join(entry["meanings"].get(name, "").split()).replace("|", "\\|")
            allowed = entry["allowed"].get(name, "")
            lines.append(f"| `{name}` | `{default}` | {allowed} | {meaning} |")
        return lines


def setup(app: Any) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("commands", Commands)
    app.add_directive("methods", Methods)
    return {"parallel_read_safe": True}
