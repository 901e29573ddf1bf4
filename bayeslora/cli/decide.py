"""`bayeslora decide`: which answers may be automated at a risk, and whether that still holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bayeslora.cli import arguments
from bayeslora.cli.arguments import argument, given, option, refuse
from bayeslora.cli.data import predictions_reading
from bayeslora.cli.output import (
    BROKEN,
    check_json_file,
    note,
    print_columns,
    print_json,
    show,
    show_last,
    show_wrapped,
)
from bayeslora.errors import InputError
from bayeslora.io import read_yaml

if TYPE_CHECKING:
    from bayeslora.decisions.artefact import Calibration
    from bayeslora.predictions.record import Predictions

_OF_A_RULE = ("risk", "confidence", "by", "per_class", "cluster_by", "costs", "calibration", "save")


class Options(arguments.PredictionsFiles, arguments.Overwriting):
    """Arguments of the verb."""

    file: str = argument("PREDICTIONS", "file")
    """labelled predictions of rows that neither the model nor a calibration was fitted to"""
    risk: Any = option("SHARE", "bayeslora.decisions.artefact:decide")
    confidence: Any = option("SHARE", "bayeslora.decisions.artefact:decide")
    by: str | None = option("COLUMN")
    """column whose values get a threshold each"""
    per_class: bool = option()
    """a threshold for each predicted class"""
    cluster_by: str | None = option("COLUMN", "bayeslora.decisions.artefact:decide")
    costs: str | None = option("FILE")
    """YAML file with the cost of answers and of asking a person, instead of --risk"""
    calibration: str | None = option("FILE")
    """what recalibrate or conformal saved, to apply before"""
    save: str | None = option("FILE")
    """the decision, as .json for `bayeslora apply`"""
    then: str | None = option("FILE")
    """predictions of the same rows by a second model, which is asked where the first is not sure"""
    prices: str | None = option("A,B")
    """price of a row for the first model and for that of --then"""
    gate: str | None = option("FILE")
    """test the promise of a saved decision on these rows; exit code 3 if it does not hold"""


def run(args: Options) -> int | None:
    """Find the threshold, or the least costs, or a cascade; or test a promise."""
    if args.gate is not None:
        refuse(args, (*_OF_A_RULE, "then", "prices"), "has no effect with gate")
        return _gate(args)
    if args.then is not None:
        refuse(args, _OF_A_RULE[2:], "has no effect with then")
        _cascade(args, args.then)
        return None
    refuse(args, ("prices",), "has no effect without then")
    if args.save is not None:
        inputs = [file for file in (args.file, args.calibration, args.costs) if file is not None]
        check_json_file(args.save, overwrite=args.overwrite, inputs=inputs)
    _decide(args)
    return None


def _decide(args: Options) -> None:
    from bayeslora.decisions.artefact import decide, load_calibration
    from bayeslora.held_out import further_columns
    from bayeslora.predictions.collection import as_predictions

    reading = predictions_reading(args)
    predictions = as_predictions(args.file, further_columns(args.file, reading), reading)
    options = given(args, "risk", "confidence", "by", "per_class", "cluster_by")
    if args.costs is not None:
        options["costs"] = read_yaml(args.costs)
    if args.calibration is not None:
        options["calibration"] = load_calibration(args.calibration)
    calibration = decide(predictions, **options)
    if args.save is not None:
        calibration.save(args.save)
    _show(args, calibration, predictions)


def _show(args: Options, calibration: Calibration, predictions: Predictions) -> None:
    """Print the promises and the curve, or the expected costs."""
    from bayeslora.decisions.threshold import Rule, curve, expected_costs, independent, sentence
    from bayeslora.plain_text import counted

    rule = calibration.rule or Rule()
    settled = calibration.calibrated(predictions)
    rows = independent(settled.take(settled.labelled), rule.by, rule.cluster_by)
    accepted, answers = rule.accepts(rows), rule.answers(rows)
    wrong = answers != rows.labels
    content: dict[str, Any] = {
        "file": args.save,
        "rows": len(rows),
        "accepted": int(accepted.sum()),
        "errors": int(wrong[accepted].sum()),
    }
    if rule.costs is not None:
        costs = expected_costs(rows, rule.costs).min(1)
        content["expected_cost"] = float(costs.clip(max=rule.person).mean())
    else:
        content |= {"risk": rule.risk, "confidence": rule.confidence, "by": rule.by}
        content["promises"] = {k: asdict(v) | {"share": v.share} for k, v in rule.promises.items()}
        points = curve(rows.confidence, wrong, rule.confidence)
        content["curve"] = [asdict(point) for point in points]
    if args.json:
        print_json(content)
        return
    if rule.costs is None:
        head = ("automated", "from probability", "wrong", f"at most, {100 * rule.confidence:g} %")
        shares = [
            (
                f"{100 * point.share:.0f} %",
                f"{point.threshold:.4f}",
                f"{100 * point.errors / point.accepted:.2f} %",
                f"{100 * point.bound:.2f} %",
            )
            for point in points
        ]
        print_columns([head, *shares])
        show("")
        for value in rule.promises:
            show_wrapped(f"{sentence(rule, value)}.", "  ")
    else:
        share = f"{len(rows) - content['accepted']:,} ({1 - accepted.mean():.1%})"
        print_columns(
            [
                ("rows", f"{len(rows):,}"),
                ("asked of a person", share),
                ("wrong among the others", f"{content['errors']:,}"),
                ("expected cost of a row", f"{content['expected_cost']:.4g}"),
            ]
        )
    total = f"{counted(content['accepted'], 'row')} of {len(rows):,} automated"
    show_last(f"{total}, {counted(content['errors'], 'error')} among them")


def _gate(args: Options) -> int | None:
    from bayeslora.decisions.artefact import load_calibration
    from bayeslora.decisions.threshold import LEVEL, check
    from bayeslora.predictions.collection import as_predictions

    calibration = load_calibration(str(args.gate))
    rule = calibration.rule
    if rule is None:
        raise InputError(f"{args.gate} has no decision; `bayeslora decide --save` writes it")
    predictions = as_predictions(args.file, rule.columns, predictions_reading(args))
    try:
        calibration.check(predictions)
    except InputError as error:
        if error.code != "another-model":
            raise
        if args.json:
            print_json({"holds": False, "reason": str(error)})
        note(str(error))
        return BROKEN
    result = check(rule, calibration.calibrated(predictions))
    if args.json:
        print_json({"holds": result.holds, **asdict(result), "risk": rule.risk})
    else:
        share = f"{result.errors / result.accepted:.2%}" if result.accepted else "none"
        print_columns(
            [
                ("automated", f"{result.accepted:,} labelled rows"),
                ("errors", f"{result.errors:,} ({share})"),
                ("promised", f"at most {rule.risk:.2%}"),
                ("p-value", f"{result.p:.3g} (a promise is broken below {LEVEL:g})"),
            ]
        )
        show_last(
            "the promise holds" if result.holds else "the promise is broken", warns=not result.holds
        )
    return None if result.holds else BROKEN


def _cascade(args: Options, then: str) -> None:
    from bayeslora.decisions.threshold import cascade
    from bayeslora.predictions.collection import as_predictions

    if args.risk is None or args.prices is None:
        raise InputError("then needs risk and prices", options=("then", "risk", "prices"))
    values: list[Any] = [arguments.number(text) for text in args.prices.split(",")]
    if len(values) != 2:
        raise InputError(
            f"prices must be two numbers, A,B, got {args.prices!r}", options=("prices",)
        )
    reading = predictions_reading(args)
    first, second = (as_predictions(file, reading=reading) for file in (args.file, then))
    result = cascade(first, second, args.risk, (values[0], values[1]), **given(args, "confidence"))
    if args.json:
        print_json(asdict(result) | {"risk": args.risk})
        return
    names = ("accuracy of the first", "accuracy of the second", "accuracy of the cascade")
    rows = [(name, f"{x:.4f}") for name, x in zip(names, result.accuracy, strict=True)]
    dearer = 1 - result.accepted / result.rows
    rows += [
        ("asked of the second", f"{dearer:.1%} of {result.rows:,} rows"),
        ("mean price of a row", f"{result.cost:.4g} (the second alone: {values[1]:.4g})"),
    ]
    print_columns(rows)
    share = f"at most {args.risk:.3g} of all rows are wrong that the second alone would get right"
    show_last(
        f"no threshold promises that {share}; ask the second alone"
        if result.threshold is None
        else f"take the first's answers from {result.threshold:.4f} on: {share}"
    )
