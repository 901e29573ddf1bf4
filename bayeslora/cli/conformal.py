"""`bayeslora conformal`: sets of classes that contain the label with a chosen coverage."""

from __future__ import annotations

import math
from typing import Any

from bayeslora.cli import arguments
from bayeslora.cli.arguments import given, option
from bayeslora.cli.data import predictions_reading
from bayeslora.cli.output import check_new_file, print_columns, print_json, show, terminal_width


class Options(arguments.FitAndApply):
    """Arguments of the verb."""

    method: str | None = option(arguments.METHOD)
    """conformal method (default: lac; `bayeslora methods` lists them)"""
    alpha: Any = option("SHARE", "bayeslora.conformal:conformal_sets")
    seed: Any = option(of=arguments.RESAMPLING, further=True)


def run(args: Options) -> None:
    """Check that the rows differ, fit, apply, save, and print coverage and sizes."""
    import numpy as np

    from bayeslora.conformal import conformal_sets
    from bayeslora.metrics.evaluate import evaluate
    from bayeslora.metrics.scores import SET_SCORES
    from bayeslora.reporting.console import sets_text
    from bayeslora.reporting.text import shown

    check_new_file(args.out, overwrite=args.overwrite, inputs=[args.fit, args.apply])
    reading = predictions_reading(args)
    result = conformal_sets(args.fit, args.apply, **given(args, "alpha", "method"), reading=reading)
    scores = evaluate(result.predictions, **given(args, "seed"))
    result.predictions.save(args.out)
    predictor = result.predictor
    values = zip(predictor.classes, np.asarray(predictor.thresholds).tolist(), strict=True)
    # JSON has no infinite numbers.
    thresholds = {name: value if math.isfinite(value) else None for name, value in values}
    if args.json:
        head = {"file": str(args.out), "method": predictor.name, "alpha": predictor.alpha}
        fitted = {"classwise": predictor.classwise, "rows": predictor.num_rows}
        print_json({**head, **fitted, "thresholds": thresholds, "apply": scores.to_json()})
        return
    rows = [
        ("predictions", str(args.out)),
        ("method", f"{predictor.name}{', one threshold per class' if predictor.classwise else ''}"),
        ("target coverage", f"{1 - predictor.alpha:.4g}"),
        ("calibration rows", f"{predictor.num_rows:,}"),
    ]
    for key, info in SET_SCORES.items():
        if key in scores:
            title = f"{'mean ' if info.kind == 'mean' else ''}{info.title.lower()}"
            rows.append((f"{title}, --apply", shown(scores[key])))
    print_columns(rows)
    show("")
    show(sets_text(result.predictions, scores, terminal_width()))
