"""Run a grid: compute missing cells, store them one by one, and collect one table."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.errors import InputError, located
from bayeslora.experiments.cells import Workshop
from bayeslora.experiments.grid import Cell, Grid, as_grid, read_grid
from bayeslora.experiments.plan import Plan, made_plan, missing_backbones
from bayeslora.experiments.store import RESULTS, SUMMARY, Store
from bayeslora.experiments.summary import results_table, write_results
from bayeslora.experiments.workers import Job, OneProcess, Outcome, Pool, Processes, RayCluster
from bayeslora.option_checks import check_integer
from bayeslora.plain_text import counted

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

_ATTEMPTS = 2
_SHOWN = ("accuracy", "nll", "ece")


@dataclass(frozen=True)
class Experiment:
    """The results of a grid.

    Attributes:
        out: Its directory, with `results.parquet`, `summary.md` and the cells.
        records: Records of all finished cells in it, sorted.
        failed: Errors of the cells that failed in this run, by the cell in words.
        crashed: Cells that failed twice, for reasons other than their input.
        elsewhere: Cells that another process was computing.
    """

    out: Path
    records: Sequence[Mapping[str, Any]]
    failed: Mapping[str, str] = field(default_factory=dict)
    crashed: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()

    @property
    def table(self) -> pa.Table:
        """One row per score per cell, as in `results.parquet`."""
        return results_table(self.records)


def experiment(
    grid: Any,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    workers: int = 1,
    ray: str | None = None,
    shard: tuple[int, int] | None = None,
    progress: bool = True,
) -> Experiment:
    """Compute the cells of a grid that are missing in `out`, and write the results.

    The same call resumes a killed run: finished cells are kept, and an interrupted fit continues
    from its last epoch. A failed cell is retried once, unless its input is wrong. A grid with
    additional cells adds them; a changed setting of a finished cell is refused.

    Args:
        grid: The path of a YAML file, or its content as a mapping; see docs/experiments.md.
        out: Directory of the experiment.
        data_dir: Directory of the known tasks' files; default: the variable `BAYESLORA_DATA`, else
            the Hugging Face hub.
        workers: Number of processes on this machine.
        ray: Instead of `workers`: `local` for a Ray cluster on this machine, or the address of one.
        shard: `(i, n)`, counted from 1: compute only every n-th cell, starting at the i-th, as one
            of n independent jobs.
        progress: Whether to show the progress bars of fits and predictions in this process.

    Raises:
        InputError: The grid is invalid, a file, a backbone or the device is missing, or `out` is
            not the directory of an experiment. Nothing is computed.

    Example:
        >>> import bayeslora as bl
        >>> result = bl.experiment("grid.yaml", "runs/first")     # doctest: +SKIP
        >>> result.table.to_pandas()                              # doctest: +SKIP
    """
    check_integer("workers", workers, low=1)
    if ray is not None and workers > 1:
        raise InputError("workers are local processes; set either workers or ray")
    parsed, store = _read(grid), Store(out)
    workshop = Workshop(parsed, data_dir, progress=progress)
    cells = [*_checked(grid, workshop, store, shard).settings]
    if missing := missing_backbones(parsed):
        raise InputError(missing[0])
    waiting = [cell for cell in cells if store.record(cell) is None]
    failed: dict[str, str] = {}
    crashed: list[str] = []
    elsewhere: list[str] = []
    if waiting:
        from bayeslora.engine.progress import each_note_once

        with _in_file(grid):
            pool = _pool(parsed, workshop, data_dir, min(workers, len(waiting)), ray)
        store.claim(parsed.source)
        try:
            with each_note_once("bayeslora.engine.data", "bayeslora.metrics.ood"):
                failed, crashed, elsewhere = _Run(parsed, store, pool, len(cells)).run(waiting)
        finally:
            pool.close()
            store.tidy()
    with store.all_records() as records:
        if records:
            write_results(records, store.out / RESULTS, store.out / SUMMARY, parsed.reference)
    return Experiment(store.out, records, failed, tuple(crashed), tuple(elsewhere))


def plan(
    grid: Any,
    out: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    shard: tuple[int, int] | None = None,
) -> Plan:
    """Check a grid as `experiment` does, without computing cells.

    The plan says which backbones are missing; the path of a missing directory is an error.

    Args:
        grid: As for `experiment`.
        out: As for `experiment`, checked but not written; None checks no directory.
        data_dir: As for `experiment`.
        shard: As for `experiment`.

    Raises:
        InputError: As for `experiment`, except that backbones and the device may be missing.
    """
    parsed = _read(grid)
    store = None if out is None else Store(out)
    checked = _checked(grid, Workshop(parsed, data_dir), store, shard)
    return replace(checked, missing=missing_backbones(parsed))


def _read(grid: Any) -> Grid:
    return read_grid(grid) if isinstance(grid, str | Path) else as_grid(grid)


def _in_file(grid: Any) -> AbstractContextManager[None]:
    """Put the grid's file at the start of an error's message, if the grid is a file."""
    return located(grid) if isinstance(grid, str | Path) else nullcontext()


def _checked(
    grid: Any, workshop: Workshop, store: Store | None, shard: tuple[int, int] | None
) -> Plan:
    """Return the plan of a grid after all checks that need no backbone."""
    if store is not None:
        store.check()
    cells = _shard(workshop.grid.cells, shard)
    with _in_file(grid):
        plan = made_plan(workshop, cells, [] if store is None else store.records())
    if store is not None:
        for cell, settings in plan.settings.items():
            store.check_settings(cell, settings)
    return plan


def _shard(cells: Sequence[Cell], shard: tuple[int, int] | None) -> Sequence[Cell]:
    if shard is None:
        return cells
    index, count = shard
    check_integer("shard", count, low=1)
    check_integer("shard", index, low=1, high=count)
    return cells[index - 1 :: count]


def _pool(
    grid: Grid, workshop: Workshop, data_dir: str | Path | None, workers: int, ray: str | None
) -> Pool:
    if ray is not None:
        return RayCluster(grid, data_dir, ray)
    from bayeslora.backbones.load import pick_device

    with located("model"):
        pick_device(grid.model.get("device"))
    return OneProcess(workshop) if workers == 1 else Processes(grid, data_dir, workers)


class _Run:
    """The cells of one call, submitted to workers and stored as they finish."""

    def __init__(self, grid: Grid, store: Store, pool: Pool, total: int) -> None:
        self._grid, self._store, self._pool, self._total = grid, store, pool, total
        self._indices = {cell: index for index, cell in enumerate(grid.cells)}
        self._reserved: dict[int, ExitStack] = {}
        self._attempts: dict[int, int] = {}
        self._failed: dict[str, str] = {}
        self._crashed: list[str] = []
        self._elsewhere: list[str] = []
        self._computed = 0
        self._begun = time.monotonic()

    def run(self, cells: Sequence[Cell]) -> tuple[dict[str, str], list[str], list[str]]:
        """Compute cells.

        Returns:
            The errors of failed cells, the crashed cells, and those left to other processes.
        """
        waiting = deque(self._indices[cell] for cell in cells)
        done = self._total - len(waiting)
        logger.info("%s, %d already finished", counted(self._total, "cell"), done)
        try:
            while waiting or self._reserved:
                while waiting and len(self._reserved) < self._pool.size:
                    self._begin(waiting.popleft())
                if self._reserved:
                    outcome = self._pool.next()
                    if self._finish(outcome, len(waiting)):
                        waiting.append(outcome.index)
        finally:
            for stack in self._reserved.values():
                stack.close()
        return self._failed, self._crashed, self._elsewhere

    def _begin(self, index: int) -> None:
        cell = self._grid.cells[index]
        stack = ExitStack()
        try:
            stack.enter_context(self._store.reserved(cell))
        except InputError:
            self._elsewhere.append(str(cell))
            return
        if self._store.record(cell) is not None:  # another process has finished it meanwhile
            stack.close()
            return
        self._reserved[index] = stack
        self._attempts[index] = self._attempts.get(index, 0) + 1
        logger.info("%s: started", cell)
        work, fingerprint = self._store.work(cell), self._store.fingerprint(cell.backbone)
        # Absolute: the workers of a cluster have directories of their own.
        self._pool.submit(Job(index, str(work.absolute()), fingerprint))

    def _finish(self, outcome: Outcome, num_waiting: int) -> bool:
        """Store the outcome of a job; return whether to retry it."""
        cell = self._grid.cells[outcome.index]
        try:
            if outcome.record is not None:
                try:
                    self._store.check_weights(outcome.record)
                except InputError as error:
                    outcome = Outcome(outcome.index, error=str(error), is_final=True)
            if outcome.record is not None:
                self._store.write(cell, outcome.record, outcome.files)
                self._computed += 1
                self._say(cell, outcome.record, num_waiting + len(self._reserved) - 1)
                return False
            if not outcome.is_final and self._attempts[outcome.index] < _ATTEMPTS:
                # The reason is logged only if the retry fails too.
                logger.info("%s failed; retrying once", cell)
                return True
            self._store.fail(cell, outcome.error, outcome.trace)
            self._failed[str(cell)] = outcome.error
            if not outcome.is_final:
                self._crashed.append(str(cell))
            logger.warning("%s failed: %s", cell, outcome.error)
            return False
        finally:
            self._reserved.pop(outcome.index).close()

    def _say(self, cell: Cell, record: Mapping[str, Any], left: int) -> None:
        """Log a finished cell as a line of a table, with the remaining time."""
        scores = record["scores"]["reported"]["scores"]
        values = "  ".join(f"{key} {scores[key]['value']:.3f}" for key in _SHOWN if key in scores)
        rest = (time.monotonic() - self._begun) / self._computed * left
        logger.info(
            "[%d/%d] %s  %s  (%.0f s; about %s left)",
            *(self._total - left, self._total, cell, values, record["seconds"]["fit"]),
            in_words(rest),
        )


def in_words(seconds: float) -> str:
    """Return a duration to two digits: `40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            value = seconds / size
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{seconds:.0f} s"
