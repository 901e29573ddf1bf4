"""`bayeslora budget`: how many labelled rows a promise, an accuracy or a comparison needs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bayeslora.cli import arguments
from bayeslora.cli.arguments import argument, given, option
from bayeslora.cli.data import predictions_reading
from bayeslora.cli.output import print_columns, print_json


class Options(arguments.PredictionsFiles):
    """Arguments of the verb."""

    file: str = argument("PREDICTIONS", "file")
    """labelled predictions of rows that the model was not fitted to"""
    risk: Any = option("SHARE", "bayeslora.decisions.budget:budget", required=True)
    confidence: Any = option("SHARE", "bayeslora.decisions.budget:budget")


def run(args: Options) -> None:
    """Print what each number of rows is worth."""
    from bayeslora.decisions.budget import budget
    from bayeslora.predictions.collection import as_predictions

    predictions = as_predictions(args.file, reading=predictions_reading(args))
    budgets = budget(predictions, args.risk, **given(args, "confidence"))
    if args.json:
        print_json([asdict(each) for each in budgets])
        return
    head = ("labelled rows", "accuracy", "threshold exists", "automated", "difference seen")
    rows = [
        (
            f"{each.rows:,}",
            f"± {100 * each.accuracy:.1f} %",
            f"{100 * each.found:.0f} %",
            f"{100 * each.automated:.0f} %",
            f"{100 * each.difference:.1f} %",
        )
        for each in budgets
    ]
    print_columns([head, *rows])
