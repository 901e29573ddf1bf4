"""`bayeslora --print-completion SHELL`: a script for the tab key.

The script is static: completing starts no Python.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

SHELLS = ("bash", "zsh", "tcsh", "fish")

_PATHS = ("FILE", "DIR", "PATH", "MODEL", "TRAIN", "DATA")


class PrintCompletion(argparse.Action):
    """Prints the script and ends the command, as `--help` does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Print the script for the shell in `values`."""
        try:
            import shtab
        except ImportError:
            parser.error("completion needs shtab: pip install 'bayeslora[completion]'")
        for action in _actions(parser):
            # The metavar says it, so that no argument has to be marked a second time.
            if any(path in str(action.metavar) for path in _PATHS):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        sys.stdout.write(shtab.complete(parser, shell=str(values)) + "\n")
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of its verbs."""
    for action in parser._actions:  # argparse has no public way
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _actions(verb)
