"""`bayeslora recalibrate`: fit a recalibrator to one predictions file and apply it to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bayeslora.cli import arguments
from bayeslora.cli.arguments import given, option
from bayeslora.cli.data import predictions_reading
from bayeslora.cli.output import before_and_after, check_fit_and_apply, print_columns, print_json
from bayeslora.errors import InputError

if TYPE_CHECKING:
    from bayeslora.predictions.collection import PredictionsLike
    from bayeslora.predictions.record import Predictions


class Options(arguments.FitAndApply):
    """Arguments of the verb."""

    method: str | None = option(arguments.METHOD)
    """recalibrator (default: temperature; `bayeslora methods` lists them)"""
    save: str | None = option("FILE")
    """what was fitted, as .json for `bayeslora apply`; a file named decision.json gets a
    temperature per type of question for transformers' decision pipeline"""


def run(args: Options) -> None:
    """Check that the rows differ, fit, apply, save, and print the scores before and after."""
    from bayeslora.decisions.artefact import Calibration
    from bayeslora.metrics.evaluate import evaluate
    from bayeslora.predictions.answers import TYPE_COLUMN
    from bayeslora.predictions.collection import as_predictions
    from bayeslora.recalibration.by_type import FILE_NAME, TemperatureByType, decision_settings
    from bayeslora.recalibration.recalibrate import fit_recalibrator, recalibrate

    check_fit_and_apply(args)
    reading = predictions_reading(args)
    fit: PredictionsLike = args.fit
    options = given(args, "method")
    if args.save is not None and Path(args.save).name == FILE_NAME:
        if args.method not in {None, "temperature"}:
            raise InputError(f"{FILE_NAME} holds temperatures only", options=("method",))
        settings = decision_settings(args.save)
        fit = as_predictions(args.fit, [TYPE_COLUMN], reading)
        options = {"method": TemperatureByType()}
    pairs: dict[str, tuple[Predictions, Predictions]] = {}
    if args.apply is None:
        fitted = as_predictions(fit, reading=reading)
        recalibrator = fit_recalibrator(fitted, **options)
        pairs["fit"] = fitted, recalibrator.apply(fitted)
    else:
        result = recalibrate(fit, args.apply, **options, reading=reading)
        recalibrator, fitted = result.recalibrator, result.fit_before
        result.predictions.save(str(args.out))
        pairs |= {"fit": (fitted, result.fit_after), "apply": (result.before, result.predictions)}
    if args.save is not None and isinstance(recalibrator, TemperatureByType):
        recalibrator.save(args.save, settings)
    elif args.save is not None:
        Calibration.on(fitted).then(recalibrator, fitted).save(args.save)
    scores = {key: (evaluate(before), evaluate(after)) for key, (before, after) in pairs.items()}
    numbers = recalibrator.report()
    files = {"predictions": args.out, "calibration": args.save}
    if args.json:
        changes = {
            name: {"before": before.to_json(), "after": after.to_json()}
            for name, (before, after) in scores.items()
        }
        head = {"file": args.out, "calibration": args.save, "method": recalibrator.name}
        print_json({**head, "rows": recalibrator.num_rows, **numbers, **changes})
        return
    rows = [(name, file) for name, file in files.items() if file is not None]
    rows.append(("method", recalibrator.name))
    for key, value in numbers.items():
        text = f"{value:.4f}" if isinstance(value, float) else str(value)
        rows.append((key.replace("_", " "), text))
    for name, (before, after) in scores.items():
        rows += before_and_after(f"--{name}", before, after)
    print_columns(rows)
