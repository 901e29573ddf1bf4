"""The command line: the parser of all verbs, and the way from arguments to an exit code.

A verb's help shows the options that have a name of their own; options that few people need are set
by `--set KEY=VALUE`, or in a file of `--config`.

0 done; 2 wrong usage or input, with a one-line message; 3 a promise does not hold; 1 failed;
130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import gc
import io
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from bayeslora._version import __version__
from bayeslora.cli.arguments import add_arguments
from bayeslora.cli.output import log_on_stderr, say, trace
from bayeslora.errors import FailedError, InputError, located, unknown_choice
from bayeslora.io import lock, read_yaml
from bayeslora.processes import current, is_repeated, launched, together

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

_WRITES_TO = ("out", "save", "state", "html", "model_card")

# Imports create a million objects that live to the end. Python's default garbage collection of
# them, with a last one at exit, took 2.4 of the 6.2 seconds of a short prediction.
_RARELY = (100_000, 20, 20)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: The arguments after the program's name; None uses those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        # An arrow in a table must not fail if the terminal's encoding lacks it.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    owns_process = argv is None
    if owns_process:
        gc.set_threshold(*_RARELY)
    try:
        with _terminable():
            code = _exit_code(list(sys.argv[1:] if argv is None else argv))
        if owns_process and os.environ.get("WORLD_SIZE", "1") != "1":
            _leave(code)
        return code
    finally:
        if owns_process:
            gc.freeze()


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, which job schedulers send, end the command as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(code: int) -> None:
    """End one of several processes immediately.

    On a busy machine a communication thread may outlive its group, and the interpreter's shutdown
    then aborts the process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _exit_code(words: Sequence[str]) -> int:
    args, code = argparse.Namespace(verb=None, verbose=False), DONE
    try:
        parser = build_parser(words)
        if not words:
            # The help is for people; a script without a verb gets the exit code.
            parser.print_help(sys.stderr)
            return WRONG_INPUT
        args = parser.parse_args(words)
        args.command = shlex.join(["bayeslora", *words])
        with log_on_stderr(verbose=args.verbose, quiet=args.quiet):
            settle(args)
            with _processes(args), _alone(args):
                code = args.run(args) or DONE
        sys.stdout.flush()
    except SystemExit as stop:  # argparse has printed the help or an error
        return int(stop.code or 0)
    except BrokenPipeError:  # the reader of stdout, such as `head`, has stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        finished = None if getattr(args, "dry_run", None) else _RESUMED.get(args.verb)
        saved = f"; finished {finished} are saved, and the same command continues"
        say(f"interrupted{saved if finished else ''}")
        return INTERRUPTED
    except Exception as error:
        if args.verbose:
            trace(error)
        if not is_repeated(error):
            say(f"bayeslora: error: {_reason(error, args)}")
        # A wrong path, unless the disk is full.
        wrong_path = isinstance(error, OSError) and error.filename and error.errno != errno.ENOSPC
        return WRONG_INPUT if isinstance(error, InputError) or wrong_path else FAILED
    return code


def _reason(error: Exception, args: argparse.Namespace) -> str:
    if isinstance(error, InputError | FailedError):
        message = str(error)
        for name in getattr(error, "options", ()):
            if flags := getattr(getattr(args, "actions", {}).get(name), "option_strings", ()):
                message = re.sub(rf"\b{name}\b", flags[0], message, count=1)
        return message
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    reason = " ".join([f"{type(error).__name__}:", *str(error).split()])
    return f"{reason[:300].removesuffix(':')} (--verbose shows where)"


@contextmanager
def _processes(args: argparse.Namespace) -> Iterator[None]:
    """Run the command together with the other processes of a launcher.

    Only the first process prints; the others print only their own errors.
    """
    if launched()[1] == 1:
        yield
        return
    with together() as world, ExitStack() as stack:
        if not world.is_first:
            args.quiet = True
            logging.getLogger("bayeslora").setLevel(logging.ERROR)
            devnull = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(devnull))
        yield


@contextmanager
def _alone(args: argparse.Namespace) -> Iterator[None]:
    """Lock the outputs against other processes while the command runs."""
    paths = [getattr(args, name, None) for name in _WRITES_TO]
    with ExitStack() as stack:
        for path in filter(None, paths):
            stack.enter_context(current().first_holds(partial(lock, Path(path))))
        yield


_RESUMED = {"fit": "epochs", "predict": "rows", "experiment": "cells"}
"""What is kept of an interrupted command, which goes on when it is repeated."""


VERBS = {
    "demo": "fit a real model to real text, compare the methods, and write a report",
    "fit": "adapt a backbone to labelled texts and fit the posterior",
    "predict": "predict class probabilities and uncertainties, and write them to a file",
    "evaluate": "score predictions: accuracy, NLL, calibration, out-of-distribution detection",
    "calibrate": "fit a posterior to a trained classifier, without changing its weights",
    "update": "let the last layer learn from more labelled examples, without a new fit",
    "recalibrate": "fit a recalibrator to held-out predictions and apply it to others",
    "conformal": "predict sets of classes that contain the label with a chosen coverage",
    "decide": "find the confidence from which answers may be automated at a risk, and test it",
    "apply": "apply what was fitted to held-out predictions to others",
    "labels": "list the rows whose labels are most likely wrong",
    "suggest": "choose the rows of a pool that are most worth a label",
    "budget": "show how many labelled rows a promise, an accuracy or a comparison needs",
    "monitor": "test batch by batch whether what was calibrated still holds",
    "export": "write a model's adapter for PEFT, or its network with the adapter merged",
    "compare": "compare methods on the same examples: paired differences, intervals, p-values",
    "report": "write a report on predictions: one HTML file that opens offline",
    "view": "browse predictions: filter, sort and search them in the browser",
    "experiment": "run a grid of fits under a named protocol; rerun the same command to continue",
    "tasks": "list the known tasks",
    "methods": "list adapters, posteriors, recalibrators, conformal sets and scores",
    "info": "show versions, devices and assets, or a model's record and weight changes",
}
"""Verbs in the order of the help, with what each does.

The module of each has a class `Options`, its arguments, and `run(args)`, which prints results to
stdout and everything else to stderr, and may return an exit code."""

