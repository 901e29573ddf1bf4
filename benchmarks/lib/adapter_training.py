"""Short training runs of a language model, and their records."""

from __future__ import annotations

import argparse
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from bayeslora.adapters.low_rank import LowRank
from bayeslora.adapters.spectrum import drift, stable_rank
from bayeslora.backbones.embedded import embedded_directory
from bayeslora.data.known import DATA_VARIABLE
from bayeslora.options import as_mapping
from benchmarks.lib.adapter_arms import Arm, Setting, Trainee
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.causal_lm import (
    GENERIC,
    TARGET,
    next_token_loss,
    open_model,
    read_texts,
    test_losses,
)
from benchmarks.lib.results import Results

KEY = ("kind", "arm", "lr", "seed")
BATCH = 2

Record = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """A set of runs.

    Attributes:
        setting: Settings shared by all runs.
        arms: Arms by name.
        out: Directory of the records.
        steps: Number of steps per run.
        marks: Steps after which test losses and spectra are recorded.
    """

    setting: Setting
    arms: dict[str, Arm]
    out: Path
    steps: int
    marks: tuple[int, ...]


def run(bench: Bench, name: str, lr: float, seed: int) -> None:
    """Train an arm with one rate and one seed, unless the same run is stored.

    In the record, `stable_rank` is the mean over layers for every projection, `drift` the maximum
    over layers, and `step_seconds` the processor time of all steps without the marks.
    """
    results, arm = Results(bench.out, KEY), bench.arms[name]
    cell = {"kind": "run", "arm": name, "lr": lr, "seed": seed}
    known = results.get(**cell)
    settings = {
        "steps": bench.steps,
        "marked": list(bench.marks),
        "options": changed_options(arm.adapter),
        "texts": bench.setting.texts.digest(),
    }
    if known is not None and settings.items() <= known.items():
        return
    trainee = arm.begin(bench.setting, arm, lr, seed)
    record = {**cell, **settings, **train(bench, trainee, seed)}
    results.append(record)
    print(f"{name} lr={lr:g} seed={seed} area={area(record):.4f}", flush=True)


def changed_options(adapter: Any) -> dict[str, Any]:
    """Return an adapter's name and non-default options, so that new options change no record."""
    if adapter is None:
        return {}
    options, default = as_mapping(adapter), as_mapping(type(adapter)())
    return {key: item for key, item in options.items() if key == "name" or item != default[key]}


def train(bench: Bench, trainee: Trainee, seed: int) -> Record:
    """Return the loss of every step and the state at every mark; a diverged run ends early.

    The batches of a seed are the same for every arm. The learning rate is constant.
    """
    losses: list[float] = []
    marks: list[Record] = []
    seconds, sound = 0.0, True
    for step, ids in enumerate(batches(bench, seed)):
        start = time.process_time()
        loss = one_step(trainee, step, ids)
        seconds += time.process_time() - start
        sound = math.isfinite(loss)
        if sound:
            losses.append(loss)
        if sound and step + 1 in bench.marks:
            tested = test_losses(trainee.model, bench.setting.texts)
            sound = math.isfinite(tested[TARGET] + tested[GENERIC])
            if sound:
                marks.append({"step": step + 1, **tested, **_shapes(trainee)})
        if not sound:
            break
    record = {"losses": losses, "marks": marks, "finished": sound}
    return {**record, "step_seconds": round(seconds, 2)}


def one_step(trainee: Trainee, step: int, ids: Tensor) -> float:
    """Take one step on blocks [B, T]; return the loss before the step."""
    trainee.before_step(step)
    trainee.optimizer.zero_grad()
    loss = next_token_loss(trainee.model, ids)
    loss.backward()
    trainee.optimizer.step()
    return float(loss.detach())


def batches(bench: Bench, seed: int) -> Iterator[Tensor]:
    """Yield the blocks of each step, drawn without replacement."""
    pool = bench.setting.texts.pool
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    for step in range(bench.steps):
        yield pool[order[step * BATCH : (step + 1) * BATCH]]


def base_losses(bench: Bench) -> dict[str, float]:
    """Return the test losses of the model before training."""
    losses = stored_base(bench.out)
    if losses is None:
        model = open_model(bench.setting.source)
        losses = test_losses(model, bench.setting.texts)
        Results(bench.out, KEY).append({"kind": "base", **losses})
    return losses


def stored_base(out: Path) -> dict[str, float] | None:
    """Return the stored test losses before training, or None."""
    row = Results(out, KEY).get(kind="base")
    return row and {name: row[name] for name in (TARGET, GENERIC)}


def _shapes(trainee: Trainee) -> Record:
    ranks: dict[str, list[float]] = defaultdict(list)
    for site in trainee.sites:
        if isinstance(site, LowRank) and math.isfinite(rank := stable_rank(site)):
            ranks[site.name.rpartition(".")[2]].append(rank)
    means = {kind: round(fmean(layers), 4) for kind, layers in ranks.items()}
    return {"stable_rank": means, "drift": max(map(drift, trainee.sites), default=0.0)}


