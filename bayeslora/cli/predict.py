"""`bayeslora predict`: write class probabilities and uncertainties of texts to a file."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from bayeslora.cli import arguments, data, output
from bayeslora.cli.arguments import LOADED, PLACE, argument, given, option
from bayeslora.errors import InputError
from bayeslora.plain_text import counted
from bayeslora.processes import current

if TYPE_CHECKING:
    from bayeslora.engine.pieces import CheckedRows

DRAWS = "bayeslora.engine.pieces:DrawOptions"


class Options(arguments.Rows, arguments.Overwriting):
    """Arguments of the verb."""

    model: str = argument("MODEL", "model")
    """a model directory"""
    data: Any = argument("DATA", "data", nargs="?")
    """texts, with or without labels. For a model of several tasks use --multi-task,
    or rows with a column task"""
    out: str = option("FILE", required=True)
    """.parquet, .csv or .jsonl"""
    num_samples: Any = option("S", DRAWS)
    link: str | None = option(of=DRAWS)
    seed: Any = option(of=DRAWS)
    unknown_labels: str | None = option(of=DRAWS)
    keep: list[str] | None = option("COLUMN", f"{arguments.CLASSIFIER}.predict")
    corrupt: str | None = option("KIND:SEVERITY")
    """corrupt the texts first, to measure calibration under shift: typos, word_drop or truncation,
    severity 1 to 5 (see `report --shifted`)"""
    backbone: str | None = option(of=LOADED)
    device: str | None = option(of=PLACE, further=True)
    trust_remote_code: bool = option(of=PLACE)


def run(args: Options) -> None:
    """Check the output path, the record and every row; then load the model and predict."""
    from bayeslora.checkpoint import read_model, read_record
    from bayeslora.data.corruptions import Corruption
    from bayeslora.data.examples import TASK
    from bayeslora.engine.card import method_name
    from bayeslora.engine.data import stream_for
    from bayeslora.engine.load import saved_model
    from bayeslora.engine.pieces import CheckedRows, Drawing, identity, predict_to_file
    from bayeslora.engine.plan import Plan
    from bayeslora.predictions.parts import PredictionParts

    data.settle_tasks(args, "data")
    if args.data is None:
        raise InputError("DATA is missing; for a model of several tasks use --multi-task NAME=FILE")
    world, parts, overwrite = current(), PredictionParts(args.out), bool(args.overwrite)
    world.first(parts.sweep)
    inputs = data.files_of(args.data)
    world.first(partial(output.check_new_file, args.out, overwrite=overwrite, inputs=inputs))
    record = read_record(args.model)
    posterior = Plan.of(record).posterior
    options = given(args, "num_samples", "link", "seed", "unknown_labels")
    drawing = Drawing.of(posterior, **options)
    corruption = None if args.corrupt is None else Corruption.of(args.corrupt, args.seed or 0)

    def checked() -> CheckedRows:
        source, columns = data.named_rows(args.data, args), data.columns_for(args, record)
        how, keep = data.reading(args), args.keep or ()
        read = stream_for(record, source, columns, keep=keep, reading=how)
        return CheckedRows(record, read, drawing.unknown_labels, corruption)

    rows = world.first_then_all(checked)
    world.first(partial(parts.refuse, identity(rows, drawing), overwrite=overwrite))
    network = saved_model(
        read_model(args.model),
        args.backbone or record.backbone["name"],
        progress=not args.quiet,
        device=args.device,
        trust_remote_code=bool(args.trust_remote_code),
    )
    predict_to_file(network, rows, drawing, args.out, overwrite=overwrite)
    if world.is_first:
        by_task = TASK if record.tasks and TASK in rows.further else None
        _report(args, rows, method_name(record, drawing.num_samples), by_task)


def _report(args: Options, rows: CheckedRows, name: str, by_task: str | None) -> None:
    """Print the number of rows, and the scores of the labelled ones."""
    count = f"{counted(rows.num_rows, 'row')}, {rows.num_labelled:,} of them labelled"
    line = ("predictions", f"{args.out} ({count})")
    if not rows.num_labelled and not args.json:
        output.show_last("  ".join(line))
        return

    from bayeslora.metrics.evaluate import evaluate
    from bayeslora.predictions.record import Predictions

    predictions = Predictions.load(args.out, name, columns=[by_task] if by_task else ())
    scores = evaluate(predictions, group_by=by_task)
    if args.json:
        content = scores.to_json()
        tasks = {"tasks": content["groups"][by_task]} if by_task else {}
        output.print_json({**content, "file": str(args.out), **tasks})
        return
    output.print_columns([line, *output.score_rows(scores), *output.cut_off("NLL", scores)])
    for task, part in scores.groups[by_task].items() if by_task else ():
        output.print_columns([("task", task), *output.score_rows(part.scores)])
    output.show_last(f"Saved {args.out}: {counted(rows.num_rows, 'prediction')} by {name}")