EXAMPLES = """examples:
  bayeslora fit train.jsonl --out my-model                  fine-tune a calibrated classifier
  bayeslora calibrate MODEL rows.jsonl --out calibrated     add uncertainty to your classifier
  bayeslora report predictions.csv --out my-report          check the probabilities of any tool"""

EVERYWHERE = ("json", "quiet", "verbose", "config", "set")
"""Options of every verb, by name."""


class _Parser(argparse.ArgumentParser):
    """A parser with one-line error messages."""

    def error(self, message: str) -> NoReturn:
        say(f"bayeslora: error: {message} (see `{self.prog} --help`)")
        self.exit(2)


class VerbParser(_Parser):
    """Parser of a verb, which accepts files before, between and after options.

    Attributes:
        further: Options that `--set` and `--config` set. No option on the command line has their
            names.
    """

    _mixing = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.further = argparse.ArgumentParser(add_help=False)

    def format_help(self) -> str:
        """Return the help, which ends in the further options."""
        formatter = self._get_formatter()
        formatter.start_section("further options, by --set KEY=VALUE or in the file of --config")
        for action in self.further._actions:
            value = "true" if action.nargs == 0 else action.metavar
            shown = argparse.Action([], action.dest, metavar=f"{action.dest}={value}")
            shown.help = str(action.help).replace("repeatable", "several separated by commas")
            formatter.add_argument(shown)
        formatter.end_section()
        return "\n".join(filter(None, [super().format_help(), formatter.format_help()]))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the arguments and the unknown ones."""
        if self._mixing:  # the intermixed parser calls this method for each of its two passes
            return super().parse_known_args(args, namespace)
        self._mixing = True
        parsed, unknown = self.parse_known_intermixed_args(args, namespace)
        self._mixing = False
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown


def build_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Args:
        words: The arguments to parse, of whose verb alone the arguments are added; none for those
            of all verbs.
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
    verbs = parser.add_subparsers(
        title="verbs", metavar="VERB", dest="verb", required=True, parser_class=VerbParser
    )
    for name, summary in VERBS.items():
        about = f"{summary[:1].upper()}{summary[1:]}."
        verb = verbs.add_parser(name, help=summary, description=about, allow_abbrev=False)
        if not words or words[0] == name:
            _fill(verb, import_module(f"bayeslora.cli.{name}"))
    return parser


def _fill(parser: VerbParser, verb: Any) -> None:
    """Add the arguments of a verb, from its module."""
    add_arguments(parser, parser.further, verb.Options)
    parser.usage = " ".join(["%(prog)s", *_needed(parser), "[options]"])
    further = {action.dest: action for action in parser.further._actions}
    for action in further.values():
        action.option_strings = ()  # `--set` takes its name
    actions = {action.dest: action for action in parser._actions} | further
    parser.set_defaults(run=verb.run, actions=actions, **dict.fromkeys(further))


def _needed(parser: VerbParser) -> Iterator[str]:
    """Yield the arguments of a verb that a short usage names: files, and required options."""
    for action in sorted(parser._actions, key=lambda action: len(action.option_strings)):
        if not action.option_strings:
            name = f"{action.metavar} …" if action.nargs in ("*", "+") else str(action.metavar)
            yield f"[{name}]" if action.nargs in ("?", "*") else name
        elif action.required:
            yield f"{action.option_strings[0]} {action.metavar}"


def settle(args: Any) -> None:
    """Set what `--set` and the file of `--config` set; options of the command line go before.

    Raises:
        InputError: The file, a name or a value is wrong.
    """
    actions: Mapping[str, argparse.Action] = args.actions
    names = [name for name in actions if name not in ("help", *EVERYWHERE)]
    pairs = [option.partition("=") for option in args.set or ()]
    if not all(equals for _, equals, _ in pairs):
        raise InputError(f"--set must be KEY=VALUE, got {' '.join(args.set)!r}")
    typed = {name: value for name, _, value in pairs}
    in_file = {} if args.config is None else read_yaml(args.config)
    if not isinstance(in_file, Mapping):
        raise InputError(f"{args.config} must be a mapping, such as `epochs: 5`")
    for source, values in (("--set", typed), (args.config, in_file)):
        # A file from elsewhere must not make a backbone's repository run code.
        allowed = [name for name in names if source == "--set" or name != "trust_remote_code"]
        for option, value in values.items():
            name = str(option).replace("-", "_")
            with located(source):
                if name not in allowed:
                    raise unknown_choice("option", str(option), allowed)
                if value is not None and getattr(args, name) is None:
                    setattr(args, name, _checked(value, actions[name]))


_STRUCTURED = ("adapter", "posterior", "verbaliser", "multi_task", "validation")
"""Options that a file may set to a mapping, which is checked where it is used."""


def _checked(value: Any, action: argparse.Action) -> Any:
    """Return a value as the command line would have parsed it."""
    if action.nargs == 0:
        if value not in (True, False, "true", "false"):
            raise InputError(f"{action.dest} must be true or false, got {value!r}")
        return action.const if value in (True, "true") else None
    if isinstance(value, Mapping) and action.dest in _STRUCTURED:
        return value
    if action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction):
        return [str(item) for item in (value if isinstance(value, list) else str(value).split(","))]
    return action.type(str(value)) if callable(action.type) else str(value)
