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
import socket
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.errors import InputError, MissingAssetError, first_line
from bayeslora.experiments.cells import Setup, Workshop
from bayeslora.experiments.grid import Cell, Grid, as_grid
from bayeslora.experiments.summary import REPORTED, results_table, sort_key, write_results
from bayeslora.io import atomic_file, is_empty_directory, lock, read_json, write_json
from bayeslora.option_checks import as_integer

if TYPE_CHECKING:
    import pyarrow as pa


logger = logging.getLogger(__name__)

Record = Mapping[str, Any]
Outcome = tuple[Cell, Record, Mapping[str, bytes]]
"""A cell with its record and the contents of its files by name."""

_MARKER, _VERSION = "experiment.json", 1
_REPEATED = ("bayeslora.engine.data", "bayeslora.engine.network", "bayeslora.metrics.ood")
"""Loggers whose notes on the same rows are shown once."""


@dataclass(frozen=True)
class Experiment:
    """The results of a grid.

    Attributes:
        out: Its directory, with `results.parquet`, `summary.md` and the cells.
        records: Records of all finished cells in it, sorted.
        failed: Errors of the cells that failed in this run, by the cell in words.
    """

    out: Path
    records: Sequence[Mapping[str, Any]]
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def table(self) -> pa.Table:
        """One row per score per cell, as in `results.parquet`."""
        return results_table(self.records)


