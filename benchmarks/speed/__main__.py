"""What a fit, a prediction and a score cost beside other libraries.

Every measurement is a process of its own, the sides of a case in turn, two threads. Fits and
predictions read the first eight words of newsgroup posts with all layers and no template, as the
peers do, with adapters on the query and value projections of the upper six layers; the peers sort
by length as well. Second fits, beside which no peer stands, read as by default. Times mean
something on an idle machine alone, and move by a tenth there. Results are kept, so that the same
command goes on; delete a row to measure it again.

    python -m benchmarks.speed             (make bench-speed)
    python -m benchmarks.speed --quick
    python -m benchmarks.speed --before CLONE

`--before` measures our side with the package of another clone, such as one of commit 40a1510, by
the functions of this file: options that it lacks are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from pathlib import Path
from statistics import median

from bayeslora.io.files import atomic_file
from benchmarks.lib.results import Results
from benchmarks.lib.tables import table
from benchmarks.speed.cases import CASES, HEADS
from benchmarks.speed.measuring import KEY, is_ours, largest, machine, measured
from benchmarks.speed.work import FEATURES, ROWS, WORDS

# Maximum runs of another version, and the seconds above which one run is enough.
_BEFORE, _LONG = 3, 60
MODULE = "benchmarks.speed"
OURS, HERE = Path("reports/speed"), Path("build/speed")


def main() -> None:
    """Run the missing measurements, then write the table."""
    usual = [name for name, case in CASES.items() if case.usual]
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--out", type=Path, help=f"default: {OURS}, and {HERE} where that is of another machine"
    )
    parser.add_argument("--quick", action="store_true", help="one repeat of the short cases")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=usual)
    parser.add_argument("--before", type=Path, metavar="CLONE", help="another version of ours")
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        case, side = args.measure
        done = CASES[case].sides[side]()
        measurement = {"seconds": done} if isinstance(done, float) else done
        measurement["mib"] = largest(of_children=case.startswith("cold-"))
        print(json.dumps(measurement))
        return
    if args.out is None:
        args.out = HERE if elsewhere(OURS, CASES) else OURS
        print(f"results in {args.out}")
    results, foreign = Results(args.out, KEY), elsewhere(args.out, args.cases)
    if foreign:
        parser.error(
            f"{results.path} has rows of another machine, {', '.join(foreign)}; choose another "
            "directory (--out), or delete them"
        )
    for name in args.cases:
        case = CASES[name]
        if args.quick and not case.quick:
            continue
        place = {"kind": "case", "name": name}
        known = results.get(**place)
        if known is None:
            known = {**place, "machine": machine(), "sides": {}}
        elif all(side in known["sides"] for side in case.sides) and args.before is None:
            print(
                f"{name}: measured here before; to measure again, delete its row in {results.path}"
            )
        if args.before is not None:
            side = next(iter(case.sides))
            runs = known.setdefault("before", [])
            while len(runs) < min(case.repeats, _BEFORE) and not (
                runs and runs[-1]["seconds"] > _LONG
            ):
                runs.append(measured(MODULE, name, side, args.before))
                print(name, "before", runs[-1], flush=True)
                results.append(known)
            continue
        for _ in range(1 if args.quick else case.repeats):
            for side in case.sides:
                runs = known["sides"].setdefault(side, [])
                if len(runs) < (1 if args.quick else case.repeats):
                    runs.append(measured(MODULE, name, side))
                    print(name, side, runs[-1], flush=True)
                    results.append(known)
        write_table(args.out)
    results.sort()
    write_table(args.out)


def elsewhere(out: Path, names: Collection[str]) -> list[str]:
    """Return the names of the given cases that were measured on another machine."""
    rows = [row for row in Results(out, KEY).rows(kind="case") if row["name"] in names]
    return [row["name"] for row in rows if not is_ours(row["machine"])]


def training_loop(results: Results) -> list[str]:
    """Return the time of the training loop: the difference between fits of five epochs and one."""
    rows = []
    for dtype, end in (("float32", ""), ("bfloat16", "-bfloat16")):
        fits = [results.get(kind="case", name=f"fit-{n}{end}") for n in ("1-epoch", "5-epochs")]
        if None in fits:
            continue
        for side in CASES[f"fit-1-epoch{end}"].sides:
            short, long = (median(run["seconds"] for run in fit["sides"][side]) for fit in fits)
            rows.append(
                (dtype, side, f"{(long - short) / 4:.2f}", f"{4 * ROWS / (long - short):.0f}")
            )
    if not rows:
        return []
    head = ("training loop", "side", "s per epoch", "texts per s")
    return [
        "The training loop alone, from the difference of five epochs and one:",
        table(head, rows),
    ]


def unfinished_peer(results: Results) -> list[str]:
    """Return the progress of the package `vbll` if it was stopped."""
    known = results.get(kind="case", name="head-peer")
    runs = [] if known is None else known["sides"].get("vbll by AdamW", [])
    if not any("nats_left" in run for run in runs):
        return []
    steps, left = (median(run[key] for run in runs) for key in ("steps", "nats_left"))
    return [
        f"The package vbll was stopped after {steps:.0f} steps of AdamW, {left:.3g} nats per row "
        "below the optimum, with the best of three learning rates."
    ]


def stored() -> str:
    """Return the file sizes of the heads' covariances, computed from the sizes of their tensors."""
    from bayeslora import VBLL

    sizes = []
    for count in HEADS:
        config = VBLL().sized(count, FEATURES, ROWS)
        triangles = count * FEATURES * (FEATURES + 1) // 2
        basis = (count + FEATURES) * FEATURES
        size = 4e-6 * (triangles if config.covariance == "dense" else basis)
        sizes.append(f"{count} classes {size:.1f} MB ({config.covariance})")
    return f"Stored covariances of heads of {FEATURES} features: " + ", ".join(sizes) + "."


