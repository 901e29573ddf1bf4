"""What a fit, a prediction and a score cost beside other libraries.

Every measurement is a process of its own, the sides of a case in turn, two threads. Fits and
predictions read the first eight words of newsgroup posts with all layers and no template, as the
peers do, with adapters on the query and value projections of the upper six layers; the peers sort
by length as well. Second fits, beside which no peer stands, read as by default. Times mean
something on an idle machine alone, and move by a tenth there. Results are kept, so that the same
command goes on; delete a row to measure it again.

    python -m benchmarks.speed             (make bench-speed)
    python -m benchmarks.speed --quick
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median

from bayeslora.io import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.results import Results
from benchmarks.lib.tables import table
from benchmarks.speed.cases import CASES
from benchmarks.speed.work import ROWS, THREADS, WORDS

ROOT = Path(__file__).parents[2]
KEY = ("kind", "name")
PEERS = ("torch", "transformers", "peft", "netcal", "torchmetrics", "laplace-torch")


def main() -> None:
    """Run the missing measurements, then write the table."""
    usual = [name for name, case in CASES.items() if case.usual]
    parser = study_parser(__doc__, "build/speed", data_dir=False, threads=None)
    parser.add_argument("--quick", action="store_true", help="one repeat of the short cases")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=usual)
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "SIDE"))
    args = parser.parse_args()
    if args.measure:
        case, side = args.measure
        seconds = CASES[case].sides[side]()
        print(json.dumps({"seconds": seconds, "mib": largest(of_children="cold-" in case)}))
        return
    results = Results(args.out, KEY)
    for name in args.cases:
        case = CASES[name]
        if args.quick and not case.quick:
            continue
        place = {"kind": "case", "name": name}
        known = results.get(**place) or {**place, "machine": machine(), "sides": {}}
        repeats = 1 if args.quick else case.repeats
        for _ in range(repeats):
            for side in case.sides:
                runs = known["sides"].setdefault(side, [])
                if len(runs) < repeats:
                    runs.append(measured(name, side))
                    print(name, side, runs[-1], flush=True)
                    results.append(known)
        write_table(args.out)
    results.sort()
    write_table(args.out)


def measured(case: str, side: str) -> dict[str, float]:
    """Return seconds and MiB of one side in a process with an empty cache.

    Raises:
        CalledProcessError: If the measurement fails.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS))
    command = [sys.executable, "-m", "benchmarks.speed", "--measure", case, side]
    surroundings = os.environ | threads | {"BAYESLORA_CACHE_GIB": "0"}
    surroundings["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=surroundings, cwd=ROOT
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def largest(*, of_children: bool) -> float:
    """Return the peak memory of this process in MiB, or of its children for a cold start.

    `ru_maxrss` of a process starts at the memory of its parent.
    """
    if of_children:
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def machine() -> dict[str, str]:
    """Return the description of the machine: processor and versions of packages."""
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": f"{(model or [platform.processor()])[0]}, {os.cpu_count()} processors",
        "python": platform.python_version(),
        **{name: version(name) for name in PEERS},
    }


def write_table(out: Path) -> None:
    """Write `summary.md`."""
    results, rows, machines = Results(out, KEY), [], {}
    for name, case in CASES.items():
        known = results.get(kind="case", name=name)
        if known is None:
            continue
        machines[", ".join(f"{key} {value}" for key, value in known["machine"].items())] = None
        ours = median(run["seconds"] for run in known["sides"][next(iter(case.sides))])
        for side in case.sides:
            runs = known["sides"].get(side)
            if not runs:
                continue
            seconds = [run["seconds"] for run in runs]
            rows.append(
                (
                    case.work,
                    side,
                    f"{median(seconds):.3g}",
                    f"{min(seconds):.3g} to {max(seconds):.3g} ({len(seconds)})",
                    "" if side == next(iter(case.sides)) else f"{median(seconds) / ours:.2f}",
                    f"{median(run['mib'] for run in runs):.0f}",
                )
            )
    head = ("work", "side", "median s", "range (runs)", "× ours", "MiB")
    lines = [
        "# Speed",
        "Seconds of the work on both sides, each run a process of its own, in turn. Fits are of "
        f"{ROWS} texts of {WORDS} words, imports and loading included but in second fits; "
        "predictions and heads leave both out. Made by `python -m benchmarks.speed --out "
        "reports/speed`, and what takes longest with `--cases NAME`. The machine's speed differs "
        "between days by a factor of up to three, and few rows are of another day: compare within "
        "a row. [More cases, and an earlier version](../archive/speed/summary.md).",
        table(head, rows),
        "Measured on: " + "; ".join(machines) + ".",
    ]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
