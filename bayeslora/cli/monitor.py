"""`bayeslora monitor`: whether what was calibrated still holds, batch by batch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from bayeslora.cli import arguments
from bayeslora.cli.arguments import argument, given, option
from bayeslora.cli.data import predictions_reading
from bayeslora.cli.output import BROKEN, print_columns, print_json, show_last
from bayeslora.errors import InputError
from bayeslora.io import atomic_file, check_writable, refuse_existing, refuse_inputs


class Options(arguments.PredictionsFiles, arguments.Overwriting):
    """Arguments of the verb."""

    calibration: str = argument("CALIBRATION", "calibration")
    """a file that --save of recalibrate, conformal or decide wrote"""
    batch: str = argument("BATCH", "batch")
    """predictions of new rows by the same model, before recalibration; labels are optional"""
    state: str = option("FILE", required=True)
    """.json file of what the batches before showed; the first makes it, each updates it"""
    confidence: Any = option("SHARE")
    """probability of no false alarm over all batches (default: .95, or that of the state)"""
    html: str | None = option("FILE")
    """a page with a row per batch"""


def run(args: Options) -> int | None:
    """Test the batch, update the state, and print the result; 3 from the first alarm on."""
    from bayeslora.decisions.artefact import load_calibration
    from bayeslora.decisions.monitor import State, load_state, monitor
    from bayeslora.predictions.collection import as_predictions
    from bayeslora.reporting.monitor import COLUMNS, cells, monitor_page, verdict

    inputs = [args.calibration, args.batch]
    refuse_inputs(args.state, *inputs)
    check_writable(args.state)
    if args.html is not None:
        if Path(args.html).suffix != ".html":
            raise InputError(f"html must end in .html, got {args.html!r}", options=("html",))
        refuse_inputs(args.html, *inputs, args.state)
        refuse_existing(args.html, overwrite=args.overwrite)
        check_writable(args.html)
    calibration = load_calibration(args.calibration)
    if Path(args.state).exists():
        state = load_state(args.state)
        if args.confidence not in (None, state.confidence):
            raise InputError(
                f"confidence is {state.confidence:g} in {args.state}, and cannot change",
                options=("confidence",),
            )
    else:
        state = State.start(calibration, **given(args, "confidence"))
    columns = calibration.rule.columns if calibration.rule else []
    predictions = as_predictions(args.batch, columns, predictions_reading(args))
    state = monitor(calibration, predictions.replace(name=Path(args.batch).name), state)
    if args.html is not None:
        with atomic_file(args.html) as temporary:
            temporary.write_text(monitor_page(state), encoding="utf-8", newline="\n")
    # Last: after a failure, the same command tests the batch again.
    state.save(args.state)
    batch = state.batches[-1]
    if args.json:
        print_json(state.to_json() | {"batch": asdict(batch)})
    else:
        print_columns([*zip(COLUMNS, cells(batch), strict=True)])
        show_last(verdict(state), warns=state.alarm)
    return BROKEN if state.alarm else None
