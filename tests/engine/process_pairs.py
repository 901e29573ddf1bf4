"""Two processes on this machine, as a launcher would start them."""

import socket

import process_worker
from forked import Forked, command


def as_ranks(start, size=2):
    """Call `start` with the environment of each rank; return the processes in rank order."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(size)]
    return [start({name: str(value) for name, value in rank.items()}) for rank in ranks]


def started(*words):
    """Start `bayeslora` with these words in two processes."""
    return as_ranks(lambda rank: command(*words, env=rank))


def working(case, *arguments):
    """Start a function of `process_worker` in two processes."""
    function = getattr(process_worker, case)
    return as_ranks(lambda rank: Forked(function, *map(str, arguments), env=rank))


def ended(processes, seconds=120):
    """Wait for processes; return their exit codes, outputs and errors."""
    try:
        texts = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return (
        [process.returncode for process in processes],
        [out for out, _ in texts],
        [err for _, err in texts],
    )


def pair(*words):
    """Run `bayeslora` with these words in two processes; return both outputs in rank order."""
    codes, outs, errs = ended(started(*words))
    assert codes == [0, 0], errs
    return outs
