"""`bayeslora compare`: methods on the same rows, by paired differences."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bayeslora.cli.arguments import (
    add_json,
    add_overwrite,
    add_resampling,
    add_scoring,
    given,
)
from bayeslora.cli.outputs import print_json, terminal_width
from bayeslora.cli.runs import find
from bayeslora.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bayeslora.predictions.record import Predictions
    from bayeslora.reporting.inputs import Method

SUMMARY = "compare methods on the same rows: paired differences with intervals and p-values"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="RUN_OR_FILE",
        help="predictions files (.parquet, .csv, .jsonl) of the same rows, or run directories",
    )
    parser.add_argument(
        "--by", metavar="SCORE", help="order by accuracy, nll, brier or ece (default: nll)"
    )
    parser.add_argument(
        "--reference",
        metavar="NAME",
        help="the method that the others are compared with (default: the first)",
    )
    parser.add_argument(
        "--distance-to",
        metavar="NAME",
        help="the method to measure each one's distance from: total variation of the probabilities "
        "and ratio of epistemic uncertainty",
    )
    parser.add_argument(
        "--out",
        metavar="FILE_OR_DIR",
        help="write the table too: to a file ending in .md, .tex or .csv, or all three into a "
        "directory",
    )
    add_overwrite(parser)
    add_resampling(parser)
    add_scoring(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Compare all methods and print one table, or JSON."""
    from bayeslora.metrics.compare import compare
    from bayeslora.reporting.comparison_files import comparison_files, write_comparison
    from bayeslora.reporting.console import compare_table

    if args.out is not None:
        comparison_files(args.out, overwrite=bool(args.overwrite))
    methods = find(args.files).methods()
    options = given(args, "by", "num_bins", "seed", "cluster_by", "interval")
    for name in ("reference", "distance_to"):
        if (chosen := getattr(args, name)) is not None:
            options[name] = _label(f"--{name.replace('_', '-')}", chosen, methods)
    comparison = compare([_named(method, args.cluster_by) for method in methods], **options)
    if args.out is not None:
        write_comparison(comparison, args.out, overwrite=bool(args.overwrite))
    if args.json:
        print_json(comparison.to_json())
    else:
        print(compare_table(comparison, terminal_width()))


def _named(method: Method, column: str | None) -> Predictions:
    """Return the method's predictions under its label, with the column where one is needed."""
    from bayeslora.predictions.record import Predictions

    if column is None:
        return method.predictions.replace(name=method.label)
    return Predictions.load(method.file, method.label, columns=(column,))


def _label(option: str, given_name: str, methods: Sequence[Method]) -> str:
    """Return the label of the method that was named by its name or label."""
    labels = [method.label for method in methods]
    same = [method.label for method in methods if method.name == given_name]
    if given_name in labels or not same:
        return given_name
    if len(same) > 1:
        raise InputError(f"{option} {given_name!r} may be any of {', '.join(same)}; name one")
    return same[0]
