"""Work shared by several processes, as started by `torchrun` and `accelerate launch`.

Every process runs the same program on the same rows with the same random state. Three things are
distributed: passes for features and for cached lower layers (whole batches in turn), and the
forward and backward pass of a training step (the batch's rows). The results are then exchanged, so
that everything else, such as a last layer's fit, has the same input and result in all processes.
Only the first process writes files.

Outside of `together` a process works alone, however it was started.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from bayeslora.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


def launched() -> tuple[int, int]:
    """Return this process's rank and the number of processes started by a launcher."""
    return int(os.environ.get("RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1)


@dataclass(frozen=True)
class Processes:
    """The processes of a fit or a prediction.

    Methods with communication must be called by all processes in the same order.

    Attributes:
        rank: Rank of this process, from 0.
        size: Number of processes.
        group: Process group of `torch.distributed`; None for the default.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """Return this process's slice of `rows` rows; slices differ by at most one row."""
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def rounds(self, items: Iterable[T]) -> Iterator[list[T]]:
        """Yield the items in rounds of one per process; the last round may have fewer."""
        remaining = iter(items)
        while taken := list(islice(remaining, self.size)):
            yield taken

    def turn(self, items: Sequence[T]) -> tuple[T, bool]:
        """Return this process's item of a round, and whether it is its own.

        A process without an item repeats the last one: with sharded layers, all processes must
        take part in every pass.
        """
        return items[min(self.rank, len(items) - 1)], self.rank < len(items)

    def joined(self, local: Tensor, rows: int) -> Tensor:
        """Return the features [B, …] of all rows of a batch, differentiable in those of `local`.

        Args:
            local: Features of `share(rows)`, or of one additional row if that is empty.
            rows: Number of rows B.
        """
        if self.size == 1:
            return local
        import torch

        share = self.share(rows)
        local = local[: share.stop - share.start]
        whole = torch.zeros(rows, *local.shape[1:], dtype=local.dtype, device=local.device)
        whole[share] = local.detach()
        self.merge_(whole)
        return torch.cat([whole[: share.start], local, whole[share.stop :]])

    def merge_(self, tensor: Tensor) -> None:
        """Merge in place a tensor of which each process has a part, with zeros elsewhere.

        Bytes are added rather than numbers, so the result is exact bit by bit.
        """
        if self.size == 1 or not tensor.numel():
            return
        import torch
        import torch.distributed as dist

        dist.all_reduce(tensor.detach().view(-1).view(torch.uint8), group=self.group)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.size == 1 or not tensors:
            return
        import torch.distributed as dist
        from torch.nn.utils import parameters_to_vector, vector_to_parameters

        flat = parameters_to_vector(tensors).detach()
        dist.all_reduce(flat, group=self.group)
        vector_to_parameters(flat, tensors)

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of the first process."""
        if self.size == 1:
            return
        import torch.distributed as dist

        for item in tensors:
            dist.broadcast(item.detach(), group=self.group, group_src=0)

    def told(self, value: T) -> T:
        """Return the first process's value, such as a decision that all must share."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value if self.is_first else None]
        dist.broadcast_object_list(box, group=self.group, group_src=0)
        return box[0]  # type: ignore[return-value]

    def agree(self, *, on: bool) -> bool:
        """Return whether `on` is true in all processes."""
        import torch

        votes = torch.tensor([float(on)])
        self.sum_([votes])
        return int(votes) == self.size

    def first(self, action: Callable[[], T]) -> T:
        """Run an action in the first process only, working alone, and return its result in all.

        Raises:
            Exception: The action's error; `is_repeated` identifies its copies in the other
                processes.
        """
        if self.size == 1:
            return action()
        result: Any = None
        error: Exception | None = None
        if self.is_first:
            try:
                with _working(ALONE):
                    result = action()
            except Exception as raised:
                error = raised
        result, copy = self.told((result, error and _copy(error)))
        if error is not None:
            raise error
        if copy is not None:
            raise copy
        return result  # type: ignore[no-any-return]

    def first_then_all(self, action: Callable[[], T]) -> T:
        """Run an action in the first process and, once it has succeeded, in all others.

        An error common to all is thus reported once.
        """
        results: list[T] = []
        self.first(lambda: results.append(action()))
        return results[0] if results else action()

    @contextmanager
    def first_holds(self, make: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
        """Enter a context in the first process alone."""
        with ExitStack() as stack:

            def enter() -> None:
                stack.enter_context(make())

            self.first(enter)
            yield

    @contextmanager
    def own_noise(self, *key: int) -> Iterator[None]:
        """Draw random numbers from a stream of this process, without affecting the common one.

        Args:
            key: Distinguishes draws under the same seed, such as the number of a step.
        """
        if self.size == 1:
            yield
            return
        import numpy as np
        import torch

        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        words = np.random.SeedSequence([torch.initial_seed(), *key, self.rank])
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(words.generate_state(1, np.uint64)[0] >> np.uint64(1)))
            yield


ALONE = Processes()

_current = ALONE


def current() -> Processes:
    """Return the processes that this one currently works with."""
    return _current


@contextmanager
def together() -> Iterator[Processes]:
    """Work with the other processes of the launcher while the context lasts.

    Each process uses the GPU of its local rank, or the CPU if there is none. Contexts may be
    nested.
    """
    if _current is not ALONE:
        yield _current
        return
    rank, size = launched()
    if size == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or 0))
    owns_group = not dist.is_initialized()
    if owns_group:
        dist.init_process_group(backend)
    # The caller's group may not support tensors on the CPU.
    group = None if owns_group else dist.new_group(backend=backend)
    try:
        with _working(Processes(rank, size, group)) as world:
            yield world
            # No process leaves while another still waits for its messages.
            world.agree(on=True)
    finally:
        # Also after an error, which the others then notice; this process's threads end.
        if owns_group:
            dist.destroy_process_group()


