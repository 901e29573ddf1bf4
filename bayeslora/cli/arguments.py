"""What a verb takes: the fields of its class `Options`, whose docstrings are the help.

    class Options(Scored):
        out: str = option("DIR", required=True)
        '''output directory'''
        seed: Any = option(of=RESAMPLING)    # kind of value and help are those of the library
        quick: bool = option()               # a flag

An option that is not set is None, so that the default of the Python API applies and is defined
once. The Python API also checks the values, before a model is loaded.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError
from bayeslora.option_checks import field_docstrings, field_texts, is_number

CLASSIFIER = "bayeslora.classifier:BayesianClassifier"
LOADED = f"{CLASSIFIER}.from_pretrained"
PLACE = "bayeslora.classifier:Place"
TRAINING = "bayeslora.engine.training_options:TrainingSettings"
EVALUATE = "bayeslora.metrics.evaluate:evaluate"
RESAMPLING = "bayeslora.metrics.intervals:Resampling"
PAGE = "bayeslora.reporting.report:PageOptions"
READING = "bayeslora.data.formats:Reading"

METHOD = "NAME[:KEY=VALUE,…]"
"""How a method with options is written."""

_NUMBERS = ("N", "X", "S", "SHARE")
_NUMERIC = re.compile(r"\b(int|float|Count|CountOrZero|Positive|BelowOne|Seed)\b")


@dataclass(frozen=True)
class Argument:
    """An argument of a verb.

    Attributes:
        metavar: How a value is written; empty for a flag, or as `of` says. A number if it is one of
            `_NUMBERS`, else text.
        of: Function or class of the library, as `module:name`, which has a parameter of this name.
        further: Whether only `--set` and `--config` set it.
        flags: Names on the command line; empty for the field's, with dashes.
        more: Further keyword arguments of `add_argument`.
    """

    metavar: str = ""
    of: str = ""
    further: bool = False
    flags: tuple[str, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)


def option(
    metavar: str = "", of: str = "", *, further: bool = False, flag: str = "", **more: Any
) -> Any:
    """Declare an option; see `Argument`."""
    return Argument(metavar, of, further, tuple(flag.split()), more)


def argument(metavar: str, name: str, **more: Any) -> Any:
    """Declare an argument without a name on the command line; `name` is that of the field."""
    return Argument(metavar, flags=(name,), more=more)


def number(text: str) -> int | float | str:
    """Return a number if the text is one, else the text, which the Python API validates."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def add_arguments(
    parser: argparse.ArgumentParser, further: argparse.ArgumentParser, options: type[Any]
) -> None:
    """Add the arguments of a class and of its bases, each of which may have a `group` in the help.

    Args:
        parser: The parser of a verb.
        further: The parser of options that only `--set` and `--config` set.
        options: The class.
    """
    known: set[str] = set()
    groups: dict[Any, argparse._ActionsContainer] = {None: parser}
    for base in options.__mro__:
        title = vars(base).get("group")
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        texts = field_docstrings(base.__module__).get(base.__name__, {})
        for name, item in vars(base).items():
            if isinstance(item, Argument) and name not in known:
                known.add(name)
                _add(further if item.further else groups[title], name, item, texts.get(name, ""))


def _add(container: argparse._ActionsContainer, name: str, item: Argument, text: str) -> None:
    """Add one argument, whose kind of value and help may be those of the library."""
    metavar, more, kind = item.metavar, dict(item.more), "" if item.metavar else "bool"
    if item.of:
        kind, text = _parameters(*item.of.split(":"))[name]
    if kind.startswith("Literal"):
        more["choices"] = re.findall(r"'([^']*)'", kind)
    elif "Sequence" in kind:
        more["action"], text = "append", f"{text}; repeatable"
    if kind == "bool":
        more = {"action": "store_const", "const": True} | more
    else:
        metavar = metavar or "|".join(more.get("choices", ()))
        metavar = metavar or ("N" if _NUMERIC.search(kind) else "NAME")
        is_number = metavar.partition("|")[0] in _NUMBERS
        more = {"metavar": metavar, "type": number if is_number else str} | more
    flags = item.flags or (f"--{name.replace('_', '-')}",)
    if flags != (name,):
        more["dest"] = name
    container.add_argument(*flags, help=text.replace("%", "%%"), **more)


