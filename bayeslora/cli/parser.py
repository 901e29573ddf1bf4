"""The arguments of every verb; nothing heavy is imported for them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

from bayeslora._version import __version__
from bayeslora.cli.arguments import add_talk
from bayeslora.cli.completion import SHELLS, PrintCompletion
from bayeslora.cli.messages import say
from bayeslora.cli.verbs import (
    cache,
    calibrate,
    compare,
    conformal,
    convert,
    demo,
    evaluate,
    export,
    fit,
    info,
    methods,
    predict,
    recalibrate,
    report,
    tasks,
)


class Verb(Protocol):
    """What a module in `verbs` has."""

    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's own arguments."""
        ...

    def run(self, args: argparse.Namespace) -> None:
        """Do it: results to stdout, everything else to stderr."""
        ...


VERBS: Mapping[str, Verb] = {
    "demo": demo,
    "fit": fit,
    "predict": predict,
    "evaluate": evaluate,
    "calibrate": calibrate,
    "recalibrate": recalibrate,
    "conformal": conformal,
    "export": export,
    "convert": convert,
    "compare": compare,
    "report": report,
    "tasks": tasks,
    "methods": methods,
    "info": info,
    "cache": cache,
}
"""Every verb by its name, in the order of the help."""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        say(f"bayeslora: error: {message} (see `{self.prog} --help`)")
        self.exit(2)


class _VerbParser(_Parser):
    """A verb's parser, which takes files before, between and after options."""

    _mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, left = super().parse_known_args(args, namespace)
        if not left or self._mixing:
            return found, left
        # The parser of mixed arguments calls this again for its own two passes.
        self._mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = _Parser(
        prog="bayeslora",
        description="Calibrated probabilities and honest uncertainty for fine-tuned transformer "
        "classifiers.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bayeslora {__version__}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        default=argparse.SUPPRESS,
        choices=SHELLS,
        help="print a script that completes verbs, options and files with the tab key",
    )
    verbs = parser.add_subparsers(
        title="verbs", metavar="VERB", dest="verb", required=True, parser_class=_VerbParser
    )
    for name, verb in VERBS.items():
        own = verbs.add_parser(
            name,
            help=verb.SUMMARY,
            description=f"{verb.SUMMARY[:1].upper()}{verb.SUMMARY[1:]}.",
            allow_abbrev=False,
        )
        verb.add_arguments(own)
        add_talk(own)
        own.set_defaults(run=verb.run)
    return parser
