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
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from bayeslora.errors import InputError, first_line
from bayeslora.experiments.cells import Workshop
from bayeslora.experiments.grid import Cell, Grid, as_grid

_PATIENCE = 10.0  # seconds
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """A cell to compute.

    Attributes:
        index: Index of the cell in the grid.
        work: A working directory.
        fingerprint: Hash of the backbone's weights in finished cells; None if there are none.
    """

    index: int
    work: str
    fingerprint: str | None = None


@dataclass(frozen=True)
class Outcome:
    """Result of a job.

    Attributes:
        index: Index of the cell in the grid.
        record: Record of the finished cell; None if it failed.
        files: Contents of predictions files by name.
        error: Reason of a failure, in one line.
        trace: The traceback.
        is_final: Whether it would fail again, such as for invalid input.
    """

    index: int
    record: Mapping[str, Any] | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    error: str = ""
    trace: str = ""
    is_final: bool = False


class Pool(Protocol):
    """Interface of workers that compute jobs."""

    size: int

    def submit(self, job: Job) -> None:
        """Start a job; at most `size` run at a time."""

    def next(self) -> Outcome:
        """Wait for one of the running jobs."""

    def close(self) -> None:
        """Stop all workers, busy or not."""


def compute(workshop: Workshop, job: Job) -> Outcome:
    """Compute a cell and return its outcome, even if it fails."""
    cell: Cell = workshop.grid.cells[job.index]
    work = Path(job.work)
    try:
        work.mkdir(parents=True, exist_ok=True)
        record = workshop.run(cell, work, job.fingerprint)
        outputs = [*sorted(work.glob("*.parquet")), *work.glob("*.sqlite3")]
        files = {file.name: file.read_bytes() for file in outputs}
        return Outcome(job.index, record, files)
    except Exception as error:
        known = isinstance(error, InputError)
        text = first_line(error) if known else f"{type(error).__name__}: {first_line(error)}"
        return Outcome(job.index, error=text, trace=traceback.format_exc(), is_final=known)


class OneProcess:
    """Computes jobs in this process."""

    size = 1

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._jobs.append(job)

    def next(self) -> Outcome:
        """Compute the oldest job."""
        return compute(self._workshop, self._jobs.popleft())

    def close(self) -> None:
        """Do nothing: no worker is running."""