def is_repeated(error: BaseException) -> bool:
    """Return whether an error is a copy of one reported by the first process."""
    return getattr(error, "is_repeated", False)


@contextmanager
def _working(world: Processes) -> Iterator[Processes]:
    global _current  # noqa: PLW0603 - all code of a process works with the same others
    previous, _current = _current, world
    try:
        yield world
    finally:
        _current = previous


def _copy(error: Exception) -> Exception:
    """Return an error for the other processes, where it is not reported again."""
    copy: Exception = RuntimeError(f"{type(error).__name__}: {error}")
    if isinstance(error, InputError):
        copy = InputError(str(error), code=error.code)
    copy.is_repeated = True  # type: ignore[attr-defined]
    return copy


Task = TypeVar("Task")
Result = TypeVar("Result")

MOST_WORKERS = 4
"""More workers gain little, since one thread makes the tasks."""


def threaded(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
    """Yield `function(task)` for each task in order, computed by a few threads.

    Tasks are made one by one in the caller's thread while earlier ones are computed; only a few
    wait at a time. For functions that spend their time in numpy or scipy, which release the GIL.
    """
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def one_blas_thread() -> AbstractContextManager[object]:
    """Return a context manager that limits the BLAS of numpy and scipy to one thread.

    For iterations over small matrices, such as those of L-BFGS, in which threads wait for each
    other: two take several times as long as one. Libraries imported inside the context are not
    limited.
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1, user_api="blas")  # type: ignore[no-any-return]


def row_slices(rows: int, elements_per_row: int, most: int = 1 << 23) -> Iterator[slice]:
    """Yield slices that cover the rows in order; one empty slice if there are no rows.

    Args:
        rows: Number of rows.
        elements_per_row: Elements of the intermediate result per row.
        most: Maximum elements of the intermediate result per slice, unless a single row has more;
            64 MB in float64 by default.
    """
    size = max(1, most // max(1, elements_per_row))
    for start in range(0, max(1, rows), size):
        yield slice(start, min(start + size, rows))


@contextmanager
def restored_random_state() -> Iterator[None]:
    """Restore the global generators of Python, NumPy and torch afterwards, on every device.

    Draws and seeding by libraries then do not affect the caller's own draws.
    """
    import numpy as np
    import torch

    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if started else ()
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
