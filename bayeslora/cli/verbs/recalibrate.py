"""`bayeslora recalibrate`: fit a temperature to one predictions file and apply it to another."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bayeslora.cli.arguments import add_json, add_overwrite
from bayeslora.cli.outputs import before_and_after, check_new_file, print_columns, print_json

if TYPE_CHECKING:
    from bayeslora.metrics.scores import Scores

SUMMARY = "fit a temperature to held-out predictions and apply it to others"

METHODS = ("temperature",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "--fit",
        required=True,
        metavar="FILE",
        help="labelled predictions of rows that the model was not trained on",
    )
    parser.add_argument(
        "--apply", required=True, metavar="FILE", help="predictions of other rows by the same model"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help=".parquet or .csv")
    parser.add_argument(
        "--method", choices=METHODS, default=METHODS[0], help="(default: temperature)"
    )
    add_overwrite(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Check that the rows differ, fit, apply, save, and print the scores before and after."""
    from bayeslora.cli.overlap import check_apart
    from bayeslora.metrics.evaluate import evaluate
    from bayeslora.posteriors.temperature import Temperature
    from bayeslora.predictions import Predictions

    check_new_file(args.out, overwrite=args.overwrite)
    fitting, applied = Predictions.load(args.fit), Predictions.load(args.apply)
    check_apart((args.fit, fitting), (args.apply, applied))
    scaler = Temperature().fit(fitting)
    result = scaler.apply(applied, f"{applied.name}+{args.method}")
    result.save(args.out)
    scores = {
        "fit": (evaluate(fitting), evaluate(scaler.apply(fitting))),
        "apply": (evaluate(applied), evaluate(result)),
    }
    _show(args, float(scaler.temperature or 1.0), scores)


def _show(
    args: argparse.Namespace, temperature: float, scores: dict[str, tuple[Scores, Scores]]
) -> None:
    if args.json:
        pairs = {
            name: {"before": before.to_json(), "after": after.to_json()}
            for name, (before, after) in scores.items()
        }
        print_json({"file": str(args.out), "temperature": temperature, **pairs})
        return
    rows = [("predictions", str(args.out)), ("temperature", f"{temperature:.4f}")]
    for name, (before, after) in scores.items():
        rows += before_and_after(f"--{name}", before, after)
    print_columns(rows)
