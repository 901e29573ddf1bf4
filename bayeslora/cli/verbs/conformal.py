"""`bayeslora conformal`: sets of classes that contain the label with a chosen coverage."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bayeslora.cli.arguments import add_fit_and_apply, add_options, add_parameters, given
from bayeslora.cli.data import predictions_reading
from bayeslora.cli.output import check_new_file, print_columns, print_json, show, terminal_width
from bayeslora.cli.parser import VerbParser
from bayeslora.errors import InputError

if TYPE_CHECKING:
    from bayeslora.conformal import ConformalSets
    from bayeslora.metrics.scores import Scores


def add_arguments(parser: VerbParser) -> None:
    """Add the verb's own arguments."""
    add_fit_and_apply(parser)
    add_options(
        parser,
        {
            "--method NAME[:KEY=VALUE,…]": "conformal method (default: lac; `bayeslora methods` "
            "lists them)"
        },
    )
    add_parameters(parser, "bayeslora.conformal:conformal_sets", "alpha SHARE")
    add_parameters(parser.further, "bayeslora.metrics.intervals:Resampling", "seed")


def run(args: argparse.Namespace) -> None:
    """Check that the rows differ, fit, apply, save, and print coverage and sizes."""
    from bayeslora.conformal import conformal_sets
    from bayeslora.metrics.evaluate import evaluate

    if args.alpha is not None and "alpha=" in (args.method or ""):
        raise InputError(
            f"set alpha only once, got --alpha {args.alpha} and --method {args.method}"
        )
    check_new_file(args.out, overwrite=args.overwrite, inputs=[args.fit, args.apply])
    reading = predictions_reading(args)
    result = conformal_sets(args.fit, args.apply, **given(args, "alpha", "method"), reading=reading)
    scores = evaluate(result.predictions, **given(args, "seed"))
    result.predictions.save(args.out)
    _show(args, result, scores)


def _show(args: argparse.Namespace, result: ConformalSets, scores: Scores) -> None:
    from bayeslora.metrics.catalogue import SET_SCORES
    from bayeslora.reporting.console import sets_text
    from bayeslora.reporting.text import shown

    predictor = result.predictor
    thresholds = _thresholds(result)
    if args.json:
        head = {"file": str(args.out), "method": predictor.name, "alpha": predictor.alpha}
        fitted = {"classwise": predictor.classwise, "rows": predictor.num_rows}
        print_json({**head, **fitted, "thresholds": thresholds, "apply": scores.to_json()})
        return
    values = {value for value in thresholds.values() if value is not None}
    infinite = sum(value is None for value in thresholds.values())
    rows = [
        ("predictions", str(args.out)),
        ("method", f"{predictor.name}{', one threshold per class' if predictor.classwise else ''}"),
        ("target coverage", f"{1 - predictor.alpha:.4g}"),
        ("calibration rows", f"{predictor.num_rows:,}"),
    ]
    if values:
        low, high = f"{min(values):.4f}", f"{max(values):.4f}"
        rows.append(("threshold", low if low == high else f"{low} to {high}"))
    if infinite:
        rows.append(("classes in every set", f"{infinite} of {len(thresholds)}: too few rows"))
    rows += [
        (f"{'mean ' * (info.kind == 'mean')}{info.title.lower()}, --apply", shown(scores[key]))
        for key, info in SET_SCORES.items()
        if key in scores
    ]
    print_columns(rows)
    show("")
    show(sets_text(result.predictions, scores, terminal_width()))


def _thresholds(result: ConformalSets) -> dict[str, float | None]:
    """Return the threshold of each class; None if it is infinite, which JSON lacks."""
    import numpy as np

    predictor = result.predictor
    values = np.asarray(predictor.thresholds).tolist()
    return {
        name: value if value < float("inf") else None
        for name, value in zip(predictor.classes, values, strict=True)
    }
