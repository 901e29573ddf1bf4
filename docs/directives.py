"""A directive that generates the help of every command from the code."""

from __future__ import annotations

import argparse
import os
from typing import Any
from unittest.mock import patch

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from bayeslora.cli.parser import build_parser

_COLUMNS = "100"


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


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
