"""`bayeslora report`: a self-contained page with figures, tables and findings."""

from __future__ import annotations

import argparse

from bayeslora.cli.arguments import add_overwrite, add_scored, given
from bayeslora.cli.runs import find

SUMMARY = "write a report that can be sent to somebody as one file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    add_scored(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="where the report goes")
    parser.add_argument("--title", help="title of the page")
    parser.add_argument(
        "--no-examples",
        dest="examples",
        action="store_const",
        const=False,
        help="leave out the rows that were answered most confidently wrong, with their texts",
    )
    parser.add_argument(
        "--example-column",
        metavar="NAME",
        help="column with the texts of these rows (default: text, where there is one)",
    )
    parser.add_argument(
        "--template",
        metavar="PATH",
        help="Jinja2 template of the page, or a directory with a report.html.j2 (docs/reports.md)",
    )
    add_overwrite(parser)


def run(args: argparse.Namespace) -> None:
    """Write the report and print where its page is."""
    from bayeslora.reporting.report import report

    scored = find(args.files, args.ood)
    look = given(args, "examples", "example_column", "template")
    options = given(args, "title", "ood_score", "num_bins", "seed") | look
    page = report(
        scored.files,
        ood=scored.ood,
        out=args.out,
        overwrite=bool(args.overwrite),
        provenance={"command": args.command},
        **options,
    )
    print(page)
