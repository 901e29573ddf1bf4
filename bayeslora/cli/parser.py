"""The parser of all verbs, and the completion script; neither needs heavy imports.

The script of `bayeslora --print-completion SHELL` is static: completion does not start Python.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, NoReturn

from bayeslora._version import __version__
from bayeslora.cli.arguments import add_talk
from bayeslora.cli.messages import say

SHELLS = ("bash", "zsh", "tcsh", "fish")

_NOT_IN_FILES = ("help", "config", "json", "quiet", "verbose", "trust_remote_code")
"""Arguments that a configuration file cannot set."""

_PATHS = ("FILE", "DIR", "PATH", "MODEL", "TRAIN", "DATA")


class PrintCompletion(argparse.Action):
    """Prints the completion script and ends the command, as `--help` does."""

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
            parser.error("completion requires shtab; run `pip install 'bayeslora[completion]'`")
        for action in _actions(parser):
            # Recognised by the metavar, so that no argument needs another mark.
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


VERBS = (
    *("demo", "fit", "predict", "evaluate", "calibrate", "recalibrate", "conformal"),
    *("export", "convert", "compare", "report", "view", "experiment"),
    *("tasks", "methods", "info"),
)
"""Verbs in the order of the help.

The module of each has a `SUMMARY`, `add_arguments(parser)` and `run(args)`, which prints results to
stdout and everything else to stderr."""


EXAMPLES = """examples:
  bayeslora fit train.jsonl --out my-model                  fine-tune a calibrated classifier
  bayeslora calibrate MODEL rows.jsonl --out calibrated     add uncertainty to your classifier
  bayeslora report predictions.csv --out my-report          check the probabilities of any tool"""


class _Parser(argparse.ArgumentParser):
    """A parser with one-line error messages."""

    def error(self, message: str) -> NoReturn:
        say(f"bayeslora: error: {message} (see `{self.prog} --help`)")
        self.exit(2)


class _VerbParser(_Parser):
    """A verb's parser, which accepts files before, between and after options."""

    _mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, left = super().parse_known_args(args, namespace)
        if not left or self._mixing:
            return parsed, left
        # The intermixed parser calls this method again for each of its two passes.
        self._mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False


def build_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Args:
        words: The arguments to parse. If they begin with a verb, only this one is imported.
    """
    parser = _Parser(
        prog="bayeslora",
        description="Calibrated probabilities and uncertainty for fine-tuned transformer "
        "classifiers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bayeslora {__version__}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        default=argparse.SUPPRESS,
        choices=SHELLS,
        help="print a shell completion script for verbs, options and files",
    )
    verbs = parser.add_subparsers(
        title="verbs", metavar="VERB", dest="verb", required=True, parser_class=_VerbParser
    )
    for name in words[:1] if words and words[0] in VERBS else VERBS:
        verb = import_module(f"bayeslora.cli.verbs.{name}")
        verb_parser = verbs.add_parser(
            name,
            help=verb.SUMMARY,
            description=f"{verb.SUMMARY[:1].upper()}{verb.SUMMARY[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        verb.add_arguments(verb_parser)
        add_talk(verb_parser)
        actions = {
            action.dest: action
            for action in verb_parser._actions
            if action.dest not in _NOT_IN_FILES
        }
        verb_parser.set_defaults(run=verb.run, actions=actions)
    return parser
