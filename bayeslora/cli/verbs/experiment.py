"""`bayeslora experiment`: a resumable grid of fits under a named protocol."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import TYPE_CHECKING

from bayeslora.cli.arguments import DATA_DIR, add_options, given
from bayeslora.cli.output import note, print_columns, print_json, show
from bayeslora.cli.parser import VerbParser
from bayeslora.errors import FailedError, InputError
from bayeslora.plain_text import counted

if TYPE_CHECKING:
    from bayeslora.experiments.run import Experiment, Plan


def add_arguments(parser: VerbParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("grid", metavar="FILE", help="YAML: tasks, methods, seeds, protocol …")
    # Not `out`, which `main` locks: a dry run only looks, and a run locks its directory itself.
    parser.add_argument("--out", dest="directory", metavar="DIR", help="output directory")
    group = parser.add_mutually_exclusive_group()
    add_options(
        group,
        {
            "--workers N": "number of processes on this machine, with Ray (default: 1)",
            "--ray ADDRESS": "address of a Ray cluster: 'local' to start one on this machine, "
            "'auto', or host:port",
        },
    )
    add_options(
        parser,
        {
            "--dry-run": "check everything and show the plan, without computing",
            "--data-dir DIR": DATA_DIR,
        },
    )


def run(args: argparse.Namespace) -> None:
    """Check the grid, then show the plan, or compute missing cells and show the results.

    Raises:
        InputError: Cells failed because of their input; all others are finished and stored.
        FailedError: A cell failed for another reason.
    """
    if not args.dry_run and args.directory is None:
        raise InputError("--out is missing; only --dry-run works without it")

    from bayeslora.experiments import run as experiments

    if args.dry_run:
        plan = experiments.plan(args.grid, args.directory, data_dir=args.data_dir)
        _show_plan(args, plan)
        return
    result = experiments.experiment(
        args.grid,
        args.directory,
        data_dir=args.data_dir,
        **given(args, "workers"),
        ray=args.ray,
        progress=not args.quiet,
    )
    _show(args, result)
    if result.failed:
        errors = FailedError if result.crashed else InputError
        raise errors(
            f"{counted(len(result.failed), 'cell')} failed; see the errors above, and the "
            f"tracebacks in {result.out}/cells/*.error.json"
        )


def _show_plan(args: argparse.Namespace, plan: Plan) -> None:
    from bayeslora.experiments.protocols import PROTOCOLS

    content = plan.to_json()
    if args.json:
        print_json(content)
        return
    rows = [("task", "backbone", "method", "rows", "seeds", "finished", "seconds")]
    rows += [
        (
            *(cell["task"], cell["backbone"], cell["method"]),
            "all" if cell["rows"] is None else str(cell["rows"]),
            *(str(cell["seeds"]), str(cell["finished"])),
            "?" if cell["seconds"] is None else f"{cell['seconds']:.0f}",
        )
        for cell in content["cells"]
    ]
    print_columns(rows)
    show(f"\n{counted(content['num_cells'], 'cell')}, {content['num_finished']} finished")
    left = [(cell["seeds"] - cell["finished"], cell["seconds"]) for cell in content["cells"]]
    if known := sum(count * seconds for count, seconds in left if seconds is not None):
        show(f"about {timedelta(seconds=round(known))} left for cells like the finished ones")
    show(f"protocol {plan.protocol}: {PROTOCOLS[plan.protocol].described()}")
    if plan.deviations:
        show("deviations from the protocol:")
    for text in plan.deviations:
        show(f"  {text}")
    for text in plan.missing:
        note(text)


def _show(args: argparse.Namespace, result: Experiment) -> None:
    if args.json:
        from bayeslora.experiments.summary import cell_scores

        print_json(
            {
                "out": str(result.out),
                "num_cells": len(result.records),
                "cells": [cell_scores(record) for record in result.records],
                "failed": dict(result.failed),
            }
        )
        return
    rows = [("finished cells", str(len(result.records)))]
    if result.failed:
        rows.append(("failed", str(len(result.failed))))
    if result.records:
        rows += [("results", str(result.out / "results.parquet"))]
        rows += [("tables", str(result.out / "summary.md"))]
    print_columns(rows)
