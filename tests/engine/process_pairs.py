"""Two processes on this machine, as a launcher would start them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).with_name("process_worker.py")


def started(command, size=2, **more):
    """Start `command` once for each rank; return the processes, rank by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=os.environ
            | {name: str(value) for name, value in shared.items()}
            | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


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
    """Run `bayeslora` with these words in two processes; return what both print, rank by rank."""
    codes, outs, errs = ended(started(["-m", "bayeslora", *words]))
    assert codes == [0, 0], errs
    return outs
