"""The arguments of every verb, and the script for the tab key; nothing heavy is imported for them.

The script of `bayeslora --print-completion SHELL` is static: completing starts no Python.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, Protocol

from bayeslora._version import __version__
from bayeslora.cli.arguments import add_talk
from bayeslora.cli.messages import say
from bayeslora.cli.verbs import (
    cache,
    calibrate,
    compare,
    conformal,
    convert,
    demo,
    evaluate,
    experiment,
    export,
    fit,
    info,
    methods,
    predict,
    recalibrate,
    report,
    tasks,
    view,
)

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
    "view": view,
    "experiment": experiment,
    "tasks": tasks,
    "methods": methods,
    "info": info,
    "cache": cache,
}
"""Every verb by its name, in the order of the help."""


EXAMPLES = """examples:
  bayeslora fit train.jsonl --out my-model                  fine-tune a calibrated classifier
  bayeslora calibrate MODEL rows.jsonl --out calibrated     add uncertainty to one that you have
  bayeslora report predictions.csv --out my-report          check probabilities of any tool"""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        say(f"bayeslora: error: {message} (see `{self.prog} --help`)")
        self.exit(2)


class _VerbParser(_Parser):
    """A verb's parser, which takes files before, between and after options."""

    _mixing = False
    late_epilog: Callable[[], str] | None = None

    def format_help(self) -> str:
        """Return the help; only here is an end computed that needs the methods."""
        if self.late_epilog is not None:
            self.epilog = self.late_epilog()
        return super().format_help()

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
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        own.late_epilog = getattr(verb, "epilog", None)
        verb.add_arguments(own)
        add_talk(own)
        names = {action.dest: action.option_strings for action in own._actions}
        own.set_defaults(run=verb.run, option_names=names)
    return parser
