"""One measurement in a process of its own, and the machine that it was made on."""

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
"""Of rows of the study: `case` or `growth`, and what is measured."""


def measured(module: str, case: str, side: str, package: Path | None = None) -> dict[str, float]:
    """Return seconds and MiB of one side, in a process of its own with an empty cache.

    Args:
        module: Which takes `--measure`.
        case: Its name.
        side: Of the case.
        package: A clone to take ours from; None for this one.

    Raises:
        InputError: It is no clone.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS))
    command = [sys.executable, "-m", module, "--measure", case, side]
    surroundings = os.environ | threads | {"BAYESLORA_CACHE_GIB": "0"}
    if package is not None:
        if not (package / "bayeslora" / "__init__.py").is_file():
            raise InputError(f"{package} is no clone: it has no package `bayeslora`")
        # The clone's package, but the benchmarks of this one. A safe path keeps this directory from
        # going first, in the commands that a case starts as well. The clone has to be older than
        # `benchmarks` as a package.
        places = (package.absolute(), Path(__file__).parents[2])
        surroundings["PYTHONPATH"] = os.pathsep.join(map(str, places))
        surroundings["PYTHONSAFEPATH"] = "1"
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=surroundings)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def largest(*, of_children: bool = False) -> float:
    """Return the MiB that this process held at most, or its children, whom a cold start measures.

    `ru_maxrss` of a process begins with what its parent held.
    """
    if of_children:
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def is_ours(known: dict[str, str]) -> bool:
    """Return whether a row was measured on a machine like this one, by all that it says of it."""
    return all(machine().get(name) == value for name, value in known.items())


def machine() -> dict[str, str]:
    """Return what the numbers depend on."""
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
