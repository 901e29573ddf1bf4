"""Options of verbs, made from the signatures and docstrings of the library functions they call.

An option that is not set is None, so that the default of the Python API applies and is defined
once. The Python API also checks the values, before a model is loaded.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from bayeslora.cli.parser import VerbParser
from bayeslora.errors import InputError
from bayeslora.option_checks import described

Container = argparse._ActionsContainer

LOADING = ("backbone", "device", "trust_remote_code")
"""Options of `add_loading`, by their names in Python."""

CLASSIFIER = "bayeslora.classifier:BayesianClassifier"
PLACE = "bayeslora.classifier:Place"
EVALUATE = "bayeslora.metrics.evaluate:evaluate"
PAGE = "bayeslora.reporting.report:PageOptions"

_NUMBERS = ("N", "X", "S", "SHARE")


def number(text: str) -> int | float | str:
    """Return a number if the text is one, else the text, which the Python API validates."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def add_options(parser: Container, options: Mapping[str, str], **shared: Any) -> None:
    """Add arguments, each as its name and metavar with its help.

    `--quick` is a flag; `--out DIR` takes text; `--epochs N` and other metavars of `_NUMBERS` take
    a number, or text, which the Python API validates. An option that is not set is None.

    Args:
        parser: The parser to add them to.
        options: Help by name and metavar.
        **shared: Further keyword arguments of `add_argument` for all of them.
    """
    for option, about in options.items():
        name, _, metavar = option.partition(" ")
        if not metavar:
            parser.add_argument(name, action="store_const", const=True, help=about)
            continue
        kind = number if metavar.partition("|")[0] in _NUMBERS else str
        parser.add_argument(name, metavar=metavar, type=kind, help=about, **shared)


def add_parameters(parser: Container, source: str, *names: str) -> None:
    """Add an option for each of some parameters of a function, or attributes of a class.

    The kind of value follows from the annotation, and the help is the first sentence of the
    parameter's documentation.

    Args:
        parser: The parser to add them to.
        source: Module and name, such as `bayeslora.metrics.evaluate:evaluate`.
        names: The parameters, each with a metavar if it is not NAME or, for a number, N.
    """
    parameters = _parameters(*source.split(":"))
    for item in names:
        name, _, metavar = item.partition(" ")
        kind, about = parameters[name]
        option = f"--{name.replace('_', '-')}"
        if kind == "bool":
            add_options(parser, {option: about})
            continue
        more: dict[str, Any] = {"type": str, "metavar": metavar or "NAME", "help": about}
        if re.search(r"\b(int|float|Depth)\b", kind):
            more |= {"type": number, "metavar": metavar or "N"}
        elif "Sequence" in kind:
            more |= {"action": "append", "help": f"{about}; repeatable"}
        elif kind.startswith("Literal"):
            more["choices"] = ast.literal_eval(kind.removeprefix("Literal"))
            more["metavar"] = "|".join(more["choices"])
        parser.add_argument(option, **more)


