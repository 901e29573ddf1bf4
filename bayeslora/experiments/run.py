"""Run a grid: check its cells, compute the missing ones, and collect one table.

Cells on disk, written atomically:

experiment.json              marker of the directory, with the grid
cells/<cell>.json            the record, written last: a cell without it is not finished
cells/<cell>.<set>.parquet   predictions on the reported rows and on each OOD set
cells/<cell>.error.json      the reason of a cell's failure, until it succeeds
work/<cell>/                 checkpoints of a running or interrupted fit
results.parquet, summary.md  computed from the records
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

from bayeslora.errors import InputError, MissingAssetError, first_line, located
from bayeslora.experiments.cells import Setup, Workshop
from bayeslora.experiments.grid import Cell, Grid, as_grid, import_optuna
from bayeslora.experiments.summary import REPORTED, results_table, sort_key, write_results
from bayeslora.io.files import atomic_file, is_empty_directory, lock, read_json, write_json
from bayeslora.option_checks import as_integer
from bayeslora.plain_text import counted

if TYPE_CHECKING:
    import pyarrow as pa


logger = logging.getLogger(__name__)

_MARKER, _VERSION = "experiment.json", 1
_ATTEMPTS = 2
_SHOWN = ("accuracy", "nll", "ece")
_KEYS = ("task", "backbone", "method", "rows")
"""Parts of a cell's key that its seeds share."""


@dataclass(frozen=True)
class Experiment:
    """The results of a grid.

    Attributes:
        out: Its directory, with `results.parquet`, `summary.md` and the cells.
        records: Records of all finished cells in it, sorted.
        failed: Errors of the cells that failed in this run, by the cell in words.
        crashed: Cells that failed twice, for reasons other than their input.
    """

    out: Path
    records: Sequence[Mapping[str, Any]]
    failed: Mapping[str, str] = field(default_factory=dict)
    crashed: tuple[str, ...] = ()

    @property
    def table(self) -> pa.Table:
        """One row per score per cell, as in `results.parquet`."""
        return results_table(self.records)


@dataclass(frozen=True)
class Plan:
    """A checked grid.

    Attributes:
        grid: The grid.
        settings: The settings of each cell, JSON-ready.
        deviations: All deviations from the protocol.
        finished: Records of the finished cells.
        missing: What this machine lacks, in sentences.
    """

    grid: Grid
    settings: Mapping[Cell, dict[str, Any]]
    deviations: Sequence[str]
    finished: Sequence[Mapping[str, Any]]
    missing: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values, with one entry for all seeds of a cell.

        `seconds` of a cell is the mean over its finished seeds, None without any.
        """
        cells: dict[tuple[Any, ...], dict[str, Any]] = {}
        for cell in self.settings:
            key = {name: cell.key[name] for name in _KEYS}
            entry = cells.setdefault(tuple(key.values()), {**key, "seeds": 0})
            entry["seeds"] += 1
        for values, entry in cells.items():
            seconds = [
                sum(record["seconds"].values())
                for record in self.finished
                if tuple(record["cell"][name] for name in _KEYS) == values
            ]
            entry |= {"finished": len(seconds), "seconds": fmean(seconds) if seconds else None}
        return {
            "protocol": self.grid.protocol,
            "num_cells": len(self.settings),
            "num_finished": len(self.finished),
            "cells": [*cells.values()],
            "deviations": list(self.deviations),
            "missing": list(self.missing),
        }


def experiment(
    grid: Any,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    workers: int = 1,
    ray: str | None = None,
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
        progress: Whether to show the progress bars of fits and predictions in this process.

    Raises:
        InputError: The grid is invalid, a file, a backbone or the device is missing, or `out` is
            not the directory of an experiment or in use; nothing is computed then. Or the backbone
            of a computed cell has other weights than that of the finished cells.

    Example:
        >>> import bayeslora as bl
        >>> result = bl.experiment("grid.yaml", "runs/first")     # doctest: +SKIP
        >>> result.table.to_pandas()                              # doctest: +SKIP
    """
    from bayeslora.engine.progress import each_note_once

    as_integer("workers", workers, 1)
    if ray is not None and workers > 1:
        raise InputError("workers are local processes; set either workers or ray")
    parsed, store = as_grid(grid), Store(out)
    workshop = Workshop(parsed, data_dir, progress=progress)
    with _in_file(grid):
        cells = [*_checked(workshop, store)]
    if missing := _missing_backbones(parsed):
        raise InputError(missing[0])
    run = _Run(store)
    with lock(store.out):
        waiting = [cell for cell in cells if store.record(cell) is None]
        if waiting:
            with _in_file(grid):
                pool = _pool(parsed, workshop, data_dir, min(workers, len(waiting)), ray)
            store.claim(parsed.model_dump(mode="json", exclude_unset=True))
            logger.info("%s, %d finished", counted(len(cells), "cell"), len(cells) - len(waiting))
            try:
                with each_note_once(
                    "bayeslora.engine.data", "bayeslora.engine.network", "bayeslora.metrics.ood"
                ):
                    run.compute(waiting, pool)
            finally:
                pool.close()
                store.tidy()
        records = store.collect(parsed.reference)
    return Experiment(store.out, records, run.failed, tuple(run.crashed))


