"""What a fit, a prediction and a score cost beside peft, transformers, netcal and torchmetrics.

Every measurement is a process of its own, the sides of a case in turn, two threads. Fits and
predictions read the first eight words of newsgroup posts with all layers and no template, as the
peers do, with adapters on the query and value projections of the upper six layers; the peers sort
by length as well. Times mean something on an idle machine alone, and move by a tenth there. Results
are kept, so that the same command goes on; delete a file to measure again.

    python -m benchmarks.speed             (make bench-speed)
    python -m benchmarks.speed --quick
    python -m benchmarks.speed --before CLONE

`--before` measures our side with the package of another clone, such as one of commit 40a1510, by
the functions of this file: options that it lacks are left out.
"""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path
from statistics import median

from bayeslora.errors import InputError
from bayeslora.files import atomic_file
from benchmarks.lib.results import Results
from benchmarks.lib.tables import table
from benchmarks.speed.cases import CASES, HEADS
from benchmarks.speed.measuring import KEY, machine, measured
from benchmarks.speed.work import FEATURES, ROWS, WORDS

# Runs of another version, and seconds of one that is enough.
_BEFORE, _LONG = 3, 60
MODULE = "benchmarks.speed"


def main() -> None:
    """Measure what is not there yet, then write the table.

    Raises:
        InputError: What is there was measured on another machine.
    """
    usual = [name for name, case in CASES.items() if case.usual]
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("reports/speed"))
    parser.add_argument("--quick", action="store_true", help="one repeat of the short cases")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=usual)
    parser.add_argument("--before", type=Path, metavar="CLONE", help="another version of ours")
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        case, side = args.measure
        found = {"seconds": CASES[case].sides[side]()}
        # Of cold starts the process that is measured is a child of this one.
        who = resource.RUSAGE_CHILDREN if case.startswith("cold-") else resource.RUSAGE_SELF
        found["mib"] = resource.getrusage(who).ru_maxrss / 1024
        print(json.dumps(found))
        return
    results = Results(args.out, KEY)
    for known in results.rows(kind="case"):
        if known["name"] in args.cases and known["machine"] != machine():
            raise InputError(
                f"{results.path} has {known['name']} of another machine, {known['machine']}; "
                "choose another directory (--out), or delete the row"
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
            found = known.setdefault("before", [])
            while len(found) < min(case.repeats, _BEFORE) and not (
                found and found[-1]["seconds"] > _LONG
            ):
                found.append(measured(MODULE, name, side, args.before))
                print(name, "before", found[-1], flush=True)
                results.append(known)
            continue
        for _ in range(1 if args.quick else case.repeats):
            for side in case.sides:
                found = known["sides"].setdefault(side, [])
                if len(found) < (1 if args.quick else case.repeats):
                    found.append(measured(MODULE, name, side))
                    print(name, side, found[-1], flush=True)
                    results.append(known)
        write_table(args.out)
    results.sort()
    write_table(args.out)


def training_loop(results: Results) -> list[str]:
    """Return what the training loop takes: the difference of fits of five epochs and of one."""
    rows = []
    for dtype, end in (("float32", ""), ("bfloat16", "-bfloat16")):
        fits = [results.get(kind="case", name=f"fit-{n}{end}") for n in ("1-epoch", "5-epochs")]
        if None in fits:
            continue
        for side in CASES[f"fit-1-epoch{end}"].sides:
            one, five = (median(run["seconds"] for run in fit["sides"][side]) for fit in fits)
            rows.append((dtype, side, f"{(five - one) / 4:.2f}", f"{4 * ROWS / (five - one):.0f}"))
    if not rows:
        return []
    head = ("training loop", "side", "s per epoch", "texts per s")
    return [
        "The training loop alone, from the difference of five epochs and one:",
        table(head, rows),
    ]


def stored() -> str:
    """Return what the covariances of the heads take in a file, which their tensors decide."""
    from bayeslora import VBLL
    from bayeslora.posteriors.cost import affordable
    from bayeslora.posteriors.last_layer.vbll.families import fit_cost

    sizes = []
    for count in HEADS:
        config = affordable(VBLL(), count, FEATURES, ROWS)
        size = fit_cost(config, count, FEATURES, ROWS).megabytes
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
        earlier = [one["seconds"] for one in known.get("before", [])]
        before = f"{median(earlier):.3g}" if earlier else ""
        for side in case.sides:
            found = known["sides"].get(side)
            if not found:
                continue
            seconds = [one["seconds"] for one in found]
            middle = median(seconds)
            ratio = "" if not ours else f"{middle / float(ours):.2f}"
            ours = ours or str(middle)
            rows.append(
                (
                    case.work,
                    side,
                    f"{middle:.3g}",
                    f"{min(seconds):.3g} to {max(seconds):.3g} ({len(seconds)})",
                    ratio,
                    f"{median(one['mib'] for one in found):.0f}",
                    before,
                )
            )
            before = ""
    head = ("work", "side", "median s", "range (runs)", "× ours", "MiB", "before, s")
    lines = [
        "# Speed",
        "Seconds of the work on both sides, each run a process of its own, in turn. Fits are of "
        f"{ROWS} texts of {WORDS} words, imports and loading included. Made by `make "
        "bench-speed`, and what takes longest by `python -m benchmarks.speed --cases NAME`. "
        "*Before*: the package of commit 40a1510 (`--before`), where all layers of a raw text were "
        "read as well. The machine's speed differs between rows by a factor of up to three, as it "
        "was on the days of their measurement: compare within a row.",
        table(head, rows),
        *training_loop(results),
        stored(),
        "Measured on: " + "; ".join(machines) + ".",
    ]
    with atomic_file(out / "summary.md") as aside:
        aside.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
