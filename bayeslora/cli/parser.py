"""The parser of all verbs; it needs no heavy imports.

A verb's help shows the options that have a name of their own; options that few people need are set
by `--set KEY=VALUE`, or in a file of `--config`. Options of every verb are defined once, here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn

from bayeslora._version import __version__
from bayeslora.cli.output import say
from bayeslora.errors import InputError, unknown_choice
from bayeslora.io.files import read_yaml

VERBS = {
    "demo": "fit a real model to real text, compare the methods, and write a report",
    "fit": "adapt a backbone to labelled texts and fit the posterior",
    "predict": "predict class probabilities and uncertainties, and write them to a file",
    "evaluate": "score predictions: accuracy, NLL, calibration, out-of-distribution detection",
    "calibrate": "fit a posterior to a trained classifier, without changing its weights",
    "recalibrate": "fit a recalibrator to held-out predictions and apply it to others",
    "conformal": "predict sets of classes that contain the label with a chosen coverage",
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

The module of each has `add_arguments(parser)` and `run(args)`, which prints results to stdout and
everything else to stderr."""

EXAMPLES = """examples:
  bayeslora fit train.jsonl --out my-model                  fine-tune a calibrated classifier
  bayeslora calibrate MODEL rows.jsonl --out calibrated     add uncertainty to your classifier
  bayeslora report predictions.csv --out my-report          check the probabilities of any tool"""

EVERYWHERE = ("json", "quiet", "verbose", "config", "set")
"""Options of every verb, by name."""

_PATHS = ("FILE", "DIR", "PATH", "MODEL", "TRAIN", "DATA")

