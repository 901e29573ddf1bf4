"""`bayeslora labels`: the rows whose labels are most likely wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bayeslora.cli import arguments
from bayeslora.cli.arguments import argument, option
from bayeslora.cli.data import predictions_reading
from bayeslora.cli.output import check_new_file, note, print_columns, print_json, show, show_last
from bayeslora.option_checks import as_integer

if TYPE_CHECKING:
    from bayeslora.decisions.labels import LabelErrors

_LISTED, _TEXT_COLUMNS = 20, 60


class Options(arguments.PredictionsFiles, arguments.Overwriting):
    """Arguments of the verb."""

    file: str = argument("MODEL_OR_PREDICTIONS", "file")
    """a model that was fitted with cross-validation (`fit --set cv=5` keeps predictions of every
    row), or labelled predictions of rows that the model was not fitted to"""
    num_listed: Any = option("N", flag="-n --num-listed")
    """number of rows to list (default: 20)"""
    out: str | None = option("FILE")
    """all suspected rows, as .parquet, .csv or .jsonl"""


def run(args: Options) -> None:
    """Find the rows, write all of them, and list the first."""
    from bayeslora.decisions.labels import find_label_errors

    count = as_integer("num_listed", _LISTED if args.num_listed is None else args.num_listed, 1)
    if args.out is not None:
        check_new_file(args.out, overwrite=args.overwrite, inputs=[args.file])
    errors = find_label_errors(args.file, reading=predictions_reading(args))
    if errors.predictions is None and args.out is not None:
        note(f"no label is suspected, so {args.out} is not written")
        args.out = None
    elif errors.predictions is not None and args.out is not None:
        errors.predictions.save(args.out)
    listed = _listed(errors, count)
    if args.json:
        content = {"file": args.out, "rows": errors.num_rows, "estimate": errors.estimate}
        print_json(content | {"suspected": len(errors.rows), "listed": listed})
        return
    _show(listed)
    share = f"{errors.estimate:,} of {errors.num_rows:,} labels are wrong, by a generous estimate"
    show_last(f"{share}; {len(errors.rows):,} suspected, {len(listed):,} listed")


def _listed(errors: LabelErrors, count: int) -> list[dict[str, Any]]:
    """Return the first rows: id, label, suggested class, the probability of both, and text."""
    from bayeslora.predictions.collection import EXAMPLE_COLUMN

    return [
        {
            "id": row.id,
            "label": row.label,
            "suggested": row.prediction,
            "probability_of_label": row.probs[str(row.label)],
            "probability_of_suggested": row.confidence,
            **({"text": row.columns[EXAMPLE_COLUMN]} if EXAMPLE_COLUMN in row.columns else {}),
        }
        for row in (() if errors.predictions is None else errors.predictions[:count])
    ]


def _show(listed: list[dict[str, Any]]) -> None:
    from bayeslora.plain_text import shorten

    if not listed:
        return
    rows = [
        (
            *(str(row[name]) for name in ("id", "label", "suggested")),
            f"{row['probability_of_label']:.3f}",
            f"{row['probability_of_suggested']:.3f}",
            *([shorten(row["text"] or "", _TEXT_COLUMNS)] if "text" in row else []),
        )
        for row in listed
    ]
    head = ("id", "label", "suggested", "p(label)", "p(suggested)", "text")
    print_columns([head[: len(rows[0])], *rows])
    show("")
