"""The command line: one module per verb in `verbs`, with shared code beside it."""

from __future__ import annotations

from bayeslora.cli.app import main

__all__ = ["main"]