def write_table(out: Path) -> None:
    """Write `summary.md`."""
    results, rows, machines = Results(out, KEY), [], {}
    for name, case in CASES.items():
        known = results.get(kind="case", name=name)
        if known is None:
            continue
        machines[", ".join(f"{key} {value}" for key, value in known["machine"].items())] = None
        ours = ""
        earlier = [run["seconds"] for run in known.get("before", [])]
        before = f"{median(earlier):.3g}" if earlier else ""
        for side in case.sides:
            runs = known["sides"].get(side)
            if not runs:
                continue
            seconds = [run["seconds"] for run in runs]
            middle = median(seconds)
            # A peer was stopped before it finished.
            unfinished = "≥ " if any("nats_left" in run for run in runs) else ""
            ratio = "" if not ours else f"{middle / float(ours):.2f}"
            ours = ours or str(middle)
            rows.append(
                (
                    case.work,
                    side,
                    f"{unfinished}{middle:.3g}",
                    f"{min(seconds):.3g} to {max(seconds):.3g} ({len(seconds)})",
                    unfinished + ratio,
                    f"{median(run['mib'] for run in runs):.0f}",
                    before,
                )
            )
            before = ""
    head = ("work", "side", "median s", "range (runs)", "× ours", "MiB", "before, s")
    lines = [
        "# Speed",
        "Seconds of the work on both sides, each run a process of its own, in turn. Fits are of "
        f"{ROWS} texts of {WORDS} words, imports and loading included but in second fits; "
        "predictions and heads leave both out. Made by `make "
        "bench-speed`, and what takes longest by `python -m benchmarks.speed --cases NAME`. "
        "*Before*: the package of commit 40a1510 (`--before`), where all layers of a raw text were "
        "read as well. The machine's speed differs between days by a factor of up to three, and "
        "few rows are of another day: compare within a row.",
        table(head, rows),
        *training_loop(results),
        *unfinished_peer(results),
        stored(),
        "Measured on: " + "; ".join(machines) + ".",
    ]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
