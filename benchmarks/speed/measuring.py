"""Measurements in separate processes, and the description of the machine."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from bayeslora.errors import InputError
from benchmarks.speed.work import THREADS

KEY = ("kind", "name")
"""Key of rows: a kind, such as `case` or `growth`, and the name of the measurement."""


def measured(module: str, case: str, side: str, package: Path | None = None) -> dict[str, float]:
    """Return seconds and MiB of one side, measured in a separate process with an empty cache.

    Args:
        module: Module with the option `--measure`.
        case: Name of the case.
        side: Side of the case.
        package: Clone whose package to measure; None for this one.

    Raises:
        InputError: If `package` is not a clone.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS))
    command = [sys.executable, "-m", module, "--measure", case, side]
    surroundings = os.environ | threads | {"BAYESLORA_CACHE_GIB": "0"}
    if package is not None:
        if not (package / "bayeslora" / "__init__.py").is_file():
            raise InputError(f"{package} is no clone: it has no package `bayeslora`")
        # Use the clone's package with the benchmarks of this repository. `PYTHONSAFEPATH` keeps the
        # current directory off the path, in subprocesses too. The clone must be older than the
        # package `benchmarks`.
        places = (package.absolute(), Path(__file__).parents[2])
        surroundings["PYTHONPATH"] = os.pathsep.join(map(str, places))
        surroundings["PYTHONSAFEPATH"] = "1"
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=surroundings)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def largest(*, of_children: bool = False) -> float:
    """Return the peak memory of this process in MiB, or of its children for a cold start.

    `ru_maxrss` of a process starts at the memory of its parent.
    """
    if of_children:
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def is_ours(known: dict[str, str]) -> bool:
    """Return whether a row was measured on a machine with the same description."""
    return all(machine().get(name) == value for name, value in known.items())


def machine() -> dict[str, str]:
    """Return the description of the machine: processor and versions of packages."""
    names = (
        *("torch", "transformers", "peft", "netcal", "torchmetrics"),
        *("laplace-torch", "geoopt", "vbll"),
    )
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": f"{(model or [platform.processor()])[0]}, {os.cpu_count()} processors",
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }
