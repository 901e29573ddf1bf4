"""`bayeslora evaluate`: accuracy, NLL, calibration errors and OOD detection, with intervals."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bayeslora.cli.arguments import add_json, add_scored, given
from bayeslora.cli.outputs import print_json, terminal_width
from bayeslora.cli.runs import find

if TYPE_CHECKING:
    from bayeslora.metrics.scores import Scores
    from bayeslora.reporting.inputs import Method

SUMMARY = "score predictions: accuracy, NLL, calibration, out-of-distribution detection"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    add_scored(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Score every file and print one table, or JSON: an object, or a list of several."""
    from bayeslora.reporting.console import scores_table

    options = given(args, "ood_score", "num_bins", "seed")
    scores = [_scores(method, options) for method in find(args.files, args.ood).methods()]
    if args.json:
        content = [one.to_json() for one in scores]
        print_json(content[0] if len(content) == 1 else content)
    else:
        print(scores_table(scores, terminal_width()))


def _scores(method: Method, options: dict[str, Any]) -> Scores:
    from bayeslora.metrics.evaluate import evaluate

    outside = {name: source.predictions for name, source in method.ood.items()}
    scores = evaluate(method.predictions, outside, **options)
    return replace(scores, name=method.label, file=method.file)
