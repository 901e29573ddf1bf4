"""`bayeslora evaluate`: accuracy, NLL, calibration errors and OOD detection, with intervals."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bayeslora.cli.arguments import (
    EVALUATE,
    PART_OPTIONS,
    SCORING_OPTIONS,
    add_choice_of_scores,
    add_options,
    add_parameters,
    add_parts,
    add_scored,
    add_scoring,
    given,
)
from bayeslora.cli.data import find
from bayeslora.cli.output import print_json, show, show_last, table_width
from bayeslora.cli.parser import VerbParser
from bayeslora.errors import InputError
from bayeslora.plain_text import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bayeslora.metrics.scores import Scores
    from bayeslora.predictions.collection import Method


def add_arguments(parser: VerbParser) -> None:
    """Add the verb's own arguments."""
    add_scored(parser)
    add_parts(parser)
    add_scoring(parser)
    add_options(
        parser,
        {"--over-seeds": "treat files of the same method as its seeds: means with t intervals"},
    )
    add_choice_of_scores(parser, "a standard selection")
    add_parameters(parser.further, EVALUATE, "closed")


def run(args: argparse.Namespace) -> None:
    """Score every file and print one table, or JSON: an object, or a list for several files."""
    from bayeslora.reporting.console import scores_table, summary_line

    keys = _keys(args)
    options = given(args, *PART_OPTIONS, *SCORING_OPTIONS, "closed")
    columns = (*options.get("group_by", ()), *filter(None, [options.get("cluster_by")]))
    methods = find(args).methods(tuple(dict.fromkeys(columns)))
    if args.over_seeds:
        from bayeslora.metrics.seeds import over_seeds

        scores = [
            over_seeds([_scores(method, options) for method in seeds], name)
            for name, seeds in _by_seed(methods).items()
        ]
    else:
        scores = [_scores(method, options) for method in methods]
    if args.json:
        content = [result.to_json() for result in scores]
        print_json(content[0] if len(content) == 1 else content)
    else:
        show(scores_table(scores, table_width(), keys))
        line, warns = summary_line(scores)
        if line and keys is None:
            show_last(line, warns=warns)


def _keys(args: argparse.Namespace) -> tuple[str, ...] | None:
    from bayeslora.metrics.catalogue import ALL_SCORES, chosen_keys

    if args.all:
        return tuple(ALL_SCORES)
    return None if args.scores is None else chosen_keys(args.scores, ALL_SCORES)


def _scores(method: Method, options: dict[str, Any]) -> Scores:
    from bayeslora.metrics.evaluate import evaluate

    ood = {name: source.predictions for name, source in method.ood.items()}
    scores = evaluate(method.predictions, ood, **options)
    return replace(scores, name=method.label, file=method.file)


def _by_seed(methods: Sequence[Method]) -> dict[str, list[Method]]:
    """Return the seeds of each method, at least two, by the method's name."""
    from bayeslora.predictions.collection import by_group

    groups = by_group(methods)
    for name, same in groups.items():
        if len(same) == 1:
            raise InputError(
                f"--over-seeds: {quoted(name)} has one file, {same[0].file}; files of its other "
                "seeds need the same rows and fit_options, and a fit_seed, or a name ending in "
                "seed-1, of their own"
            )
    return groups