class Runs:
    """Stored runs by arm, rate and seed.

    Args:
        out: Directory of the records.
        marks: Marks of the runs to read; runs with other marks are ignored.
    """

    def __init__(self, out: Path, marks: Sequence[int]) -> None:
        self._records: dict[str, dict[float, dict[int, Record]]] = {}
        for record in Results(out, KEY).rows(kind="run"):
            if record["marked"] != list(marks):
                continue
            by_rate = self._records.setdefault(record["arm"], {})
            by_rate.setdefault(record["lr"], {})[record["seed"]] = record

    def rates(self, arm: str) -> list[float]:
        """Return the rates of an arm in ascending order."""
        return sorted(self._records.get(arm, {}))

    def records(self, arm: str, lr: float | None) -> dict[int, Record]:
        """Return the runs by seed; empty if there are none."""
        return {} if lr is None else self._records.get(arm, {}).get(lr, {})

    def finished(self, arm: str, lr: float | None) -> dict[int, Record]:
        """Return the runs that did not diverge, by seed."""
        records = self.records(arm, lr)
        return {seed: record for seed, record in records.items() if record["finished"]}

    def best_rate(self, arm: str, without: int | None = None) -> float | None:
        """Return the rate with the smallest mean area among those with the most finished seeds.

        Args:
            arm: Name of the arm.
            without: Seed to ignore, unless it is the only one.
        """
        finished = {lr: self.finished(arm, lr) for lr in self.rates(arm)}
        if any(records.keys() - {without} for records in finished.values()):
            finished = {
                lr: {seed: record for seed, record in records.items() if seed != without}
                for lr, records in finished.items()
            }
        most = max(map(len, finished.values()), default=0)
        if not most:
            return None
        return min(
            (lr for lr, records in finished.items() if len(records) == most),
            key=lambda lr: fmean(area(record) for record in finished[lr].values()),
        )

    def at_best(self, arm: str) -> dict[int, Record]:
        """Return for every seed the run at the best rate on the other seeds.

        No run influences the choice of its own rate.
        """
        seeds = {seed for lr in self.rates(arm) for seed in self.records(arm, lr)}
        each = {seed: self.finished(arm, self.best_rate(arm, seed)) for seed in sorted(seeds)}
        return {seed: records[seed] for seed, records in each.items() if seed in records}

    def lost(self, arm: str, lr: float | None = None) -> str:
        """Return a note on seeds whose run diverged, and is therefore in no comparison.

        Args:
            arm: Name of the arm.
            lr: Learning rate; None uses the rate of `at_best` for every seed.
        """
        seeds = {seed for rate in self.rates(arm) for seed in self.records(arm, rate)}
        chosen = {seed: self.best_rate(arm, seed) if lr is None else lr for seed in seeds}
        diverged = sorted(
            seed
            for seed, rate in chosen.items()
            if not self.records(arm, rate).get(seed, {"finished": True})["finished"]
        )
        return f"{arm} diverged with seed {', '.join(map(str, diverged))}" if diverged else ""

    def at_edge(self, arm: str) -> str:
        """Return a note if the best rate is the smallest or largest tried rate."""
        rates, best = self.rates(arm), self.best_rate(arm)
        if len(rates) < 2 or best not in (rates[0], rates[-1]):
            return ""
        return f"best rate of {arm} at the end of its grid"


def area(record: Record) -> float:
    """Return the area under the loss curve per step: the mean training loss; NaN without losses."""
    return fmean(record["losses"] or [math.nan])


def gains(
    better: dict[int, Record], worse: dict[int, Record], gain: Callable[[Record, Record], float]
) -> tuple[float, ...]:
    """Return the gain for every seed of both arms, in the order of the seeds."""
    return tuple(gain(better[seed], worse[seed]) for seed in sorted(better.keys() & worse.keys()))


def mean_rank(record: Record, mark: int = -1) -> float:
    """Return the mean stable rank over projections at a mark; NaN if no projection has one."""
    return fmean(record["marks"][mark]["stable_rank"].values() or [math.nan])


def smaller_area(ours: Record, rival: Record) -> float:
    """Return the area of the rival minus ours."""
    return area(rival) - area(ours)


NUM_SEEDS, STEPS, MARKS = 3, 30, (1, 3, 6, 10, 14, 18, 24, 30)
BACKBONE = "smollm2-135m"


def arguments(description: str, out: Path, arms: Collection[str]) -> argparse.Namespace:
    """Parse the command line of a benchmark that trains arms."""
    parser = study_parser(description, out, data_dir=False, threads=1)
    default = os.environ.get(DATA_VARIABLE)
    parser.add_argument("--data-dir", type=Path, default=default, required=default is None)
    parser.add_argument("--runs", type=Path, default=Path("runs/adapter-starts"))
    parser.add_argument("--arms", nargs="+", choices=arms, default=list(arms))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(NUM_SEEDS)))
    return parser.parse_args()


def open_setting(args: argparse.Namespace) -> Setting:
    """Return the setting from the command line."""
    source = embedded_directory(BACKBONE)
    return Setting(source, read_texts(Path(args.data_dir), source), args.runs)


def lower_target(ours: Record, rival: Record) -> float:
    """Return the last target loss of the rival minus ours."""
    return float(rival["marks"][-1][TARGET] - ours["marks"][-1][TARGET])