@cache
def _parameters(module: str, name: str) -> dict[str, tuple[str, str]]:
    """Return annotation and first sentence of each parameter or attribute.

    They are read from the source, since importing it may take seconds.
    """
    origin = getattr(find_spec(module), "origin", "")
    node: Any = ast.parse(Path(origin).read_text(encoding="utf-8"))
    for part in name.split("."):
        # The last of this name: those before are overloads.
        node = [child for child in node.body if getattr(child, "name", None) == part][-1]
    if isinstance(node, ast.ClassDef):
        fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
        kinds = {ast.unparse(field.target): field.annotation for field in fields}
    else:
        arguments = [*node.args.args, *node.args.kwonlyargs]
        kinds = {item.arg: item.annotation for item in arguments if item.annotation}
    text = inspect.cleandoc(ast.get_docstring(node) or "")
    _, _, section = re.split(r"^(Args|Attributes):\n", text, maxsplit=1, flags=re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {
        name: (ast.unparse(kinds[name]), _help(" ".join(about.split())))
        for name, about in entries
        if name in kinds
    }


def _help(text: str) -> str:
    """Return the first sentence of a meaning as the help of an option."""
    first = re.split(r"\.(?: |$)", text, maxsplit=1)[0].removeprefix("Whether to ")
    start = first[:1] if first[1:2].isupper() else first[:1].lower()
    return f"{start}{first[1:]}".replace("%", "%%")


def add_fields(parser: Container, config: type[Any], names: Iterable[str]) -> None:
    """Add an argument for each of some fields of a dataclass of options.

    The name is that of the field, the kind of value follows from its type, and the help is its
    docstring.

    Args:
        parser: The parser to add them to.
        config: The dataclass.
        names: Names of the fields.
    """
    hints = get_type_hints(config, include_extras=True)
    for name in names:
        kinds = list(_kinds(hints[name]))
        about = described(config, name).removeprefix("Whether to ")
        about = f"{about[0].lower()}{about[1:]}"
        option = f"--{name.replace('_', '-')}"
        add_options(parser, {f"{option} {'|'.join(map(_metavar, kinds))}".strip(): about})


def _kinds(hint: Any) -> Iterator[Any]:
    """Yield the alternatives of a type, without None and ranges."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        yield from _kinds(args[0])
    elif origin in (Union, UnionType):
        for part in args:
            yield from _kinds(part)
    elif hint is not type(None):
        yield hint


def _metavar(kind: Any) -> str:
    """Return how a value is written: empty for a flag."""
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return {bool: "", int: "N", float: "X"}.get(kind, "KEY=VALUE,…")


def add_rows(parser: VerbParser, source: str, default: str = "{}") -> None:
    """Add the options for rows of data: their columns, task and files.

    Args:
        parser: The parser to add them to.
        source: The argument that the files of several tasks replace.
        default: Default column in the help, with `{}` for its name.
    """
    text, label = default.format("text"), default.format("label")
    add_options(
        parser.add_argument_group("columns of the data"),
        {
            "--text-column NAME": "column with the text, or a template of several, such as "
            f"'{{subject}} {{body}}' (default: {text})",
            "--label-column NAME": f"column with the label (default: {label})",
            "--text-pair-column NAME": "column with a second text",
            "--image-column NAME": "column with image paths, relative to the file (default: "
            "image, if the data has no texts)",
        },
    )
    tasks = parser.add_argument_group("tasks")
    add_options(
        tasks,
        {
            "--task NAME": "a known task (see `bayeslora tasks`); the data arguments are then "
            "names of its splits. For your own data: multiple-choice, text-classification, or a "
            "YAML file with the columns and the prompt (default: detected from the columns)",
            "--data-dir DIR": DATA_DIR,
        },
    )
    tasks.add_argument(
        "--multi-task",
        action="append",
        metavar="NAME=FILE",
        help=f"rows of one of several tasks, instead of {source}; repeatable. For a known task "
        "with --data-dir, use the name of a split, such as sst2_sentences=train",
    )
    add_parameters(parser.further, "bayeslora.data.formats:Reading", *_READING, "blank skip")


DATA_DIR = (
    "directory with the files of known tasks (default: the environment variable BAYESLORA_DATA, "
    "else the Hugging Face hub)"
)
_READING = ("delimiter CHAR", "encoding")


def add_loading(container: Container, *names: str) -> None:
    """Add options for loading a backbone, by default all of `LOADING`."""
    for name in names or LOADING:
        source = f"{CLASSIFIER}.from_pretrained" if name == "backbone" else PLACE
        add_parameters(container, source, name)


def add_out(parser: Container, out: str) -> None:
    """Add the output, as its metavar and help, such as `DIR output directory`."""
    metavar, _, about = out.partition(" ")
    parser.add_argument("--out", required=True, metavar=metavar, help=about)
    add_overwrite(parser)


def add_overwrite(parser: Container) -> None:
    """Add the option that allows an output to be replaced."""
    add_options(parser, {"--overwrite": "replace --out if it exists"})


def add_scored(parser: VerbParser, *, ood: bool = True) -> None:
    """Add the predictions to score, and how to read their files.

    Args:
        parser: The parser to add them to.
        ood: Whether there may be out-of-distribution sets.
    """
    parser.add_argument(
        "files",
        nargs="+",
        metavar="RUN_OR_FILE",
        help="a predictions file (.parquet, .csv, .tsv, .jsonl, .json, also .gz; '-' for stdin), "
        "a sample log of lm-evaluation-harness, or a run directory: its "
        "predictions/test.parquet, with the other files there (except train and validation) "
        "as out-of-distribution sets",
    )
    if ood:
        parser.add_argument(
            "--ood",
            action="append",
            default=[],
            metavar="[METHOD:]NAME=FILE",
            help="predictions on an out-of-distribution set; METHOD is required with several "
            "methods; repeatable",
        )
    add_predictions_reading(parser)


def add_predictions_reading(parser: VerbParser) -> None:
    """Add the options for predictions files of other tools."""
    parser.add_argument(
        "--probability-column",
        action="append",
        metavar="NAME=CLASS",
        help="column with the probability of a class, if not named prob_<class>; repeatable",
    )
    add_options(
        parser,
        {"--renormalise": "divide each row of probabilities by its sum, which otherwise must be 1"},
    )
    add_parameters(parser.further, "bayeslora.data.formats:Reading", *_READING)
    reading = "bayeslora.predictions.files:PredictionsReading"
    add_parameters(parser.further, reading, "normalise")


def add_fit_and_apply(parser: VerbParser) -> None:
    """Add the predictions to fit a last step on, those to apply it to, and the output."""
    add_options(
        parser,
        {
            "--fit FILE": "labelled predictions on examples that the model was not trained on",
            "--apply FILE": "predictions on other examples by the same model",
        },
        required=True,
    )
    add_out(parser, "FILE .parquet, .csv or .jsonl")
    add_predictions_reading(parser)


def add_scoring(parser: VerbParser) -> None:
    """Add the options of all scores: bins, seed and intervals."""
    about = _parameters(*EVALUATE.split(":"))["num_bins"][1]
    parser.add_argument("--bins", dest="num_bins", metavar="N", type=number, help=about)
    add_parameters(parser, "bayeslora.metrics.intervals:Resampling", "seed")
    add_parameters(parser, EVALUATE, "cluster_by COLUMN")
    add_parameters(parser.further, "bayeslora.metrics.intervals:Resampling", "interval")


def add_parts(parser: VerbParser) -> None:
    """Add the options for out-of-distribution scores, and for scores by group and by class."""
    add_parameters(parser, EVALUATE, "ood_score", "group_by COLUMN", "by_class")
    add_parameters(parser.further, EVALUATE, "near", "far")


PART_OPTIONS = ("ood_score", "near", "far", "group_by", "by_class")
"""The options of `add_parts`, by their names in Python."""

SCORING_OPTIONS = ("num_bins", "seed", "cluster_by", "interval")
"""The options of `add_scoring`, by their names in Python."""


def add_choice_of_scores(parser: VerbParser, default: str) -> None:
    """Add the options that select the scores to show.

    Args:
        parser: The parser to add them to.
        default: Default in the help.
    """
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--scores",
        type=lambda text: tuple(filter(None, text.split(","))),
        metavar="KEY[,KEY…]",
        help="scores to show, in this order, by their keys in `evaluate --json` (default: "
        f"{default})",
    )
    shown.add_argument("--all", action="store_true", help="show every score")


def add_apart(parser: Container) -> None:
    """Add the option that keeps seeds of one method separate."""
    parser.add_argument(
        "--no-over-seeds",
        dest="over_seeds",
        action="store_const",
        const=False,
        help="report each seed of a method separately (default: means over seeds)",
    )


def add_examples(parser: Container) -> None:
    """Add the options for the title of a page and the texts on it."""
    add_parameters(parser, PAGE, "title TEXT", "example_column")
    parser.add_argument(
        "--no-examples",
        dest="examples",
        action="store_const",
        const=False,
        help="omit texts and ids",
    )


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the options among `names` that the user set, as keyword arguments."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def refuse(args: argparse.Namespace, names: Iterable[str], reason: str, code: str = "") -> None:
    """Raise InputError with a reason for the first of the options `names` that the user set."""
    for name in given(args, *names):
        raise InputError(f"{args.typed[name]} {reason}", code=code)
