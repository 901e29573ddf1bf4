"""`bayeslora demo`: a real model on real text, the methods side by side, and a report."""

from __future__ import annotations

import argparse
from pathlib import Path

from bayeslora.cli.arguments import add_fields, add_overwrite, given
from bayeslora.cli.output import print_json, show, table_width
from bayeslora.cli.parser import VerbParser
from bayeslora.engine.training_options import TrainingSettings

DEFAULT_OUT = "reports/demo"


def add_arguments(parser: VerbParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "--out",
        default=DEFAULT_OUT,
        metavar="DIR",
        help=f"output directory (default: {DEFAULT_OUT})",
    )
    add_fields(parser, TrainingSettings, ["seed"])
    add_overwrite(parser)


def run(args: argparse.Namespace) -> None:
    """Fit and score every method, then print the table and the path of the report."""
    from bayeslora.reporting.report import check_target, report

    check_target(Path(args.out), overwrite=bool(args.overwrite))

    from bayeslora.demo import run_demo
    from bayeslora.reporting.console import scores_table
    from bayeslora.reporting.model_card import scores_of_report

    result = run_demo(progress=not args.quiet, **given(args, "seed"))
    page = report(
        result.test,
        ood=result.ood,
        out=args.out,
        title="Demo: newsgroup posts",
        overwrite=bool(args.overwrite),
        provenance={"command": args.command, **result.provenance},
    )
    scores = list(scores_of_report(page).values())
    if args.json:
        methods = [result.to_json() for result in scores]
        print_json({"page": str(page), "methods": methods})
        return
    show(scores_table(scores, table_width()))
    show(f"\nreport: {page}")
