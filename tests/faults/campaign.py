"""Runs scenarios, stores each result immediately, resumes after a stop, and summarises."""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import bit_flips, crash, hostile, malformed, summary
from .cases import Case, Rooms, run_all, store_line
from .world import build

_MODULES = (crash, malformed, bit_flips, hostile)
SCENARIOS = {module.SCENARIO: module for module in _MODULES}
_EVERY_SECONDS = 10.0


def main() -> int:
    """Run the campaign; return 1 if a promise was broken."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up, as after Ctrl-C
    options.out.mkdir(parents=True, exist_ok=True)
    store = options.out / "cases.jsonl"
    mark = {"source": summary.fingerprint()}
    if options.fresh or not _belongs(store, mark):
        store.write_text(json.dumps(mark) + "\n", encoding="utf-8")
    done = _stored(store)
    with _world(options.jobs) as (source, rooms), store.open("a", encoding="utf-8") as file:
        for scenario in options.only:
            cases = SCENARIOS[scenario].cases(source, rooms, sample=options.sample)
            todo = [case for case in cases if options.group in {None, case.group}]
            todo = [case for case in todo if case.key not in done]
            # In random order, so that a campaign stopped early covers every group.
            random.Random(0).shuffle(todo)
            progress = _Progress(scenario, len(todo))
            for case, finding in run_all(todo, rooms):
                done[case.key] = {"case": case.key, **finding}
                file.write(store_line(case, finding))
                file.flush()
                progress.update(case, finding)
    result = summary.summarise(done.values())
    summary.write(result, options.out)
    print(f"{len(done)} cases, {len(result['broken'])} broken: {options.out}/summary.md")
    return 1 if result["broken"] else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/reliability"))
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--group", help="the cases of this group alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--sample", action="store_true", help="a few cases of each scenario")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    return parser.parse_args()


@contextmanager
def _world(jobs: int) -> Iterator[tuple[Path, Rooms]]:
    """Yield the directory that is copied for every case, and the rooms in which cases run."""
    import torch

    torch.set_num_threads(1)
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and shutil.disk_usage(memory).free > 50 << 20 else None
    with tempfile.TemporaryDirectory(prefix="bayeslora-faults-", dir=place) as name:
        rooms = Rooms(Path(name), jobs)
        source = build(rooms.room).rename(Path(name) / "world")
        gc.collect()
        gc.freeze()  # forked children then copy fewer pages
        yield source, rooms


def _belongs(store: Path, mark: dict[str, str]) -> bool:
    """Return whether the stored results belong to this code."""
    if not store.exists():
        return False
    with store.open(encoding="utf-8") as file:
        return file.readline().strip() == json.dumps(mark)


def _stored(store: Path) -> dict[str, dict[str, Any]]:
    results = map(json.loads, store.read_text(encoding="utf-8").splitlines()[1:])
    return {result["case"]: result for result in results}


class _Progress:
    """Prints broken promises immediately and the progress of a scenario at intervals."""

    def __init__(self, scenario: str, total: int) -> None:
        self._scenario, self._total, self._done = scenario, total, 0
        self._begin = self._last = time.monotonic()

    def update(self, case: Case, finding: dict[str, Any]) -> None:
        """Count a finished case and print its problems."""
        self._done += 1
        for kind, detail in finding["problems"]:
            print(f"{kind}: {case.key}: {detail!a:.500}", flush=True)
        now = time.monotonic()
        if now - self._last > _EVERY_SECONDS or self._done == self._total:
            self._last = now
            took = f"{now - self._begin:.0f} s"
            line = f"{self._scenario}: {self._done} of {self._total} in {took}"
            print(line, file=sys.stderr, flush=True)
