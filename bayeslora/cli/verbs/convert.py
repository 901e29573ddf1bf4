"""`bayeslora convert`: predictions of any origin as a predictions file."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from bayeslora.cli.arguments import add_json, add_keep, add_overwrite, add_reading
from bayeslora.cli.data import predictions_reading
from bayeslora.cli.messages import note
from bayeslora.cli.outputs import check_new_file, print_columns, print_json
from bayeslora.plain_text import counted

SUMMARY = "write predictions of another tool or format as a predictions file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a file with prob_<class> or logit_<class> columns (.parquet, .csv, .tsv, .jsonl, "
        ".json, also .gz; '-' for stdin), or a sample log of lm-evaluation-harness "
        "(samples_<task>_<date>.jsonl) of a multiple-choice task",
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help=".parquet (keeps the name), .csv or .jsonl"
    )
    parser.add_argument("--name", help="name of the method or model (default: as stored)")
    parser.add_argument(
        "--normalise",
        choices=("none", "characters", "bytes"),
        help="for a sample log: divide each option's log-likelihood by its length in characters "
        "(as acc_norm) or bytes (as acc_bytes) (default: none)",
    )
    add_reading(parser, of_data=False)
    add_keep(parser, "FILE, or a field of a log's doc,")
    add_overwrite(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Read, check and write the predictions, and print a summary."""
    from bayeslora.predictions.record import Predictions

    check_new_file(args.out, overwrite=args.overwrite, inputs=[args.file])
    if args.name is not None and Path(args.out).suffix != ".parquet":
        note(f"--name has no effect on {args.out}: only .parquet files keep a name")
    reading = replace(predictions_reading(args), normalise=args.normalise)
    predictions = Predictions.read(args.file, args.name, columns=args.keep, reading=reading)
    predictions.save(args.out)
    labelled = int(predictions.labelled.sum())
    if args.json:
        counts = {"n": len(predictions), "n_labelled": labelled, "classes": predictions.classes}
        print_json({"file": str(args.out), "name": predictions.name, **counts})
        return
    rows = f"{counted(len(predictions), 'row')}, {labelled:,} of them labelled"
    print_columns(
        [
            ("predictions", f"{args.out} ({rows})"),
            ("name", predictions.name),
            ("classes", f"{predictions.num_classes}: {', '.join(predictions.classes[:8])}"),
        ]
    )