class Processes:
    """Computes jobs in processes on this machine, each with its own GPU if there are several.

    Args:
        grid: The grid.
        data_dir: Directory of the known tasks' files.
        size: Number of processes.
    """

    def __init__(self, grid: Grid, data_dir: str | Path | None, size: int) -> None:
        self.size = size
        self._arguments = (dict(grid.source), None if data_dir is None else str(data_dir))
        self._workers = [self._begin(slot) for slot in range(size)]
        self._running: dict[Future[Outcome], tuple[int, Job]] = {}

    def _begin(self, slot: int) -> tuple[ProcessPoolExecutor, Connection]:
        """Return an executor of one process, which ends when the connection closes."""
        import torch

        context = get_context("spawn")
        local, remote = context.Pipe()
        gpus, threads = torch.cuda.device_count(), max(1, (os.cpu_count() or 1) // self.size)
        gpu = slot % gpus if gpus > 1 else None
        executor = ProcessPoolExecutor(
            1,
            mp_context=context,
            initializer=_prepare,
            initargs=(remote, *self._arguments, threads, gpu),
        )
        return executor, local

    def submit(self, job: Job) -> None:
        """Send a job to an idle worker."""
        busy = {slot for slot, _ in self._running.values()}
        slot = next(slot for slot in range(self.size) if slot not in busy)
        try:
            future = self._workers[slot][0].submit(_compute_here, job)
        except BrokenProcessPool:  # the worker died while idle
            self._workers[slot] = self._begin(slot)
            future = self._workers[slot][0].submit(_compute_here, job)
        self._running[future] = slot, job

    def next(self) -> Outcome:
        """Wait for a job to finish, or for its worker to end."""
        future = next(as_completed(self._running))
        slot, job = self._running.pop(future)
        try:
            return future.result()
        except BrokenProcessPool:
            self._workers[slot] = self._begin(slot)
            return Outcome(job.index, error="the worker ended unexpectedly")

    def close(self) -> None:
        """Stop all workers."""
        for executor, connection in self._workers:
            connection.close()
            executor.shutdown(cancel_futures=True)


_of_this_process: list[Workshop] = []


def _prepare(
    connection: Connection,
    source: Mapping[str, Any],
    data_dir: str | None,
    threads: int,
    gpu: int | None,
) -> None:
    """Prepare a worker, which ends with its connection or its parent, in the middle of a job."""
    # Ctrl-C reaches the whole process group, but the parent decides when a worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        with suppress(EOFError, OSError):
            connection.recv()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    # All processes would log the same notes on the same rows.
    logging.getLogger("bayeslora").addHandler(logging.NullHandler())
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    if not any(name in os.environ for name in _THREADS):
        import torch

        torch.set_num_threads(threads)
    _of_this_process.append(Workshop(as_grid(source), data_dir))


def _compute_here(job: Job) -> Outcome:
    return compute(_of_this_process[0], job)


class RayCluster:
    """Computes jobs as tasks of a Ray cluster, each with one CPU, and one GPU if there are any.

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
        ray = import_ray()
        _check_answers(address)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError, ray.exceptions.RayError) as error:
            raise InputError(f"--ray {address}: {first_line(error)}") from None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's handler would end us without clean-up
        self._ray = ray
        resources = ray.cluster_resources()
        has_gpus = resources.get("GPU", 0) > 0
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": 1 if has_gpus else 0}
        self.size = max(1, int(resources.get("GPU" if has_gpus else "CPU", 1)))
        self._arguments = (dict(grid.source), None if data_dir is None else str(data_dir))
        self._task = ray.remote(**options, max_retries=3)(_compute_remotely)
        self._refs: dict[Any, Job] = {}
        device = grid.model.get("device")
        if str(device).startswith("cuda") and not has_gpus:
            self.close()
            raise InputError(f"model: device {device!r}: the Ray cluster has no GPU")

    def submit(self, job: Job) -> None:
        """Submit a job to the cluster."""
        self._refs[self._task.remote(*self._arguments, job)] = job

    def next(self) -> Outcome:
        """Wait for a job."""
        done, _ = self._ray.wait(list(self._refs), num_returns=1)
        job = self._refs.pop(done[0])
        try:
            outcome: Outcome = self._ray.get(done[0])
        except self._ray.exceptions.RayError as error:
            return Outcome(job.index, error=f"{type(error).__name__}: {first_line(error)}")
        return outcome

    def close(self) -> None:
        """Cancel running jobs and leave the cluster."""
        for ref in self._refs:
            self._ray.cancel(ref, force=True)
        self._ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise InputError if nothing listens at an address, since Ray would retry for minutes.

    Raises:
        InputError: Nothing listens there.
    """
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--ray {address}: cannot connect ({error})") from None


def import_ray() -> Any:
    """Import and return ray.

    Raises:
        InputError: It is not installed.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--ray requires Ray; run `pip install 'bayeslora[ray]'`") from None
    return ray


_workshops: dict[str, Workshop] = {}


def _workshop(source: Mapping[str, Any], data_dir: str | None) -> Workshop:
    """Return the workshop of this worker process, which Ray reuses for many tasks."""
    key = repr((sorted(source.items(), key=str), data_dir))
    if key not in _workshops:
        _workshops.clear()
        _workshops[key] = Workshop(as_grid(source), data_dir)
    return _workshops[key]


def _compute_remotely(source: Mapping[str, Any], data_dir: str | None, job: Job) -> Outcome:
    workshop = _workshop(source, data_dir)
    if Path(job.work).parent.is_dir():  # the experiment's directory: on this machine, or shared
        return compute(workshop, job)
    with tempfile.TemporaryDirectory(prefix="bayeslora-") as work:
        return compute(workshop, replace(job, work=work))
