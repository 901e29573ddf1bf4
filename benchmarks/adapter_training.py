"""One short training of a language model, and what is recorded of it."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from adapter_arms import Arm, Setting, Trainee
from causal_lm import GENERIC, TARGET, next_token_loss, open_model, test_losses
from torch import Tensor

from bayeslora.adapters.low_rank import LowRank
from bayeslora.adapters.spectrum import stable_rank
from bayeslora.files import read_json, write_json

BATCH = 2

Record = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """A set of runs.

    Attributes:
        setting: What all share.
        arms: What is trained, by name.
        out: Where records are kept.
        steps: Of each run.
        marks: Steps after which test losses and spectra are taken.
    """

    setting: Setting
    arms: dict[str, Arm]
    out: Path
    steps: int
    marks: tuple[int, ...]


def run(bench: Bench, name: str, lr: float, seed: int) -> None:
    """Train one arm with one rate and one seed, where there is no record of it with these steps.

    `stable_rank` in the record has a list over layers for every projection.
    """
    file = bench.out / "runs" / f"{name}-lr-{lr:g}-seed-{seed}.json"
    asked = {"steps": bench.steps, "marked": list(bench.marks)}
    if file.is_file() and asked.items() <= read_json(file).items():
        return
    arm = bench.arms[name]
    trainee = arm.begin(bench.setting, arm, lr, seed)
    start = time.process_time()
    record = {"arm": name, "lr": lr, "seed": seed, **asked, **train(bench, trainee, seed)}
    write_json(file, record | {"seconds": round(time.process_time() - start, 1)})
    print(f"{name} lr={lr:g} seed={seed} area={area(record):.4f}", flush=True)


def train(bench: Bench, trainee: Trainee, seed: int) -> Record:
    """Return the loss of every step, and the state at every mark; a run that diverges ends early.

    The batches of a seed are the same for every arm. The rate is constant.
    """
    losses: list[float] = []
    marks: list[Record] = []
    for step, ids in enumerate(batches(bench, seed)):
        loss = one_step(trainee, step, ids)
        if not math.isfinite(loss):
            break
        losses.append(loss)
        if step + 1 in bench.marks:
            state = _state(bench, trainee)
            if not math.isfinite(state[TARGET] + state[GENERIC]):
                return {"losses": losses, "marks": marks, "finished": False}
            marks.append({"step": step + 1, **state})
    return {"losses": losses, "marks": marks, "finished": len(losses) == bench.steps}


def one_step(trainee: Trainee, step: int, ids: Tensor) -> float:
    """Take one step on blocks [B, T]; return the loss before it."""
    trainee.before_step(step)
    trainee.optimizer.zero_grad()
    loss = next_token_loss(trainee.model, ids)
    loss.backward()
    trainee.optimizer.step()
    return float(loss.detach())


def batches(bench: Bench, seed: int) -> Iterator[Tensor]:
    """Yield the blocks of each step, drawn without repeats."""
    pool = bench.setting.texts.pool
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    for step in range(bench.steps):
        yield pool[order[step * BATCH : (step + 1) * BATCH]]


def base_losses(bench: Bench) -> dict[str, float]:
    """Return the test losses of the model before any training."""
    file = bench.out / "base.json"
    if not file.is_file():
        model = open_model(bench.setting.source)
        write_json(file, test_losses(model, bench.setting.texts))
    found: dict[str, float] = read_json(file)
    return found


def _state(bench: Bench, trainee: Trainee) -> Record:
    ranks: dict[str, list[float]] = defaultdict(list)
    for site in trainee.sites:
        if isinstance(site, LowRank) and math.isfinite(rank := stable_rank(site)):
            ranks[site.name.rpartition(".")[2]].append(round(rank, 3))
    return {**test_losses(trainee.model, bench.setting.texts), "stable_rank": ranks}


class Runs:
    """Finished runs by arm, rate and seed, and what is read off them.

    Args:
        out: Where the records are.
    """

    def __init__(self, out: Path) -> None:
        self._found: dict[str, dict[float, dict[int, Record]]] = {}
        for file in sorted((out / "runs").glob("*.json")):
            record = read_json(file)
            by_rate = self._found.setdefault(record["arm"], {})
            by_rate.setdefault(record["lr"], {})[record["seed"]] = record

    def rates(self, arm: str) -> list[float]:
        """Return the rates that an arm was trained with, ascending."""
        return sorted(self._found.get(arm, {}))

    def records(self, arm: str, lr: float | None) -> dict[int, Record]:
        """Return the runs by seed, none where there are no such."""
        return {} if lr is None else self._found.get(arm, {}).get(lr, {})

    def finished(self, arm: str, lr: float | None) -> dict[int, Record]:
        """Return those that did not diverge."""
        records = self.records(arm, lr)
        return {seed: record for seed, record in records.items() if record["finished"]}

    def best_rate(self, arm: str) -> float | None:
        """Return the rate with the smallest mean area among those that have most finished seeds."""
        sizes = {lr: len(self.finished(arm, lr)) for lr in self.rates(arm)}
        most = max(sizes.values(), default=0)
        if not most:
            return None
        return min(
            (lr for lr, size in sizes.items() if size == most),
            key=lambda lr: fmean(area(r) for r in self.finished(arm, lr).values()),
        )

    def at_edge(self, arm: str) -> str:
        """Return a note where the best rate is the smallest or largest that was tried."""
        rates, best = self.rates(arm), self.best_rate(arm)
        if len(rates) < 2 or best not in (rates[0], rates[-1]):
            return ""
        return f"best rate of {arm} at the end of its grid"


def area(record: Record) -> float:
    """Return the area under the loss curve a step: the mean training loss; NaN before the first."""
    return fmean(record["losses"] or [math.nan])


def gains(
    better: dict[int, Record], worse: dict[int, Record], gain: Callable[[Record, Record], float]
) -> tuple[float, ...]:
    """Return a gain for every seed that both have, in the order of the seeds."""
    return tuple(gain(better[seed], worse[seed]) for seed in sorted(better.keys() & worse.keys()))


def mean_rank(record: Record, mark: int = -1) -> float:
    """Return the mean stable rank over sites at a mark; NaN where nothing has one."""
    ranks = record["marks"][mark]["stable_rank"].values()
    return fmean([rank for layers in ranks for rank in layers] or [math.nan])


def smaller_area(ours: Record, rival: Record) -> float:
    """Return how much less the area of one run is."""
    return area(rival) - area(ours)
