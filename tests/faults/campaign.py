"""Runs scenarios, stores each result as it comes, goes on where it was stopped, sums up."""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import bit_flips, crash, full_disk, hostile, malformed
from .cases import Case, Rooms, run_all, store_line
from .world import build

SCENARIOS = {
    module.SCENARIO: module for module in (crash, full_disk, malformed, bit_flips, hostile)
}


def main() -> int:
    """Run the campaign; the exit code is 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/reliability"))
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--group", help="cases of this group alone")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sample", action="store_true", help="a few cases of each scenario")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    store = options.out / "cases.jsonl"
    if options.fresh:
        store.unlink(missing_ok=True)
    done = _stored(store)
    import torch

    torch.set_num_threads(1)
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and shutil.disk_usage(memory).free > 50 << 20 else None
    with tempfile.TemporaryDirectory(prefix="bayeslora-faults-", dir=place) as name:
        work = Path(name)
        rooms = Rooms(work, options.jobs)
        source = build(rooms.room).rename(work / "world")
        gc.collect()
        gc.freeze()  # children then copy fewer pages
        for scenario in options.only:
            cases = SCENARIOS[scenario].cases(source, rooms, sample=options.sample)
            todo = (
                case
                for case in cases
                if case.key not in done and options.group in {None, case.group}
            )
            with store.open("a", encoding="utf-8") as file:
                begin = time.monotonic()
                for number, (case, found) in enumerate(run_all(todo, rooms), 1):
                    done[case.key] = {"case": case.key, **found}
                    file.write(store_line(case, found))
                    file.flush()
                    _tell(case, found)
                    _progress(scenario, number, time.monotonic() - begin)
    broken = [found for found in done.values() if found["problems"]]
    print(f"{len(done)} cases, {len(broken)} broken", file=sys.stderr)
    return 1 if broken else 0


def _stored(store: Path) -> dict[str, dict[str, Any]]:
    if not store.exists():
        return {}
    lines = store.read_text(encoding="utf-8").splitlines()
    return {found["case"]: found for found in map(json.loads, lines)}


def _tell(case: Case, found: dict[str, Any]) -> None:
    for kind, detail in found["problems"]:
        print(f"{kind}: {case.key}: {detail}")


def _progress(scenario: str, number: int, seconds: float) -> None:
    if number % 100 == 0:
        print(f"{scenario}: {number} cases in {seconds:.0f} s", file=sys.stderr, flush=True)
