"""The command line: one module a verb in `verbs`, what they share beside it."""

from __future__ import annotations

from bayeslora.cli.app import main

__all__ = ["main"]
