"""`bayeslora update`: more labelled examples for the last layer of a fitted model."""

from __future__ import annotations

from typing import Any

from bayeslora.cli import arguments, data, output
from bayeslora.cli.arguments import LOADED, PLACE, argument, given, option, refuse
from bayeslora.io import check_writable, real_path, refuse_inputs, refuse_target


class Options(arguments.Rows, arguments.Overwriting):
    """Arguments of the verb."""

    model: str = argument("MODEL", "model")
    """a model directory with a last layer vbll"""
    more: str = argument("MORE", "more")
    """at least 20 labelled examples that the model was not fitted to"""
    out: str | None = option("DIR")
    """output directory (default: MODEL)"""
    backbone: str | None = option(of=LOADED, further=True)
    device: str | None = option(of=PLACE, further=True)


def run(args: Options) -> None:
    """Check the output and the rows; then load, update, save and print."""
    from bayeslora.checkpoint import LAYOUTS, read_record
    from bayeslora.classifier import BayesianClassifier

    refuse(args, ("multi_task",), "is not for update: name the task of each row in a column `task`")
    record, out = read_record(args.model), args.out or args.model
    if real_path(out) != real_path(args.model):
        refuse_target(out, *LAYOUTS, overwrite=args.overwrite)
        refuse_inputs(out, args.model, args.more)
    check_writable(out)
    more = data.named_rows(args.more, args)
    rows = data.labelled_rows(more, data.columns_for(args, record), data.reading(args), record)
    place = {**given(args, "backbone", "device"), "progress": not args.quiet}
    classifier = BayesianClassifier.from_pretrained(args.model, **place)
    classifier.update(rows, **data.column_options(args))
    classifier.save_pretrained(out, overwrite=True)
    result: dict[str, Any] = classifier.record.results["update"]
    if args.json:
        output.print_json({"model": str(out), **result})
        return
    weight = "no update" if result["strength"] is None else f"{result['strength']:g}"
    output.print_columns(
        [
            ("model", str(out)),
            ("new examples", f"{result['rows']:,}"),
            ("weight of the old posterior", weight),
            ("logit scale", f"{result['logit_scale']:.2f}"),
            ("NLL of unseen new examples", f"{result['nll_before']:.3f} → {result['nll']:.3f}"),
        ]
    )
