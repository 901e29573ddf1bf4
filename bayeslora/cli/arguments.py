"""Arguments shared by several verbs.

An option that is not set is None, so that the default of the Python API applies and is defined
once. The Python API also validates the values, before a model is loaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from bayeslora.errors import InputError
from bayeslora.option_checks import described

Parser = argparse.ArgumentParser

_NUMBERS = ("N", "X", "S", "K", "SHARE")

LOADING = ("backbone", "device", "trust_remote_code")
"""Options of `add_moved_backbone` and `add_loading`, by their names in Python."""


def number(text: str) -> int | float | str:
    """Return a number if the text is one, else the text, which the Python API validates."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def template(text: str) -> str:
    r"""Return a template with the two characters `\n`, as shells pass them, as a line break."""
    return text.replace("\\n", "\n")


def verbaliser(text: str) -> dict[str, str] | str:
    """Parse `CLASS=WORDS` into a mapping, or return `names` or `none`."""
    name, equals, words = text.partition("=")
    if text in ("names", "none"):
        return text
    if not (name and equals and words.strip()):
        raise argparse.ArgumentTypeError(f"must be CLASS=WORDS, names or none, got {text!r}")
    return {name: words}


def one_verbaliser(values: list[dict[str, str] | str]) -> dict[str, str] | str:
    """Merge the values of several `--verbaliser`; other classes keep their names.

    Raises:
        InputError: One of several is `none`, or a class has words twice.
    """
    if "none" in values and len(values) > 1:
        raise InputError("--verbaliser none cannot be combined with other values")
    mappings = [value for value in values if isinstance(value, dict)]
    names = [name for mapping in mappings for name in mapping]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise InputError(f"--verbaliser sets class {duplicate!r} twice")
    if not mappings:
        return values[-1]
    return {name: text for mapping in mappings for name, text in mapping.items()}


def add_options(
    parser: argparse._ActionsContainer, options: Mapping[str, str], **shared: Any
) -> None:
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
            parser.add_argument(name, action="store_true", default=None, help=about)
            continue
        kind = number if metavar.partition("|")[0] in _NUMBERS else str
        parser.add_argument(name, metavar=metavar, type=kind, help=about, **shared)


def add_fields(parser: argparse._ActionsContainer, config: type[Any], names: Iterable[str]) -> None:
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
        if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
            parser.add_argument(option, choices=get_args(kinds[0]), help=about)
        else:
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


def add_task(parser: Parser) -> None:
    """Add the options that name a known task."""
    add_options(
        parser,
        {
            "--task NAME": "a known task (see `bayeslora tasks`); the data arguments are then "
            "names of its splits. For your own data: multiple-choice, text-classification, or a "
            "YAML file with the columns and the prompt (default: detected from the columns)",
            "--data-dir DIR": "directory with the files of known tasks (default: the environment "
            "variable BAYESLORA_DATA, else the Hugging Face hub)",
        },
    )


def add_columns(parser: Parser, default: str = "{}") -> None:
    """Add the options for the columns of the data and for reading its files.

    Args:
        parser: The parser to add them to.
        default: Default column in the help, with `{}` for its name.
    """
    text, label = default.format("text"), default.format("label")
    add_options(
        parser,
        {
            "--text-column NAME": f"column with the text (default: {text})",
            "--label-column NAME": f"column with the label (default: {label})",
            "--text-pair-column NAME": "column with a second text",
            "--image-column NAME": "column with image paths, relative to the file (default: "
            "image, if the data has no texts)",
        },
    )
    add_reading(parser, of_data=True)


def add_reading(parser: Parser, *, of_data: bool) -> None:
    """Add the options for reading text files in other formats than their names imply.

    Args:
        parser: The parser to add them to.
        of_data: Whether the files hold texts rather than predictions.
    """
    add_options(
        parser,
        {
            "--delimiter CHAR": "column separator of .csv and .tsv files, such as ';' (default: "
            "comma; tab)",
            "--encoding NAME": "encoding of text files, such as latin-1 (default: utf-8)",
        },
    )
    if of_data:
        parser.add_argument(
            "--blank",
            choices=("refuse", "skip"),
            help="what to do with rows without text (default: refuse)",
        )
        return
    parser.add_argument(
        "--probability-column",
        action="append",
        default=[],
        metavar="NAME=CLASS",
        help="column with the probability of a class, if not named prob_<class>; repeatable",
    )
    parser.add_argument(
        "--renormalise",
        action="store_true",
        help="divide each row of probabilities by its sum (otherwise the sum must be 1)",
    )


def add_loading(parser: argparse._ActionsContainer) -> None:
    """Add the options for loading a backbone."""
    parser.add_argument("--device", help="torch device (default: the GPU, if available)")
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        default=None,
        help="allow code from the backbone's repository to run",
    )


def add_moved_backbone(parser: argparse._ActionsContainer) -> None:
    """Add the option for the location of a model's backbone."""
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="new location of a bayeslora model's backbone, if it has moved",
    )


def add_overwrite(parser: Parser) -> None:
    """Add the option that allows an output to be replaced."""
    parser.add_argument(
        "--overwrite", action="store_true", default=None, help="replace --out if it exists"
    )