@dataclass(frozen=True)
class Plan:
    """A checked grid.

    Attributes:
        protocol: Name of the protocol.
        cells: Every cell in words, and whether it is finished.
        deviations: All deviations from the protocol.
        missing: Backbones that are not on this machine, in sentences.
        settings: The settings of each cell, JSON-ready.
    """

    protocol: str
    cells: Mapping[str, bool]
    deviations: Sequence[str]
    missing: Sequence[str]
    settings: Mapping[Cell, dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return the plan without settings as JSON-ready values."""
        return {name: value for name, value in vars(self).items() if name != "settings"}


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
    from its last epoch. A failed cell is tried again by the next call. A grid with
    additional cells adds them; a changed setting of a finished cell is refused.

    Args:
        grid: The path of a YAML file, or its content as a mapping; see docs/experiments.md.
        out: Directory of the experiment.
        data_dir: Directory of the known tasks' files; default: the variable `BAYESLORA_DATA`, else
            the Hugging Face hub.
        workers: Number of processes on this machine; more than one need Ray.
        ray: Instead of `workers`: `local` for a Ray cluster on this machine, or the address of one.
        progress: Whether to show the progress bars of fits and predictions in this process.

    Raises:
        InputError: The grid is invalid, a file, a backbone or the device is missing, or `out` is
            not the directory of an experiment or in use; nothing is computed then.

    Example:
        >>> import bayeslora as bl
        >>> result = bl.experiment("grid.yaml", "runs/first")     # doctest: +SKIP
        >>> result.table.to_pandas()                              # doctest: +SKIP
    """
    from bayeslora.backbones.load import pick_device, source_of
    from bayeslora.engine.progress import each_note_once
    from bayeslora.foreign import check_reachable

    as_integer("workers", workers, 1)
    if ray is not None and workers > 1:
        raise InputError("workers are local processes; set either workers or ray")
    parsed, store = as_grid(grid), Store(out)
    workshop = Workshop(parsed, data_dir, progress=progress)
    store.check(_checked(workshop, parsed.cells))
    for name in parsed.backbones:
        check_reachable(source_of(name))
    if ray is None:
        device: Any = parsed.model.get("device")
        pick_device(device)
    failed: dict[str, str] = {}
    with lock(store.out), ExitStack() as stack:
        waiting = [cell for cell in parsed.cells if store.record(cell) is None]
        outcomes: Iterable[Outcome] = (
            (cell, *compute(workshop, cell, store.work(cell))) for cell in waiting
        )
        if waiting and (ray or workers > 1):
            task = stack.enter_context(_ray_task(ray or "local", workers))
            outcomes = _on_ray(task, parsed, data_dir, waiting, store)
        store.claim(parsed.model_dump(mode="json", exclude_unset=True))
        stack.enter_context(each_note_once(*_REPEATED))
        for number, (cell, record, files) in enumerate(outcomes, 1):
            store.add(cell, record, files)
            if "error" in record:
                logger.warning("%s failed: %s", cell, record["error"])
                failed[str(cell)] = record["error"]
                continue
            nll = record["scores"][REPORTED]["scores"]["nll"]["value"]
            logger.info("%d of %d: %s: NLL %.3f", number, len(waiting), cell, nll)
        records = store.collect(parsed.reference)
    return Experiment(store.out, records, failed)


def plan(grid: Any, out: str | Path | None = None, *, data_dir: str | Path | None = None) -> Plan:
    """Check a grid as `experiment` does, without computing cells.

    The plan says which backbones are not on this machine.

    Args:
        grid: As for `experiment`.
        out: As for `experiment`, checked but not written; None checks no directory.
        data_dir: As for `experiment`.

    Raises:
        InputError: As for `experiment`, except that backbones of the hub and the device may be
            missing.
    """
    from bayeslora.backbones.load import source_of
    from bayeslora.foreign import is_here

    parsed = as_grid(grid)
    setups = _checked(Workshop(parsed, data_dir), parsed.cells)
    store = None if out is None else Store(out)
    if store is not None:
        store.check(setups)
    missing = [
        f"backbone {name} is not checked: it is not on this machine"
        for name in parsed.backbones
        if not is_here(source_of(name))
    ]
    cells_in_words = {
        str(cell): store is not None and store.record(cell) is not None for cell in parsed.cells
    }
    return Plan(
        parsed.protocol,
        cells=cells_in_words,
        deviations=[*dict.fromkeys(text for each in setups.values() for text in each.deviations)],
        missing=missing,
        settings={cell: each.settings for cell, each in setups.items()},
    )


def _checked(workshop: Workshop, cells: Sequence[Cell]) -> dict[Cell, Setup]:
    """Return the setups of a grid's cells after all checks that need no backbone.

    Raises:
        InputError: A cell is impossible, its rows cannot be read, or an option has no effect.
    """
    grid = workshop.grid
    setups = {cell: workshop.checked(cell) for cell in cells}
    for key in grid.predict.model_fields_set:
        if setups and not any(key in setup.predict for setup in setups.values()):
            raise InputError(f"predict: {key} has no effect on any method", code="no-effect")
    for name in grid.search.ranges if grid.search and setups else ():
        if not any(setup.search and name in setup.search.ranges for setup in setups.values()):
            raise InputError(f"search: no method has the option {name}", code="unknown")
    return setups


class Store:
    """The directory of an experiment.

    Args:
        out: Its path.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        self._cells = self.out / "cells"

    def check(self, setups: Mapping[Cell, Setup]) -> None:
        """Raise InputError unless the directory is missing, empty, or of these cells' experiment.

        Raises:
            InputError: It is another directory. Or a cell, or another seed of it, is finished with
                other settings; the message names the cell, the setting and both values.
        """
        marker = self.out / _MARKER
        if not self.out.exists() or is_empty_directory(self.out):
            return
        content = read_json(marker) if marker.is_file() else None
        if not isinstance(content, dict) or content.get("format_version") != _VERSION:
            raise InputError(
                f"{marker} is missing, damaged or of another version of bayeslora; choose another "
                "path"
            )
        records = self.records()
        for cell, setup in setups.items():
            for record in records:
                seed = record["cell"]["seed"]
                if not {**record["cell"], "seed": cell.seed}.items() >= cell.key.items():
                    continue
                before, after = _by_option(record["settings"]), _by_option(setup.settings)
                if seed != cell.seed:  # each seed may draw rows
                    before["data.train"] = after["data.train"]
                for key in sorted(before.keys() | after.keys()):
                    if before.get(key) != after.get(key):
                        raise InputError(
                            f"cell {cell} has {key} = {after.get(key)}, but seed {seed} is "
                            f"finished with {key} = {before.get(key)}; choose another --out, or "
                            f"delete the records of these cells in {self._cells}"
                        )

    def claim(self, grid: Mapping[str, Any]) -> None:
        """Create the directories, and store the grid of the latest run."""
        for folder in (self._cells, self.out / "work"):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(self.out / _MARKER, {"format_version": _VERSION, "grid": grid})

    def work(self, cell: Cell) -> Path:
        """Return the working directory of a cell while it runs."""
        # Absolute: the workers of a cluster have directories of their own.
        return (self.out / "work" / cell.id).absolute()

    def record(self, cell: Cell) -> dict[str, Any] | None:
        """Return the record of a finished cell, or None."""
        file = self._cells / f"{cell.id}.json"
        return read_json(file) if file.is_file() else None

    def records(self) -> list[dict[str, Any]]:
        """Return the records of all finished cells, sorted by their key."""
        files = self._cells.glob("*.json")
        records = [read_json(file) for file in files if not file.name.endswith(".error.json")]
        return sorted(records, key=lambda record: [*map(sort_key, record["cell"].values())])

    def add(self, cell: Cell, record: Record, files: Mapping[str, bytes]) -> None:
        """Store a finished cell, with its record last, or the error of a failed one.

        Args:
            cell: The cell.
            record: JSON-ready; with the key `error` if it failed.
            files: Contents of predictions files by name.
        """
        error = self._cells / f"{cell.id}.error.json"
        if "error" in record:
            write_json(error, record)
            return
        for file, content in files.items():
            with atomic_file(self._cells / f"{cell.id}.{file}") as temporary:
                temporary.write_bytes(content)
        write_json(self._cells / f"{cell.id}.json", record)
        error.unlink(missing_ok=True)
        shutil.rmtree(self.work(cell), ignore_errors=True)

    def collect(self, reference: str) -> list[dict[str, Any]]:
        """Return the records of all finished cells after writing their tables.

        Args:
            reference: The method with which others are compared.
        """
        with suppress(OSError):  # unless a failed cell has left its checkpoints
            (self.out / "work").rmdir()
        records = self.records()
        if records:
            write_results(records, self.out / "results.parquet", self.out / "summary.md", reference)
        return records


def _by_option(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by names such as `fit.epochs`."""
    parts = settings.items()
    return {f"{part}.{key}": value for part, options in parts for key, value in options.items()}


def compute(workshop: Workshop, cell: Cell, work: Path) -> tuple[Record, dict[str, bytes]]:
    """Return the record of a cell with its files, or why it failed."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        record = workshop.run(cell, work)
    except Exception as error:
        return _failure(cell, error), {}
    outputs = [*sorted(work.glob("*.parquet")), *work.glob("*.sqlite3")]
    return record, {file.name: file.read_bytes() for file in outputs}


def _failure(cell: Cell, error: Exception) -> Record:
    kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    trace = traceback.format_exc()
    return {"cell": cell.key, "error": f"{kind}{first_line(error)}", "traceback": trace}


@lru_cache(maxsize=1)
def _workshop(grid: str, data_dir: str | Path | None) -> Workshop:
    """Return the workshop of this worker process, which computes many cells."""
    return Workshop(Grid.model_validate_json(grid), data_dir)


def compute_apart(
    grid: str, data_dir: str | Path | None, cell: Cell, work: Path
) -> tuple[Record, dict[str, bytes]]:
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


@contextmanager
def _ray_task(address: str, workers: int) -> Iterator[Any]:
    """Connect to a Ray cluster, and yield `compute_apart` as its task, with a GPU if there are any.

    Ray restarts a task if its worker or machine is lost, and ends all tasks with the connection.

    Args:
        address: `local` for a cluster on this machine during the experiment, or the address of a
            running one (`auto`, `host:port`, `ray://host:port`).
        workers: Number of tasks at a time on a cluster on this machine; 1 for one a processor.

    Raises:
        InputError: Ray is not installed or cannot be reached.
    """
    try:
        import ray
    except ImportError:
        raise MissingAssetError(
            "--workers and --ray require Ray; run `pip install 'bayeslora[ray]'`"
        ) from None
    # Ray gives each task as many threads as processors.
    threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else 1
    processors = threads * workers if workers > 1 else None
    try:
        host, _, port = address.rpartition("//")[2].rpartition(":")
        if host and port.isdecimal():  # if nothing listens there, Ray would wait for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, num_cpus=processors, log_to_driver=False, configure_logging=False)
    except (OSError, ValueError, ray.exceptions.RayError) as error:
        raise InputError(f"--ray {address}: {first_line(error)}") from None
    try:
        gpus: float = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
        share = min(1, gpus / workers)
        yield ray.remote(num_cpus=threads, num_gpus=share, max_retries=3)(compute_apart)
    finally:
        ray.shutdown()


def _on_ray(
    task: Any, grid: Grid, data_dir: str | Path | None, cells: Sequence[Cell], store: Store
) -> Iterator[Outcome]:
    """Yield cells with their records and files as the tasks of a cluster finish."""
    import ray

    content = grid.model_dump_json(exclude_unset=True)
    running = {task.remote(content, data_dir, cell, store.work(cell)): cell for cell in cells}
    while running:
        (done,), _ = ray.wait([*running])
        cell = running.pop(done)
        try:
            record, files = ray.get(done)
        except ray.exceptions.RayError as error:  # its workers have died
            record, files = _failure(cell, error), {}
        yield cell, record, files
