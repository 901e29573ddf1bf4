"""`bayeslora compare`: paired differences of methods on the same rows."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bayeslora.cli.arguments import (
    SCORING_OPTIONS,
    add_apart,
    add_choice_of_scores,
    add_options,
    add_overwrite,
    add_parameters,
    add_scored,
    add_scoring,
    given,
)
from bayeslora.cli.data import find
from bayeslora.cli.output import next_step, print_json, show, show_last, table_width
from bayeslora.cli.parser import VerbParser
from bayeslora.errors import InputError
from bayeslora.io.files import STDIN, refuse_inputs, shown_path
from bayeslora.plain_text import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bayeslora.predictions.collection import Method


def add_arguments(parser: VerbParser) -> None:
    """Add the verb's own arguments."""
    add_scored(parser, ood=False)
    function = "bayeslora.metrics.compare:compare"
    add_parameters(parser, function, "by SCORE", "reference", "distance_to")
    add_options(
        parser,
        {
            "--out FILE": "also write the table to a file ending in .md, .tex, .csv or .json",
        },
    )
    add_overwrite(parser)
    add_choice_of_scores(parser, "accuracy,nll,brier,ece")
    add_apart(parser)
    add_scoring(parser)


def run(args: argparse.Namespace) -> None:
    """Compare all methods and print one table, or JSON."""
    from bayeslora.metrics.catalogue import chosen_keys
    from bayeslora.metrics.compare import compare
    from bayeslora.predictions.collection import named_predictions
    from bayeslora.reporting.comparison import comparison_target, write_comparison
    from bayeslora.reporting.console import compare_table, comparison_line

    if args.out is not None:
        comparison_target(args.out, overwrite=bool(args.overwrite))
        refuse_inputs(args.out, *args.files)
    if (keys := _keys(args)) is not None:
        chosen_keys(keys)  # validated before anything is read
    columns = [] if args.cluster_by is None else [args.cluster_by]
    methods = find(args).methods(columns)
    together = args.over_seeds is None and len({method.group for method in methods}) > 1
    options = given(args, "by", *SCORING_OPTIONS)
    for name in ("reference", "distance_to"):
        if (chosen := getattr(args, name)) is not None:
            option = f"--{name.replace('_', '-')}"
            options[name] = _called(option, chosen, methods, together=together)
    comparison = compare(
        [named_predictions(method, over_seeds=together) for method in methods],
        scores=keys,
        over_seeds=together,
        **options,
    )
    if args.out is not None:
        write_comparison(comparison, args.out, overwrite=bool(args.overwrite))
    if args.json:
        print_json(comparison.to_json())
    else:
        show(compare_table(comparison, table_width()))
        saved = "" if args.out is None else f"; saved in {args.out}"
        show_last(f"{comparison_line(comparison)}{saved}")
        if STDIN not in map(shown_path, args.files):
            next_step("report", *args.files, "--out", "report")


def _keys(args: argparse.Namespace) -> tuple[str, ...] | None:
    from bayeslora.metrics.catalogue import SCORE_KEYS

    return SCORE_KEYS if args.all else args.scores


def _called(option: str, given_name: str, methods: Sequence[Method], *, together: bool) -> str:
    """Return the comparison's name of a method given by its name or label."""
    labels = [method.group if together else method.label for method in methods]
    same = {
        label: None
        for label, method in zip(labels, methods, strict=True)
        if given_name in {method.name, method.label}
    }
    if given_name in labels or not same:
        return given_name
    if len(same) > 1:
        raise InputError(
            f"{option} {quoted(given_name)} is ambiguous; choose one of {', '.join(same)}"
        )
    return next(iter(same))
