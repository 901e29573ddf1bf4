"""`bayeslora suggest`: the rows of a pool that are most worth a label."""

from __future__ import annotations

from typing import Any

from bayeslora.cli import arguments, data
from bayeslora.cli.arguments import argument, given, option
from bayeslora.cli.output import check_new_file, print_columns, print_json, show_last

_LISTED, _TEXT_COLUMNS = 20, 60


class Options(arguments.Rows, arguments.Overwriting):
    """Arguments of the verb."""

    model: str = argument("MODEL", "model")
    """a model directory"""
    pool: Any = argument("POOL", "pool")
    """texts without labels"""
    num_rows: Any = option("N", flag="-n --num-rows", required=True)
    """number of rows to choose"""
    out: str | None = option("FILE")
    """the chosen rows with their predictions, as .parquet, .csv or .jsonl"""


def run(args: Options) -> None:
    """Predict the pool, choose, save, and list the first rows."""
    from bayeslora.checkpoint import read_record
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.decisions.suggest import margins, suggest
    from bayeslora.plain_text import shorten

    if args.out is not None:
        check_new_file(args.out, overwrite=args.overwrite, inputs=[args.model, args.pool])
    text = data.columns_for(args, read_record(args.model)).text
    keep = [] if "{" in text else [text]
    classifier = BayesianClassifier.from_pretrained(args.model, progress=not args.quiet)
    columns = given(args, "text_column", "label_column")
    pool = classifier.predict(args.pool, keep=keep, unknown_labels="ood", **columns)
    chosen = suggest(pool, args.num_rows)
    if args.out is not None:
        chosen.save(args.out)
    if args.json:
        values = zip(chosen.ids or (), margins(chosen).tolist(), strict=True)
        print_json({"file": args.out, "rows": [{"id": x, "margin": y} for x, y in values]})
        return
    rows = [
        (
            str(row.id),
            str(row.prediction),
            f"{margin:.3f}",
            shorten(row.columns.get(text) or "", _TEXT_COLUMNS),
        )
        for row, margin in zip(chosen[:_LISTED], margins(chosen), strict=False)
    ]
    print_columns([("id", "predicted", "margin", "text"), *rows])
    show_last(f"{len(chosen):,} of {len(pool):,} rows chosen, {len(rows)} listed")
