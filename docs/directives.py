"""Directives that generate parts of the site from the code."""

from __future__ import annotations

import argparse
import os
from typing import Any
from unittest.mock import patch

from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from tables import ON_THE_SITE

from bayeslora.cli import build_parser

_COLUMNS = "90"  # what fits beside the sidebar at 1280 pixels


class Commands(SphinxDirective):
    """Help of every command, one section each."""

    def run(self) -> list[nodes.Node]:
        """Return one section per command."""
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


class Generated(SphinxDirective):
    """A table of `ON_THE_SITE` in `tables.py`; the content is what the repository shows instead."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        name, *words = self.arguments[0].split()
        return self.parse_text_to_nodes(ON_THE_SITE[name](*words))


def setup(app: Any) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("commands", Commands)
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True}