@cache
def _parameters(module: str, name: str) -> dict[str, tuple[str, str]]:
    """Return annotation and meaning of each parameter of a function, or field of a class.

    They are read from the source, since importing it may take seconds.
    """
    origin = getattr(find_spec(module), "origin", "")
    node: Any = ast.parse(Path(origin).read_text(encoding="utf-8"))
    for part in name.split("."):
        # The last of this name: those before are overloads.
        node = [child for child in node.body if getattr(child, "name", None) == part][-1]
    docstring = inspect.cleandoc(ast.get_docstring(node) or "")
    _, *section = re.split(r"^(?:Args|Attributes):\n", docstring, flags=re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", "".join(section), re.MULTILINE)
    texts = {key: re.split(r"\.(?:\s|$)", text, maxsplit=1)[0] for key, text in entries}
    if isinstance(node, ast.ClassDef):
        fields: Any = [each for each in node.body if isinstance(each, ast.AnnAssign)]
        kinds = {each.target.id: each.annotation for each in fields}
        values = {each.target.id: getattr(each.value, "value", None) for each in fields}
        texts |= {key: _with_default(text, values[key]) for key, text in field_texts(node).items()}
    else:
        arguments = [*node.args.args, *node.args.kwonlyargs]
        kinds = {each.arg: each.annotation for each in arguments}
    return {
        key: (ast.unparse(kinds[key]), _help(text)) for key, text in texts.items() if kinds.get(key)
    }


def _with_default(text: str, default: object) -> str:
    """Return the meaning of an option with its default, if this is a number and not stated yet."""
    is_stated = not is_number(default) or "default" in text
    return text.removesuffix(".") + ("" if is_stated else f" (default: {default:g})")


def _help(text: str) -> str:
    """Return a meaning as the help of an option."""
    line = " ".join(text.split()).removeprefix("Whether to ")
    start = line[:1] if line[1:2].isupper() else line[:1].lower()
    return f"{start}{line[1:]}"


def given(args: Any, *names: str) -> dict[str, Any]:
    """Return the options among `names` that the user set, as keyword arguments."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def refuse(args: Any, names: Iterable[str], reason: str, code: str = "") -> None:
    """Raise InputError with a reason for the first of the options `names` that the user set."""
    for name in given(args, *names):
        raise InputError(f"{name} {reason}", code=code, options=(name,))


class Everywhere:
    """Options of every verb.

    Attributes:
        command: The command line.
    """

    group = "options of every verb"
    command: str
    json: bool = option()
    """print the result as JSON"""
    quiet: bool = option(flag="--quiet --no-progress")
    """show only notes and errors on stderr, no progress or hints"""
    verbose: bool = option()
    """show tracebacks and debug messages"""
    config: str | None = option("FILE")
    """YAML file with options (out, seed, …) and further ones; the command line takes precedence"""
    set: list[str] | None = option("KEY=VALUE", action="append")
    """set a further option, see the end of this help; repeatable"""


class Overwriting(Everywhere):
    """An output that may be replaced."""

    overwrite: bool = option()
    """replace outputs that exist"""


class TextFile(Everywhere):
    """How text files are read."""

    delimiter: str | None = option("CHAR", READING, further=True)
    encoding: str | None = option(of=READING, further=True)


class _Columns(Everywhere):
    group = "columns of the data"
    text_column: str | None = option("NAME")
    """column with the text, or a template of several, such as '{subject} {body}' (default: text, or
    that of a bayeslora model)"""
    label_column: str | None = option("NAME")
    """column with the label (default: label, or that of a bayeslora model)"""
    text_pair_column: str | None = option("NAME")
    """column with a second text"""
    image_column: str | None = option("NAME")
    """column with image paths, relative to the file (default: image, if the data has no texts)"""


class _Tasks(Everywhere):
    group = "tasks"
    task: Any = option("NAME")
    """a known task (see `bayeslora tasks`); the data arguments are then names of its splits. For
    your own data: multiple-choice or text-classification (default: detected from the columns)"""
    data_dir: str | None = option("DIR")
    """directory with the files of known tasks (default: the environment variable BAYESLORA_DATA,
    else the Hugging Face hub)"""
    multi_task: Any = option("NAME=FILE", action="append")
    """rows of one of several tasks, instead of TRAIN or DATA; repeatable"""


class Rows(_Columns, _Tasks, TextFile):
    """Rows of data: their columns, task and files."""


class PredictionsFiles(TextFile):
    """How predictions files of other tools are read."""

    probability_column: list[str] | None = option("NAME=CLASS", action="append")
    """column with the probability of a class, if not named prob_<class>; repeatable"""
    renormalise: bool = option()
    """divide each row of probabilities by its sum, which otherwise must be 1"""
    label_column: str | None = option("NAME", further=True)
    """column with the labels (default: label)"""


class FitAndApply(PredictionsFiles, Overwriting):
    """Predictions to fit a last step on, those to apply it to, and the output."""

    fit: str = option("FILE", required=True)
    """labelled predictions on examples that the model was not trained on"""
    apply: str | None = option("FILE")
    """predictions on other examples by the same model, which --out gets"""
    out: str | None = option("FILE")
    """.parquet, .csv or .jsonl"""
    save: str | None = option("FILE")
    """what was fitted, as .json for `bayeslora apply`"""


class Compared(PredictionsFiles):
    """Predictions to score."""

    files: list[str] = argument("RUN_OR_FILE", "files", nargs="+")
    """a predictions file (.parquet, .csv, .tsv, .jsonl, .json, also .gz), a sample log of
    lm-evaluation-harness, a classifier followed by labelled rows to predict, or a run
    directory: its predictions/test.parquet, with the other files there (except train and
    validation) as out-of-distribution sets"""
    name: str | None = option("NAME", further=True)
    """name of the method in tables and figures, if there is one"""
    text_column: str | None = option("NAME", further=True)
    """column with the texts of a classifier's rows (default: text)"""


class Scored(Compared):
    """Predictions to score, perhaps with out-of-distribution sets."""

    ood: list[str] | None = option("[METHOD:]NAME=FILE", action="append")
    """predictions on an out-of-distribution set; METHOD is required with several methods;
    repeatable"""


class Scoring(Everywhere):
    """Options of all scores: bins, seed and intervals."""

    num_bins: Any = option(of=EVALUATE, flag="--bins")
    seed: Any = option(of=RESAMPLING)
    cluster_by: str | None = option("COLUMN", EVALUATE, further=True)


class Parts(Everywhere):
    """Options of out-of-distribution scores, and of scores by group and by class."""

    ood_score: str | None = option(of=EVALUATE)
    group_by: list[str] | None = option("COLUMN", EVALUATE)
    by_class: bool = option(of=EVALUATE)
    ordered: bool = option(of=EVALUATE)


class Evaluated(Scored, Parts, Scoring):
    """Predictions to evaluate or report, with options that the other verbs take by `--set`."""

    name: str | None = option("NAME")
    """name of the method in tables and figures, if there is one"""
    label_column: str | None = option("NAME")
    """column with the labels of predictions, or of a classifier's rows (default: label)"""


class Apart(Scoring):
    """Options of all scores, of which those of one method's seeds may be separate."""

    over_seeds: bool | None = option(flag="--no-over-seeds", const=False)
    """report each seed of a method separately (default: means over seeds)"""


class ScoreChoice(Everywhere):
    """Options that select the scores to show."""

    scores: str | None = option("KEY[,KEY…]")
    """scores to show, in this order, by their keys in `evaluate --json` (default: the usual)"""
    all: bool = option()
    """show every score"""


class Page(Everywhere):
    """Title of a page and the texts on it."""

    group = "the page"
    title: str | None = option("TEXT", PAGE)
    example_column: str | None = option(of=PAGE)
    examples: bool | None = option(flag="--no-examples", const=False)
    """omit texts and ids"""


PART_OPTIONS = ("ood_score", "group_by", "by_class", "ordered")
"""The options of `Parts`, by their names in Python."""

SCORING_OPTIONS = ("num_bins", "seed", "cluster_by")
"""The options of `Scoring`, by their names in Python."""


def score_keys(args: ScoreChoice, known: Iterable[str]) -> tuple[str, ...] | None:
    """Return the keys of the scores to show; None for the usual ones.

    Args:
        args: The arguments.
        known: All keys.
    """
    from bayeslora.metrics.scores import chosen_keys

    if args.all and args.scores is not None:
        raise InputError("scores has no effect with all", options=("scores", "all"))
    if args.all:
        return tuple(known)
    if args.scores is None:
        return None
    return chosen_keys([*filter(None, args.scores.split(","))], known)