def plan(grid: Any, out: str | Path | None = None, *, data_dir: str | Path | None = None) -> Plan:
    """Check a grid as `experiment` does, without computing cells.

    The plan says which backbones are missing.

    Args:
        grid: As for `experiment`.
        out: As for `experiment`, checked but not written; None checks no directory.
        data_dir: As for `experiment`.

    Raises:
        InputError: As for `experiment`, except that backbones and the device may be missing.
    """
    parsed = as_grid(grid)
    store = None if out is None else Store(out)
    with _in_file(grid):
        setups = _checked(Workshop(parsed, data_dir), store)
    records = [] if store is None else map(store.record, setups)
    return Plan(
        parsed,
        {cell: setup.settings for cell, setup in setups.items()},
        [*dict.fromkeys(text for setup in setups.values() for text in setup.deviations)],
        [record for record in records if record is not None],
        _missing_backbones(parsed),
    )


def _in_file(grid: Any) -> AbstractContextManager[None]:
    """Put the grid's file at the start of an error's message, if the grid is a file."""
    return located(grid) if isinstance(grid, str | Path) else nullcontext()


def _checked(workshop: Workshop, store: Store | None) -> dict[Cell, Setup]:
    """Return the setups of a grid's cells after all checks that need no backbone.

    Raises:
        InputError: A cell is impossible, its rows cannot be read, an option has no effect, or
            finished cells have other settings.
    """
    grid = workshop.grid
    if store is not None:
        store.check()
    if grid.search is not None:
        import_optuna()
    setups = {cell: workshop.checked(cell) for cell in grid.cells}
    for key in grid.predict.model_fields_set:
        if not any(key in setup.predict for setup in setups.values()):
            raise InputError(f"predict: {key} has no effect on any method", code="no-effect")
    for name in grid.search.ranges if grid.search else ():
        if not any(setup.search and name in setup.search.ranges for setup in setups.values()):
            raise InputError(f"search: no method has the option {name}", code="unknown")
    if store is not None:
        store.check_settings({cell: setup.settings for cell, setup in setups.items()})
    return setups


def _missing_backbones(grid: Grid) -> list[str]:
    """Return a sentence for each backbone that is not available; no weights are read."""
    from bayeslora.backbones.load import source_of
    from bayeslora.foreign import check_reachable

    missing = []
    for name in grid.backbones:
        try:
            check_reachable(source_of(name))
        except InputError as error:
            missing.append(str(error))
    return missing


def _pool(
    grid: Grid, workshop: Workshop, data_dir: str | Path | None, workers: int, ray: str | None
) -> Pool:
    if ray is not None:
        return RayCluster(grid, data_dir, ray)
    from bayeslora.backbones.load import pick_device

    device: Any = grid.model.get("device")
    with located("model"):
        pick_device(device)
    return OneProcess(workshop) if workers == 1 else Processes(grid, data_dir, workers)


