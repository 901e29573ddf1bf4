"""`bayeslora recalibrate`: fit a recalibrator to one predictions file and apply it to another."""

from __future__ import annotations

from bayeslora.cli import arguments
from bayeslora.cli.arguments import given, option
from bayeslora.cli.data import predictions_reading
from bayeslora.cli.output import before_and_after, check_new_file, print_columns, print_json


class Options(arguments.FitAndApply):
    """Arguments of the verb."""

    method: str | None = option(arguments.METHOD)
    """recalibrator (default: temperature; `bayeslora methods` lists them)"""


def run(args: Options) -> None:
    """Check that the rows differ, fit, apply, save, and print the scores before and after."""
    from bayeslora.metrics.evaluate import evaluate
    from bayeslora.recalibration.recalibrate import recalibrate

    check_new_file(args.out, overwrite=args.overwrite, inputs=[args.fit, args.apply])
    reading = predictions_reading(args)
    result = recalibrate(args.fit, args.apply, **given(args, "method"), reading=reading)
    result.predictions.save(args.out)
    scores = {
        "fit": (evaluate(result.fit_before), evaluate(result.fit_after)),
        "apply": (evaluate(result.before), evaluate(result.predictions)),
    }
    recalibrator = result.recalibrator
    numbers = recalibrator.report()
    if args.json:
        pairs = {
            name: {"before": before.to_json(), "after": after.to_json()}
            for name, (before, after) in scores.items()
        }
        head = {"file": str(args.out), "method": recalibrator.name}
        print_json({**head, "rows": recalibrator.num_rows, **numbers, **pairs})
        return
    rows = [("predictions", str(args.out)), ("method", recalibrator.name)]
    for key, value in numbers.items():
        text = f"{value:.4f}" if isinstance(value, float) else str(value)
        rows.append((key.replace("_", " "), text))
    for name, (before, after) in scores.items():
        rows += before_and_after(f"--{name}", before, after)
    print_columns(rows)
