"""`bayeslora experiment`: a resumable grid of fits under a named protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bayeslora.cli import arguments
from bayeslora.cli.arguments import argument, given, option
from bayeslora.cli.output import note, print_columns, print_json, show
from bayeslora.errors import FailedError, InputError
from bayeslora.plain_text import counted

if TYPE_CHECKING:
    from bayeslora.experiments.run import Experiment, Plan


class Options(arguments.Everywhere):
    """Arguments of the verb."""

    grid: str = argument("FILE", "grid")
    """YAML: tasks, methods, seeds, protocol …"""
    # Not `out`, which `main` locks: a dry run only looks, and a run locks its directory itself.
    directory: Any = option("DIR", flag="--out")
    """output directory"""
    workers: Any = option("N")
    """number of processes on this machine, with Ray (default: 1)"""
    ray: str | None = option("ADDRESS")
    """address of a Ray cluster: 'local' to start one on this machine, 'auto', or host:port"""
    dry_run: bool = option()
    """check everything and show the plan, without computing"""
    data_dir: str | None = option("DIR")
    """directory with the files of known tasks (default: the environment variable BAYESLORA_DATA,
    else the Hugging Face hub)"""


def run(args: Options) -> None:
    """Check the grid, then show the plan, or compute missing cells and show the results.

    Raises:
        FailedError: A cell failed; all others are finished and stored.
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
        raise FailedError(
            f"{counted(len(result.failed), 'cell')} failed; see the errors above, and the "
            f"tracebacks in {result.out}/cells/*.error.json"
        )


def _show_plan(args: Options, plan: Plan) -> None:
    from bayeslora.experiments.grid import PROTOCOLS

    if args.json:
        print_json(plan.to_json())
        return
    print_columns([(cell, "finished" if done else "") for cell, done in plan.cells.items()])
    show(f"\n{counted(len(plan.cells), 'cell')}, {sum(plan.cells.values())} finished")
    show(f"protocol {plan.protocol}: {PROTOCOLS[plan.protocol].described()}")
    if plan.deviations:
        show("\n  ".join(["deviations from the protocol:", *plan.deviations]))
    for text in plan.missing:
        note(text)


def _show(args: Options, result: Experiment) -> None:
    if args.json:
        from bayeslora.experiments.summary import cell_scores

        cells = [cell_scores(record) for record in result.records]
        about = {"out": str(result.out), "num_cells": len(cells), "cells": cells}
        print_json({**about, "failed": dict(result.failed)})
        return
    rows = [("finished cells", str(len(result.records)))]
    if result.failed:
        rows.append(("failed", str(len(result.failed))))
    if result.records:
        rows += [("results", str(result.out / "results.parquet"))]
        rows += [("tables", str(result.out / "summary.md"))]
    print_columns(rows)
