"""`bayeslora apply`: apply what was fitted to held-out predictions to others."""

from __future__ import annotations

from collections import Counter

from bayeslora.cli import arguments
from bayeslora.cli.arguments import argument, option
from bayeslora.cli.data import predictions_reading
from bayeslora.cli.output import check_new_file, print_columns, print_json


class Options(arguments.PredictionsFiles, arguments.Overwriting):
    """Arguments of the verb."""

    calibration: str = argument("CALIBRATION", "calibration")
    """a file that --save of recalibrate, conformal or decide wrote"""
    predictions: str = argument("PREDICTIONS", "predictions")
    """predictions of other rows by the same model, before recalibration"""
    out: str = option("FILE", required=True)
    """.parquet, .csv or .jsonl"""
    force: bool = option()
    """accept the predictions of another model"""


def run(args: Options) -> None:
    """Check that the rows are of the model and fitted nothing, apply, and count decisions."""
    from bayeslora.decisions.artefact import load_calibration
    from bayeslora.decisions.threshold import COLUMN, PERSON

    check_new_file(args.out, overwrite=args.overwrite, inputs=[args.calibration, args.predictions])
    calibration = load_calibration(args.calibration)
    reading = predictions_reading(args)
    result = calibration.apply(args.predictions, force=bool(args.force), reading=reading)
    result.save(args.out)
    steps = [getattr(step, "name", COLUMN) for step in calibration.steps]
    counts = Counter(map(str, result.columns.get(COLUMN, ())))
    if args.json:
        head = {"file": args.out, "steps": steps, "rows": len(result)}
        print_json(head | {"decisions": dict(sorted(counts.items()))})
        return
    rows = [("predictions", args.out), ("steps", ", ".join(steps)), ("rows", f"{len(result):,}")]
    if counts:
        share = 100 * (1 - counts[PERSON] / len(result))
        rows.append(("automated", f"{len(result) - counts[PERSON]:,} ({share:.1f} %)"))
    print_columns(rows)
