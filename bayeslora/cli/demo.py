"""`bayeslora demo`: a real model on real text, the methods side by side, and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bayeslora.cli import arguments
from bayeslora.cli.arguments import given, option
from bayeslora.cli.output import print_json, show, terminal_width
from bayeslora.option_checks import as_seed


class Options(arguments.Overwriting):
    """Arguments of the verb."""

    out: str = option("DIR", default="reports/demo")
    """output directory (default: reports/demo)"""
    seed: Any = option(of=arguments.TRAINING)


def run(args: Options) -> None:
    """Fit and score every method, then print the table and the path of the report."""
    from bayeslora.reporting.report import check_target, report

    check_target(Path(args.out), overwrite=bool(args.overwrite))
    if args.seed is not None:
        as_seed(args.seed)

    from bayeslora.demo import run_demo
    from bayeslora.reporting.console import scores_table

    test, ood, provenance = run_demo(progress=not args.quiet, **given(args, "seed"))
    page = report(
        test,
        ood=ood,
        out=args.out,
        title="Demo: newsgroup posts",
        overwrite=bool(args.overwrite),
        provenance={"command": args.command, **provenance},
    )
    if args.json:
        print_json({"page": str(page), "methods": [each.to_json() for each in page.scores]})
        return
    show(scores_table(page.scores, terminal_width()))
    show(f"\nreport: {page}")
