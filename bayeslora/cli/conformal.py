"""`bayeslora conformal`: sets of classes that contain the label with a chosen coverage."""

from __future__ import annotations

import math
from typing import Any

from bayeslora.cli import arguments
from bayeslora.cli.arguments import given, option
from bayeslora.cli.data import predictions_reading
from bayeslora.cli.output import (
    check_fit_and_apply,
    print_columns,
    print_json,
    show,
    terminal_width,
)
from bayeslora.errors import InputError


class Options(arguments.FitAndApply):
    """Arguments of the verb."""

    method: str | None = option(arguments.METHOD)
    """conformal method (default: lac; `bayeslora methods` lists them)"""
    alpha: Any = option("SHARE", "bayeslora.conformal:conformal_sets")
    ordered: bool = option()
    """the classes are ordered: sets without gaps, of method ordinal"""
    seed: Any = option(of=arguments.RESAMPLING, further=True)


def run(args: Options) -> None:
    """Check that the rows differ, fit, apply, save, and print coverage and sizes."""
    import numpy as np

    from bayeslora.conformal import build, conformal_sets
    from bayeslora.decisions.artefact import Calibration
    from bayeslora.metrics.evaluate import evaluate
    from bayeslora.metrics.scores import SET_SCORES
    from bayeslora.predictions.collection import as_predictions
    from bayeslora.reporting.console import sets_text
    from bayeslora.reporting.text import shown

    check_fit_and_apply(args)
    if args.ordered:
        if args.method is not None:
            raise InputError("--ordered is method ordinal; leave out --method", options=("method",))
        args.method = "ordinal"
    reading = predictions_reading(args)
    fitted = as_predictions(args.fit, reading=reading)
    predictor = build(args.method or "lac", args.alpha).fit(fitted)
    scored, rows_of = predictor.apply(fitted), "--fit"
    if args.apply is not None:
        options = given(args, "alpha", "method")
        scored = conformal_sets(args.fit, args.apply, **options, reading=reading).predictions
        rows_of = "--apply"
    scores = evaluate(scored, **given(args, "seed"))
    if args.out is not None:
        scored.save(args.out)
    if args.save is not None:
        Calibration.on(fitted).then(predictor, fitted).save(args.save)
    values = zip(predictor.classes, np.asarray(predictor.thresholds).tolist(), strict=True)
    # JSON has no infinite numbers.
    thresholds = {name: value if math.isfinite(value) else None for name, value in values}
    if args.json:
        files = {"file": args.out, "calibration": args.save}
        head = {**files, "method": predictor.name, "alpha": predictor.alpha}
        numbers = {"classwise": predictor.classwise, "rows": predictor.num_rows}
        print_json({**head, **numbers, "thresholds": thresholds, rows_of[2:]: scores.to_json()})
        return
    rows = [
        ("predictions" if args.save is None else "calibration", str(args.out or args.save)),
        ("method", f"{predictor.name}{', one threshold per class' if predictor.classwise else ''}"),
        ("target coverage", f"{1 - predictor.alpha:.4g}"),
        ("calibration rows", f"{predictor.num_rows:,}"),
    ]
    for key, info in SET_SCORES.items():
        if key in scores:
            title = f"{'mean ' if info.kind == 'mean' else ''}{info.title.lower()}"
            rows.append((f"{title}, {rows_of}", shown(scores[key])))
    print_columns(rows)
    show("")
    show(sets_text(scored, scores, terminal_width()))
