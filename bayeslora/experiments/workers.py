"""Workers that compute cells: this process, processes on this machine, or a Ray cluster.

A worker returns the record and the predictions of a cell; only the main process writes to the
directory of the experiment.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
import traceback
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from bayeslora.errors import InputError, MissingAssetError, first_line
from bayeslora.experiments.cells import Workshop
from bayeslora.experiments.grid import Cell, Grid

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