class Store:
    """The directory of an experiment.

    Args:
        out: Its path.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        self._cells = self.out / "cells"

    def check(self) -> None:
        """Raise InputError unless the directory is an experiment's, missing or empty."""
        marker = self.out / _MARKER
        if not self.out.exists() or is_empty_directory(self.out):
            return
        content = read_json(marker) if marker.is_file() else None
        if not isinstance(content, dict) or content.get("format_version") != _VERSION:
            raise InputError(
                f"{marker} is missing, damaged or of another version of bayeslora; choose another "
                "path"
            )

    def claim(self, grid: Mapping[str, Any]) -> None:
        """Create the directories, and store the grid of the latest run."""
        self._cells.mkdir(parents=True, exist_ok=True)
        (self.out / "work").mkdir(exist_ok=True)
        write_json(self.out / _MARKER, {"format_version": _VERSION, "grid": grid})

    def work(self, cell: Cell) -> Path:
        """Return the working directory of a cell while it runs."""
        return self.out / "work" / cell.id

    def record(self, cell: Cell) -> dict[str, Any] | None:
        """Return the record of a finished cell, or None."""
        file = self._cells / f"{cell.id}.json"
        return read_json(file) if file.is_file() else None

    def records(self) -> list[dict[str, Any]]:
        """Return the records of all finished cells, sorted by their key."""
        files = self._cells.glob("*.json")
        records = [read_json(file) for file in files if not file.name.endswith(".error.json")]
        return sorted(
            records, key=lambda record: [sort_key(value) for value in record["cell"].values()]
        )

    def check_settings(self, settings: Mapping[Cell, dict[str, Any]]) -> None:
        """Raise InputError if a cell, or another seed of it, is finished with other settings.

        Raises:
            InputError: They differ; the message names the cell, the setting and both values.
        """
        records = self.records()
        for cell, new in settings.items():
            for record in records:
                seed = record["cell"]["seed"]
                if not {**record["cell"], "seed": cell.seed}.items() >= cell.key.items():
                    continue
                before, after = _by_option(record["settings"]), _by_option(new)
                if seed != cell.seed:  # each seed may draw rows
                    before["data.train"] = after["data.train"]
                for key in sorted(before.keys() | after.keys()):
                    if before.get(key) != after.get(key):
                        raise InputError(
                            f"cell {cell} has {key} = {after.get(key)}, but seed {seed} is "
                            f"finished with {key} = {before.get(key)}; choose another --out, or "
                            f"delete the records of these cells in {self._cells}"
                        )

    def add(self, cell: Cell, record: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Store a finished cell, with its record last.

        Args:
            cell: The cell.
            record: JSON-ready.
            files: Contents of predictions files by name.

        Raises:
            InputError: The backbone has other weights than that of a finished cell.
        """
        backbone = record["backbone"]
        for other in self.records():
            name, weights = other["backbone"]["name"], other["backbone"]["fingerprint"]
            if name == backbone["name"] and weights != backbone["fingerprint"]:
                raise InputError(
                    f"cell {cell}: the weights of backbone {name} differ from those of the "
                    "finished cells; choose another --out"
                )
        for file, content in files.items():
            with atomic_file(self._cells / f"{cell.id}.{file}") as temporary:
                temporary.write_bytes(content)
        write_json(self._cells / f"{cell.id}.json", record)
        (self._cells / f"{cell.id}.error.json").unlink(missing_ok=True)
        shutil.rmtree(self.work(cell), ignore_errors=True)

    def fail(self, cell: Cell, error: str, trace: str) -> None:
        """Store the error of a failed cell."""
        content = {"cell": cell.key, "error": error, "traceback": trace}
        write_json(self._cells / f"{cell.id}.error.json", content)

    def tidy(self) -> None:
        """Remove the directory of running cells if it is empty."""
        with suppress(OSError):
            (self.out / "work").rmdir()

    def collect(self, reference: str) -> list[dict[str, Any]]:
        """Return the records of all finished cells after writing their tables.

        Args:
            reference: The method with which others are compared.
        """
        records = self.records()
        if records:
            write_results(records, self.out / "results.parquet", self.out / "summary.md", reference)
        return records


def _by_option(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by names such as `fit.epochs`."""
    return {
        f"{part}.{key}": value
        for part, options in settings.items()
        for key, value in options.items()
    }


class _Run:
    """The cells of one call, submitted to workers and stored as they finish."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._attempts: Counter[Cell] = Counter()
        self.failed: dict[str, str] = {}
        self.crashed: list[str] = []

    def compute(self, cells: Sequence[Cell], pool: Pool) -> None:
        """Compute cells.

        Raises:
            InputError: A cell's backbone has other weights than that of the finished cells.
        """
        waiting, begun = deque(cells), time.monotonic()
        running: dict[Future[Outcome], Cell] = {}
        while waiting or running:
            while waiting and len(running) < pool.size:
                cell = waiting.popleft()
                self._attempts[cell] += 1
                logger.info("%s: started", cell)
                # Absolute: the workers of a cluster have directories of their own.
                running[pool.submit(cell, self._store.work(cell).absolute())] = cell
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                if self._finish(cell, future):
                    waiting.append(cell)
            left = len(waiting) + len(running)
            if left and (ended := len(cells) - left):
                seconds = (time.monotonic() - begun) / ended * left
                logger.info("about %s left", timedelta(seconds=round(seconds)))

    def _finish(self, cell: Cell, future: Future[Outcome]) -> bool:
        """Store the outcome of a cell; return whether to retry it."""
        try:
            outcome = future.result()
        except Exception as error:  # its worker has died
            outcome = Outcome(error=f"{type(error).__name__}: {first_line(error)}")
        if outcome.record is not None:
            self._store.add(cell, outcome.record, outcome.files)
            scores = outcome.record["scores"][REPORTED]["scores"]
            values = "  ".join(f"{key} {scores[key]['value']:.3f}" for key in _SHOWN)
            logger.info("%s  %s  (%.0f s)", cell, values, outcome.record["seconds"]["fit"])
            return False
        if not outcome.is_final and self._attempts[cell] < _ATTEMPTS:
            # The reason is logged only if the retry fails too.
            logger.info("%s failed; retrying once", cell)
            return True
        self._store.fail(cell, outcome.error, outcome.trace)
        self.failed[str(cell)] = outcome.error
        if not outcome.is_final:
            self.crashed.append(str(cell))
        logger.warning("%s failed: %s", cell, outcome.error)
        return False


_PATIENCE = 10.0  # seconds


@dataclass(frozen=True)
class Outcome:
    """Result of a cell.

    Attributes:
        record: Record of the finished cell; None if it failed.
        files: Contents of predictions files by name.
        error: Reason of a failure, in one line.
        trace: The traceback.
        is_final: Whether it would fail again, such as for invalid input.
    """

    record: Mapping[str, Any] | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    error: str = ""
    trace: str = ""
    is_final: bool = False


class Pool(Protocol):
    """Interface of workers that compute cells."""

    size: int

    def submit(self, cell: Cell, work: Path) -> Future[Outcome]:
        """Compute a cell in its working directory; at most `size` run at a time."""

    def close(self) -> None:
        """Stop all workers, busy or not."""


def compute(workshop: Workshop, cell: Cell, work: Path) -> Outcome:
    """Compute a cell and return its outcome, even if it fails."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        record = workshop.run(cell, work)
        outputs = [*sorted(work.glob("*.parquet")), *work.glob("*.sqlite3")]
        return Outcome(record, {file.name: file.read_bytes() for file in outputs})
    except Exception as error:
        known = isinstance(error, InputError)
        text = first_line(error) if known else f"{type(error).__name__}: {first_line(error)}"
        return Outcome(error=text, trace=traceback.format_exc(), is_final=known)


class OneProcess:
    """Computes cells in this process."""

    size = 1

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    def submit(self, cell: Cell, work: Path) -> Future[Outcome]:
        """Compute a cell."""
        future: Future[Outcome] = Future()
        future.set_result(compute(self._workshop, cell, work))
        return future

    def close(self) -> None:
        """Do nothing: no worker is running."""


class Processes:
    """Computes cells in processes on this machine, each with its own GPU if there are several.

    Args:
        grid: The grid.
        data_dir: Directory of the known tasks' files.
        size: Number of processes.
    """

    def __init__(self, grid: Grid, data_dir: str | Path | None, size: int) -> None:
        self.size = size
        self._arguments = grid.model_dump_json(exclude_unset=True), data_dir
        self._context = get_context("spawn")
        self._ours, self._theirs = self._context.Pipe()
        self._executor = self._begin()

    def _begin(self) -> ProcessPoolExecutor:
        import torch

        gpus: Any = self._context.SimpleQueue()
        num_gpus, threads = torch.cuda.device_count(), max(1, (os.cpu_count() or 1) // self.size)
        for slot in range(self.size):
            gpus.put(slot % num_gpus if num_gpus > 1 else None)
        return ProcessPoolExecutor(
            self.size,
            mp_context=self._context,
            initializer=_prepare,
            initargs=(self._theirs, gpus, threads),
        )

    def submit(self, cell: Cell, work: Path) -> Future[Outcome]:
        """Send a cell to an idle worker."""
        arguments = (*self._arguments, cell, work)
        try:
            return self._executor.submit(compute_apart, *arguments)
        except BrokenProcessPool:  # a worker has died, and the others were ended with it
            self._executor = self._begin()
            return self._executor.submit(compute_apart, *arguments)

    def close(self) -> None:
        """Stop all workers."""
        self._ours.close()  # ends busy ones
        self._executor.shutdown(cancel_futures=True)


def _prepare(connection: Connection, gpus: Any, threads: int) -> None:
    """Prepare a worker, which ends with its connection or its parent, in the middle of a cell."""
    # Ctrl-C reaches the whole process group, but the parent decides when a worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        with suppress(EOFError, OSError):
            connection.recv()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    # All processes would log the same notes on the same rows.
    logging.getLogger("bayeslora").addHandler(logging.NullHandler())
    if (gpu := gpus.get()) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    if not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys():
        import torch

        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _workshop(grid: str, data_dir: str | Path | None) -> Workshop:
    """Return the workshop of this worker process, which computes many cells."""
    return Workshop(Grid.model_validate_json(grid), data_dir)


def compute_apart(grid: str, data_dir: str | Path | None, cell: Cell, work: Path) -> Outcome:
    """Compute a cell in a worker process, without access to `work` in a temporary directory.

    Args:
        grid: The grid as JSON.
        data_dir: Directory of the known tasks' files.
        cell: The cell.
        work: A directory of this cell alone.
    """
    workshop = _workshop(grid, data_dir)
    if work.parent.is_dir():  # the experiment's directory: on this machine, or shared
        return compute(workshop, cell, work)
    with tempfile.TemporaryDirectory(prefix="bayeslora-") as folder:
        return compute(workshop, cell, Path(folder))


class RayCluster:
    """Computes cells as tasks of a Ray cluster, each with one CPU, and one GPU if there are any.

    Ray restarts a task if its worker or machine is lost.

    Args:
        grid: The grid.
        data_dir: Directory of the known tasks' files, the same on every machine.
        address: `local` for a cluster on this machine during the experiment, or the address of a
            running one (`auto`, `host:port`, `ray://host:port`).

    Raises:
        InputError: Ray is not installed or cannot be reached, or the cluster has no GPU for the
            grid's device.
    """

    def __init__(self, grid: Grid, data_dir: str | Path | None, address: str) -> None:
        try:
            import ray
        except ImportError:
            raise MissingAssetError(
                "--ray requires Ray; run `pip install 'bayeslora[ray]'`"
            ) from None
        try:
            _check_answers(address)
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (OSError, ValueError, ray.exceptions.RayError) as error:
            raise InputError(f"--ray {address}: {first_line(error)}") from None
        self._ray = ray
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        has_gpus = resources.get("GPU", 0) > 0
        self.size = max(1, int(resources.get("GPU" if has_gpus else "CPU", 1)))
        self._arguments = grid.model_dump_json(exclude_unset=True), data_dir
        self._task = ray.remote(num_cpus=1, num_gpus=int(has_gpus), max_retries=3)(compute_apart)
        device = grid.model.get("device")
        if str(device).startswith("cuda") and not has_gpus:
            self.close()
            raise InputError(f"model: device {device!r}: the Ray cluster has no GPU")

    def submit(self, cell: Cell, work: Path) -> Future[Outcome]:
        """Submit a cell to the cluster."""
        future: Future[Outcome] = self._task.remote(*self._arguments, cell, work).future()
        return future

    def close(self) -> None:
        """Leave the cluster, which ends its tasks."""
        self._ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise OSError if nothing listens at `host:port`, for which Ray would wait for minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), _PATIENCE).close()
