"""`bayeslora predict`: write class probabilities and uncertainties of texts to a file."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bayeslora.cli.arguments import (
    CLASSIFIER,
    add_loading,
    add_options,
    add_out,
    add_parameters,
    add_rows,
    given,
)
from bayeslora.cli.data import columns_for, files_of, named_rows, reading, settle_tasks
from bayeslora.cli.output import (
    check_new_file,
    next_step,
    note,
    print_columns,
    print_json,
    score_rows,
    show_last,
)
from bayeslora.cli.parser import VerbParser
from bayeslora.errors import InputError
from bayeslora.plain_text import counted
from bayeslora.processes import current

if TYPE_CHECKING:
    from bayeslora.engine.fitted.pieces import CheckedRows
    from bayeslora.metrics.scores import Scores
    from bayeslora.predictions.record import Predictions


def add_arguments(parser: VerbParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model directory")
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="texts, with or without labels; '-' for stdin. For a model of several tasks use "
        "--multi-task, or rows with a column task",
    )
    add_out(parser, "FILE .parquet, .csv or .jsonl")
    draws = "bayeslora.engine.fitted.pieces:DrawOptions"
    add_parameters(parser, draws, "num_samples S", "link", "seed", "unknown_labels")
    add_parameters(parser, f"{CLASSIFIER}.predict", "keep COLUMN")
    add_options(
        parser,
        {
            "--corrupt KIND:SEVERITY": "corrupt the texts first, to measure calibration under "
            "shift: typos, word_drop or truncation, severity 1 to 5 (see `report --shifted`)"
        },
    )
    add_loading(parser, "backbone", "trust_remote_code")
    add_rows(parser, "DATA", "the model's, such as {}")
    add_loading(parser.further, "device")


def run(args: argparse.Namespace) -> None:
    """Check the output path, the record and every row; then load the model and predict."""
    from bayeslora.checkpoint import read_model, read_record
    from bayeslora.data.corruptions import Corruption
    from bayeslora.engine.data import stream_for
    from bayeslora.engine.plan import Plan
    from bayeslora.posteriors.registry import draws_to_predict
    from bayeslora.predictions.parts import PredictionParts
    from bayeslora.predictions.record import check_further

    world, parts = current(), PredictionParts(args.out)
    world.first(parts.sweep)
    settle_tasks(args, "data")
    files = args.multi_task or args.data
    if files is None:
        raise InputError("DATA is missing; for a model of several tasks use --multi-task NAME=FILE")
    inputs = files_of(files)
    check_out = partial(check_new_file, args.out, overwrite=args.overwrite, inputs=inputs)
    world.first(check_out)
    record = read_record(args.model)
    posterior = Plan.of(record).posterior

    from bayeslora.engine.fitted.pieces import CheckedRows, Drawing, identity, predict_to_file

    keep = args.keep or ()
    options = given(args, "num_samples", "link", "seed", "unknown_labels")
    drawing = Drawing.of(posterior, **options)
    draws = draws_to_predict(posterior, args.num_samples)
    if args.seed is not None and args.corrupt is None and not draws:
        note(f"--seed has no effect: posterior {posterior.name!r} predicts without random draws")
    check_further(keep)
    corruption = None if args.corrupt is None else Corruption.of(args.corrupt, args.seed or 0)

    def checked() -> CheckedRows:
        columns, data = columns_for(args, record), named_rows(files, args)
        read = stream_for(record, data, columns, keep=keep, reading=reading(args))
        return CheckedRows(record, read, drawing.unknown_labels, corruption)

    rows = world.first_then_all(checked)

    from bayeslora.data.union import TASK
    from bayeslora.engine.fitted.card import method_name
    from bayeslora.engine.fitted.load import saved_model

    overwrite = bool(args.overwrite)
    world.first(partial(parts.refuse, identity(rows, drawing), overwrite=overwrite))
    fitted = saved_model(
        read_model(args.model),
        args.backbone or record.backbone["name"],
        progress=not args.quiet,
        device=args.device,
        trust_remote_code=bool(args.trust_remote_code),
    )
    predict_to_file(fitted, rows, drawing, args.out, overwrite=overwrite)
    if world.is_first:
        by_task = bool(record.tasks) and TASK in rows.further
        _report(args, rows, method_name(record, drawing.num_samples), by_task=by_task)


def _report(args: argparse.Namespace, rows: CheckedRows, name: str, *, by_task: bool) -> None:
    """Print the number of rows, and the scores of the labelled ones."""
    count = f"{counted(rows.num_rows, 'row')}, {rows.num_labelled:,} of them labelled"
    line = ("predictions", f"{args.out} ({count})")
    if not rows.num_labelled and not args.json:
        show_last("  ".join(line))
        next_step("view", args.out)
        return

    from bayeslora.metrics.evaluate import evaluate
    from bayeslora.predictions.record import Predictions

    predictions = Predictions.load(args.out, name, columns=["task"] if by_task else ())
    scores = evaluate(predictions)
    of_tasks = _scores_by_task(predictions) if by_task else {}
    if args.json:
        tasks = {task: result.to_json() for task, result in of_tasks.items()}
        more = {"tasks": tasks} if by_task else {}
        print_json({**scores.to_json(), "file": str(args.out), **more})
        return
    print_columns([line, *score_rows(scores)])
    for task, result in of_tasks.items():
        print_columns([("task", task), *score_rows(result)])
    words = {"accuracy": "accuracy {:.3f}", "nll": "NLL {:.3f} nats", "ece": "ECE {:.3f}"}
    figures = [word.format(scores[key].value) for key, word in words.items() if key in scores]
    made = f"{counted(rows.num_rows, 'prediction')} by {name}"
    show_last(f"Saved {args.out}: {', '.join([made, *figures])}")
    next_step("report", args.out, "--out", f"{Path(args.out).with_suffix('')}-report")


def _scores_by_task(predictions: Predictions) -> dict[str, Scores]:
    """Return the scores of the labelled rows of each task, by name.

    Args:
        predictions: Predictions with a column `task`.
    """
    import numpy as np

    from bayeslora.data.union import TASK
    from bayeslora.metrics.evaluate import evaluate

    names = np.asarray(predictions.columns[TASK])
    return {
        str(task): evaluate(predictions.take(chosen))
        for task in dict.fromkeys(names.tolist())
        if (chosen := (names == task) & predictions.labelled).any()
    }