def add_talk(parser: Parser) -> None:
    """Add the options of every verb for the amount of output on stderr."""
    parser.add_argument(
        "--quiet",
        "--no-progress",
        dest="quiet",
        action="store_true",
        help="show only notes and errors on stderr, no progress or hints",
    )
    parser.add_argument("--verbose", action="store_true", help="show tracebacks and debug messages")


def add_keep(parser: Parser, source: str) -> None:
    """Add the option that copies columns of `source` to a predictions file."""
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="COLUMN",
        help=f"a column of {source} to keep in the predictions, such as source; repeatable",
    )


def add_json(parser: Parser) -> None:
    """Add the option that prints JSON instead of text."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_seed(parser: Parser, purpose: str) -> None:
    """Add the seed, with its `purpose` as help."""
    parser.add_argument("--seed", type=number, metavar="N", help=f"{purpose} (default: 0)")


def add_feature_scores(parser: Parser, default: str) -> None:
    """Add the option for the out-of-distribution scores to fit.

    Args:
        parser: The parser to add it to.
        default: Default in the help.
    """
    parser.add_argument(
        "--feature-scores",
        metavar="NAME[,NAME…]",
        help="out-of-distribution scores to fit with the posterior: mahalanobis, "
        "relative_mahalanobis, knn, middle_mahalanobis, unfamiliarity, or none "
        f"(default: {default})",
    )


def add_predictions(parser: Parser) -> None:
    """Add the arguments for predictions and their out-of-distribution sets."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="RUN_OR_FILE",
        help="a predictions file (.parquet, .csv, .tsv, .jsonl, .json, also .gz; '-' for stdin), "
        "a sample log of lm-evaluation-harness, or a run directory: its "
        "predictions/test.parquet, with the other files there (except train and validation) "
        "as out-of-distribution sets",
    )
    parser.add_argument(
        "--ood",
        action="append",
        default=[],
        metavar="[METHOD:]NAME=FILE",
        help="predictions on an out-of-distribution set; METHOD is required with several methods; "
        "repeatable",
    )


def add_examples(parser: Parser) -> None:
    """Add the options for the texts shown on a page."""
    parser.add_argument(
        "--no-examples",
        dest="examples",
        action="store_const",
        const=False,
        help="omit texts and ids",
    )
    parser.add_argument(
        "--example-column",
        metavar="NAME",
        help="column with the texts (default: text, if it exists)",
    )


def add_scored(parser: Parser) -> None:
    """Add the predictions to score, their out-of-distribution sets, and scoring options."""
    add_predictions(parser)
    parser.add_argument(
        "--ood-score",
        metavar="SCORE",
        help="uncertainty score for detection (default: unfamiliarity, else epistemic if "
        "informative, else max_probability)",
    )
    add_reading(parser, of_data=False)
    add_scoring(parser)


def add_fit_and_apply(parser: Parser) -> None:
    """Add the predictions to fit a last step on, those to apply it to, and the output."""
    add_options(
        parser,
        {
            "--fit FILE": "labelled predictions on examples that the model was not trained on",
            "--apply FILE": "predictions on other examples by the same model",
            "--out FILE": ".parquet, .csv or .jsonl",
        },
        required=True,
    )
    add_reading(parser, of_data=False)


def add_scoring(parser: Parser) -> None:
    """Add the options of all scores: the number of bins and the seed of the bootstrap."""
    parser.add_argument(
        "--bins",
        dest="num_bins",
        type=number,
        metavar="N",
        help="number of bins for calibration errors (default: 15)",
    )
    add_seed(parser, "seed of the bootstrap intervals")


def add_resampling(parser: Parser) -> None:
    """Add the options of bootstrap intervals."""
    parser.add_argument(
        "--cluster-by",
        metavar="COLUMN",
        help="column that groups dependent rows, such as twins; each group is resampled as a whole",
    )
    parser.add_argument(
        "--interval",
        choices=("percentile", "bca"),
        help="type of bootstrap interval (default: percentile); calibration errors have reflected "
        "intervals",
    )


def add_choice_of_scores(parser: Parser, default: str) -> None:
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


def add_apart(parser: Parser) -> None:
    """Add the option that keeps seeds of one method separate."""
    parser.add_argument(
        "--no-over-seeds",
        dest="over_seeds",
        action="store_const",
        const=False,
        help="report each seed of a method separately (default: means over seeds)",
    )


PART_OPTIONS = ("near", "far", "group_by", "by_class", "cluster_by", "interval")
"""The options of `add_parts` and `add_resampling`, by their names in Python."""


def add_parts(parser: Parser) -> None:
    """Add the options for scores by kind of set, by group of rows and by class."""
    for kind in ("near", "far"):
        parser.add_argument(
            f"--{kind}",
            action="append",
            metavar="NAME",
            help=f"out-of-distribution set to include in the mean over {kind} sets; repeatable",
        )
    parser.add_argument(
        "--group-by",
        action="append",
        metavar="COLUMN",
        help="also show scores per value of this column; repeatable",
    )
    parser.add_argument(
        "--by-class",
        action="store_true",
        default=None,
        help="also show scores per class and the confusion matrix",
    )


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the options among `names` that the user set, as keyword arguments."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def refuse(args: argparse.Namespace, names: Iterable[str], reason: str, code: str = "") -> None:
    """Raise InputError with a reason for the first of the options `names` that the user set."""
    for name in given(args, *names):
        raise InputError(f"--{name.replace('_', '-')} {reason}", code=code)
