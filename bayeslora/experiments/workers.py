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
from dataclasses import dataclass, field, replace
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
        import torch

        self.size = size
        self._arguments = (dict(grid.source), None if data_dir is None else str(data_dir))
        self._gpus = torch.cuda.device_count()
        self._workers = [self._begin(slot) for slot in range(size)]
        self._jobs: dict[int, Job] = {}

    def _begin(self, slot: int) -> tuple[Any, Any]:
        from multiprocessing import get_context

        context = get_context("spawn")
        local, remote = context.Pipe()
        gpu = slot % self._gpus if self._gpus > 1 else None
        threads = max(1, (os.cpu_count() or 1) // self.size)
        process = context.Process(
            target=_serve, args=(remote, *self._arguments, threads, gpu), daemon=True
        )
        process.start()
        remote.close()
        return process, local

    def submit(self, job: Job) -> None:
        """Send a job to an idle worker."""
        slot = next(slot for slot in range(self.size) if slot not in self._jobs)
        self._jobs[slot] = job
        try:
            self._workers[slot][1].send(job)
        except OSError:  # the worker died while idle
            self._workers[slot] = self._begin(slot)
            self._workers[slot][1].send(job)

    def next(self) -> Outcome:
        """Wait for a job to finish, or for its worker to end."""
        from multiprocessing.connection import wait

        slots = {self._workers[slot][1]: slot for slot in self._jobs}
        connection: Any = wait(list(slots))[0]
        slot = slots[connection]
        job = self._jobs.pop(slot)
        try:
            outcome: Outcome = connection.recv()
        except (EOFError, OSError):
            process = self._workers[slot][0]
            process.join(5)
            self._workers[slot] = self._begin(slot)
            code = process.exitcode
            return Outcome(job.index, error=f"the worker ended with exit code {code}")
        return outcome

    def close(self) -> None:
        """Stop all workers; idle ones end by themselves, so that they clean up."""
        for slot, (process, connection) in enumerate(self._workers):
            connection.close()
            if slot in self._jobs:
                process.terminate()
        for process, _ in self._workers:
            process.join(_PATIENCE)
            process.terminate()


def _serve(
    connection: Any, source: Mapping[str, Any], data_dir: str | None, threads: int, gpu: int | None
) -> None:
    """Compute jobs until the connection closes."""
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    # Ctrl-C reaches the whole process group, but the parent decides when a worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def follow() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    # All processes would log the same notes on the same rows.
    logging.getLogger("bayeslora").addHandler(logging.NullHandler())
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    if not any(name in os.environ for name in _THREADS):
        import torch

        torch.set_num_threads(threads)
    workshop = Workshop(as_grid(source), data_dir)
    while True:
        try:
            job: Job = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(compute(workshop, job))


class RayCluster:
    """Computes jobs as tasks of a Ray cluster, each with one CPU, and one GPU if there are any.

    Ray restarts a task if its worker or machine is lost.

    Args:
        grid: The grid.
        data_dir: Directory of the known tasks' files, the same on every machine.
        address: `local` for a cluster on this machine during the experiment, or the address of a
            running one (`auto`, `host:port`, `ray://host:port`).

    Raises:
        InputError: Ray is not installed or cannot be reached, the cluster has no GPU for the
            grid's device, or a machine lacks a backbone or a data set.
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
        try:
            _check_device(grid.model.get("device"), has_gpus=has_gpus)
            self._check_machines()
        except InputError:
            self.close()
            raise

    def _check_machines(self) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        check = self._ray.remote(num_cpus=0)(_missing_here)
        machines = {
            check.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(*self._arguments): node["NodeManagerAddress"]
            for node in self._ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU")
        }
        for ref, machine in machines.items():
            if problem := self._ray.get(ref):
                raise InputError(f"worker {machine}: {problem}")

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


def _check_device(device: object, *, has_gpus: bool) -> None:
    if str(device).startswith("cuda") and not has_gpus:
        raise InputError(f"model: device {device!r}: the Ray cluster has no GPU")


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


def _missing_here(source: Mapping[str, Any], data_dir: str | None) -> str:
    """Return what this machine lacks for a grid; empty if nothing."""
    from bayeslora.experiments.plan import check_backbones

    workshop = _workshop(source, data_dir)
    try:
        check_backbones(workshop.grid)
        for task in workshop.grid.tasks:
            workshop.rows(task)
    except InputError as error:
        return str(error)
    return ""