_GONE = {
    "convert": "`evaluate`, `report` and all others read such files; in Python, "
    "`bl.Predictions.read(FILE).save(OUT)` writes one",
}
"""Verbs of earlier versions, and what to use instead."""


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

    def settable(self) -> dict[str, argparse.Action]:
        """Return the arguments that have a key for `--set` and `--config`, by key."""
        return {action.dest: action for action in (*self._actions, *self.further._actions)}

    def format_help(self) -> str:
        """Return the help, which ends in the further options."""
        if not self.further._actions:
            return super().format_help()
        formatter = self._get_formatter()
        formatter.start_section("further options, by --set KEY=VALUE or in the file of --config")
        for action in self.further._actions:
            value = "true" if action.nargs == 0 else action.metavar
            shown = argparse.Action([], action.dest, metavar=f"{action.dest}={value}")
            shown.help = str(action.help).replace("repeatable", "several separated by commas")
            formatter.add_argument(shown)
        formatter.end_section()
        return f"{super().format_help()}\n{formatter.format_help()}"

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the arguments, and none that are left: an unknown option is an error."""
        parsed, left = super().parse_known_args(args, namespace)
        if not left or self._mixing:
            return parsed, left
        # The intermixed parser calls this method again for each of its two passes.
        self._mixing = True
        try:
            parsed, left = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False
        for word in left:
            key = word.partition("=")[0].removeprefix("--").replace("-", "_")
            if word.startswith("--") and key in self.further_keys():
                self.error(f"--{key.replace('_', '-')} is written as --set {key}=VALUE")
        return parsed, left

    def further_keys(self) -> list[str]:
        """Return the keys of the further options."""
        return [action.dest for action in self.further._actions]


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
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        default=argparse.SUPPRESS,
        choices=("bash", "zsh", "tcsh", "fish"),
        help="print a shell completion script for verbs, options and files",
    )
    verbs = parser.add_subparsers(
        title="verbs", metavar="VERB", dest="verb", required=True, parser_class=VerbParser
    )
    if words and words[0] in _GONE:
        parser.error(f"there is no verb {words[0]} any more: {_GONE[words[0]]}")
    for name, summary in VERBS.items():
        verb_parser = verbs.add_parser(
            name,
            help=summary,
            description=f"{summary[:1].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if not words or words[0] == name or words[0].startswith("--print-completion"):
            _fill(verb_parser, import_module(f"bayeslora.cli.verbs.{name}"))
    return parser


def _fill(parser: VerbParser, verb: Any) -> None:
    """Add the arguments of a verb, from its module."""
    verb.add_arguments(parser)
    parser.usage = " ".join(["%(prog)s", *_needed(parser), "[options]"])
    _add_everywhere(parser)
    further = dict.fromkeys(parser.further_keys())
    parser.set_defaults(run=verb.run, actions=parser.settable(), **further)


def _needed(parser: VerbParser) -> Iterator[str]:
    """Yield the arguments of a verb that a short usage names: files, and required options."""
    for action in parser._actions:
        if not action.option_strings:
            name = f"{action.metavar} …" if action.nargs in ("*", "+") else str(action.metavar)
            yield f"[{name}]" if action.nargs in ("?", "*") else name
        elif action.required:
            yield f"{action.option_strings[0]} {action.metavar}"


def _add_everywhere(parser: VerbParser) -> None:
    """Add the options of every verb."""
    group = parser.add_argument_group("options of every verb")
    group.add_argument("--json", action="store_true", help="print the result as JSON")
    group.add_argument(
        "--quiet",
        "--no-progress",
        dest="quiet",
        action="store_true",
        help="show only notes and errors on stderr, no progress or hints",
    )
    group.add_argument("--verbose", action="store_true", help="show tracebacks and debug messages")
    group.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file with options (out, seed, …) and further ones; the command line takes "
        "precedence",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a further option, see the end of this help; repeatable",
    )


def settle(args: argparse.Namespace) -> None:
    """Set what `--set` and the file of `--config` set; options of the command line go before.

    `args.typed` has what an option is called in messages, by its name in Python.

    Raises:
        InputError: The file, a name or a value is wrong.
    """
    actions: Mapping[str, argparse.Action] = args.actions
    args.typed = {
        name: action.option_strings[0] for name, action in actions.items() if action.option_strings
    }
    keys = [name for name in actions if name not in ("help", *EVERYWHERE)]
    taken = {name for name in keys if getattr(args, name) not in (None, False)}
    for key, value in _set(args.set, actions, keys).items():
        if key in taken:
            raise InputError(f"--set {key}: {args.typed[key]} is set, too", code="clash")
        setattr(args, key, _checked(f"--set {key}", value, actions[key]))
        args.typed[key] = f"--set {key}"
        taken.add(key)
    for key, value in _in_file(args.config, {*keys} - {"trust_remote_code"}).items():
        if value is not None and key not in taken:
            setattr(args, key, _checked(f"{args.config}: {key}", value, actions[key]))
            args.typed[key] = f"{args.config}: {key}"


def _set(
    options: Sequence[str], actions: Mapping[str, argparse.Action], keys: Sequence[str]
) -> dict[str, Any]:
    """Return the values of `--set` by key, true and false as booleans."""
    values: dict[str, Any] = {}
    for option in options:
        name, equals, text = option.partition("=")
        key = name.strip().replace("-", "_")
        if not equals:
            raise InputError(f"--set must be KEY=VALUE, got {option!r}")
        if key not in keys:
            raise unknown_choice("option", name, keys).within("--set")
        if key in values:
            raise InputError(f"--set {key} is given twice")
        values[key] = {"true": True, "false": False}.get(text, text)
        if isinstance(actions[key], argparse._AppendAction):
            values[key] = text.split(",")
    return values


def _in_file(path: str | None, keys: Collection[str]) -> dict[str, Any]:
    """Return the values in a YAML file, if any, by key."""
    content = {} if path is None else read_yaml(path)
    if content is not None and not isinstance(content, Mapping):
        raise InputError(f"{path} must be a mapping, such as `epochs: 5`")
    values: dict[str, Any] = {}
    for name, value in (content or {}).items():
        key = str(name).replace("-", "_")
        if key in values:
            raise InputError(f"{path}: option {name!r} is set twice")
        if key not in keys:
            raise unknown_choice("option", str(name), keys).within(path)
        values[key] = value
    return values


_STRUCTURED = ("adapter", "posterior", "verbaliser", "multi_task", "validation")
"""Options that a file may set to a mapping, which is checked where it is used."""


def _checked(label: str, value: Any, action: argparse.Action) -> Any:
    """Return a value as the command line would have parsed it."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"{label}: must be true or false, got {value!r}")
        return action.const if value else None
    if isinstance(value, Mapping) and action.dest in _STRUCTURED:
        return value
    is_list = action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction)
    values = value if is_list and isinstance(value, list) else [value]
    parsed = [_scalar(label, item, action) for item in values]
    return parsed if is_list else parsed[0]


def _scalar(label: str, value: Any, action: argparse.Action) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{label}: must be a string or a number, got {value!r}")
    parsed = action.type(str(value)) if callable(action.type) else str(value)
    if action.choices is not None and parsed not in action.choices:
        raise unknown_choice("value", str(parsed), action.choices).within(label)
    return parsed


class _PrintCompletion(argparse.Action):
    """Prints the completion script and ends the command, as `--help` does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Print the script for the shell in `values`, which then does not start Python."""
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
