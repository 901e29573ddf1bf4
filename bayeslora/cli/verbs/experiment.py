"""`bayeslora experiment`: a resumable grid of fits under a named protocol."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bayeslora.cli.arguments import DATA_DIR, add_options, given
from bayeslora.cli.output import note, print_columns, print_json, show
from bayeslora.cli.parser import VerbParser
from bayeslora.errors import FailedError, InputError
from bayeslora.plain_text import counted

if TYPE_CHECKING:
    from bayeslora.experiments.run import Experiment, Plan

SUMMARY = "run a grid of fits under a named protocol; rerun the same command to continue"


def add_arguments(parser: VerbParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("grid", metavar="FILE", help="YAML: tasks, methods, seeds, protocol …")
    # Not `out`: several processes may work on one experiment, and each cell has a lock of its own.
    parser.add_argument("--out", dest="directory", metavar="DIR", help="output directory")
    group = parser.add_mutually_exclusive_group()
    add_options(
        group,
        {
            "--workers N": "number of processes on this machine (default: 1)",
            "--ray ADDRESS": "address of a Ray cluster: 'local' to start one on this machine, "
            "'auto', or host:port",
        },
    )
    add_options(
        parser,
        {
            "--dry-run": "check everything and show the plan, without computing",
            "--shard I/N": "compute only cells I, I+N, I+2N …, as task I of a job array of N tasks",
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
    shard = _shard(args.shard)

    from bayeslora.experiments import run as experiments

    if args.dry_run:
        plan = experiments.plan(args.grid, args.directory, data_dir=args.data_dir, shard=shard)
        _show_plan(args, plan)
        return
    result = experiments.experiment(
        args.grid,
        args.directory,
        data_dir=args.data_dir,
        **given(args, "workers"),
        ray=args.ray,
        shard=shard,
        progress=not args.quiet,
    )
    _show(args, result)
    if result.failed:
        errors = FailedError if result.crashed else InputError
        raise errors(
            f"{counted(len(result.failed), 'cell')} failed; see the errors above, and the "
            f"tracebacks in {result.out}/cells/*.error.json"
        )


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise InputError(f"--shard must be I/N with I from 1 to N, got {text!r}")
    return int(index), int(count)


def _show_plan(args: argparse.Namespace, plan: Plan) -> None:
    content = plan.to_json()
    if args.json:
        print_json(content)
        return
    rows = [("task", "backbone", "method", "rows", "seeds", "finished", "seconds", "memory")]
    rows += [
        (
            *(cell["task"], cell["backbone"], cell["method"]),
            "all" if cell["rows"] is None else str(cell["rows"]),
            *(str(cell["seeds"]), str(cell["finished"])),
            *_cost(cell),
        )
        for cell in content["cells"]
    ]
    print_columns(rows)
    show(f"\n{counted(content['num_cells'], 'cell')}, {content['num_finished']} finished")
    left = [(cell["seeds"] - cell["finished"], cell["seconds"]) for cell in content["cells"]]
    if known := sum(count * seconds for count, seconds in left if seconds is not None):
        show(f"about {timedelta(seconds=round(known))} left for cells like the finished ones")
    show(f"protocol {plan.grid.protocol}: {plan.grid.rules.described()}")
    if plan.deviations:
        show("deviations from the protocol:")
    for text in plan.deviations:
        show(f"  {text}")
    for text in plan.missing:
        note(text)


def _cost(cell: Mapping[str, Any]) -> tuple[str, str]:
    """Return the mean time and peak memory of a cell's finished seeds, `?` without any."""
    if cell["seconds"] is None:
        return "?", "?"
    return f"{cell['seconds']:.0f}", f"{cell['memory_bytes'] / 1e9:.1f} GB"


def _show(args: argparse.Namespace, result: Experiment) -> None:
    if args.json:
        from bayeslora.experiments.summary import cell_scores

        print_json(
            {
                "out": str(result.out),
                "num_cells": len(result.records),
                "cells": [cell_scores(record) for record in result.records],
                "failed": dict(result.failed),
                "elsewhere": list(result.elsewhere),
            }
        )
        return
    rows = [("finished cells", str(len(result.records)))]
    for name, cells in (("failed", result.failed), ("run by other processes", result.elsewhere)):
        if cells:
            rows.append((name, str(len(cells))))
    if result.records:
        rows += [("results", str(result.out / "results.parquet"))]
        rows += [("tables", str(result.out / "summary.md"))]
    print_columns(rows)
