"""Learning and forgetting of adapters: tables and claims from stored runs."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from bayeslora.errors import InputError
from bayeslora.io.files import atomic_file
from benchmarks.lib.adapter_arms import ARMS
from benchmarks.lib.adapter_training import (
    MARKS,
    STEPS,
    Record,
    Runs,
    area,
    gains,
    lower_target,
    mean_rank,
    smaller_area,
    stored_base,
)
from benchmarks.lib.causal_lm import GENERIC, NUM_TEST, TARGET
from benchmarks.lib.tables import shown, table
from benchmarks.lib.verdicts import Claim, claims_table

OUT = Path("reports/adapter-speed")
REFERENCE = "lora"
_TRAILING = 5

# Arms that should be ahead of a rival according to the papers.
FASTER = (
    ("PiSSA", "pissa", "lora"),
    ("CorDA", "corda-ipm", "lora"),
    ("CorDA", "corda-ipm", "pissa"),
    ("CorDA", "corda-kpm", "lora"),
    ("PoLAR", "polar", "lora"),
    ("S²FT", "s2ft", "lora"),
    ("LISA", "lisa", "lora"),
)
AT_EVERY_RATE = {"pissa", "corda-ipm"}
"""Arms expected to lead at low rates, where the scale of the initialisation matters most."""
GENTLEST = "corda-kpm"
FORGETS_LESS = (
    ("CorDA", GENTLEST, "lora"),
    ("CorDA", GENTLEST, "pissa"),
    ("CorDA", GENTLEST, "corda-ipm"),
    ("CorDA", GENTLEST, "polar"),
    ("CorDA", GENTLEST, "s2ft"),
    ("CorDA", GENTLEST, "lisa"),
    ("S²FT", "s2ft", "lora"),
)


def write_summary(out: Path) -> None:
    """Write the tables from the stored runs."""
    runs, base = Runs(out, MARKS), stored_base(out)
    if base is None:
        raise InputError(f"{out} has no losses of the model before training")
    parts = [
        "# Learning and forgetting of adapters in a few steps\n\n"
        f"SmolLM2-135M in float32, {STEPS} steps on 2 × 64 tokens of OpenBookQA with its answers, "
        "constant rate, no weight decay. LoRA, PiSSA, CorDA and PoLAR have r = 16 on all linear "
        "layers; S²FT has heads and columns with as many trained numbers as LoRA; LISA trains two "
        "of 30 layers, drawn anew before every step (K = 1, what its formula gives for so few "
        "steps, so that Adam's moments are fresh at almost every step). PoLAR's factors take "
        "Riemannian steps, all else AdamW's. CorDA-IPM's context are 100 blocks of the questions, "
        "some of which are trained on, KPM's as many of passages. `area` is the mean training loss "
        f"over steps, in nats a token; `target` and `{GENERIC}` are losses after the last step on "
        f"{NUM_TEST} × 64 tokens of questions and of Wikipedia passages that were not trained on "
        f"(before training {base[TARGET]:.3f} and {base[GENERIC]:.3f}). Means over seeds ± half a "
        "95 % t interval; test texts are the same for every seed, and so are the starts of PiSSA "
        "and CorDA, whose seeds differ in the batches alone. Intervals say nothing of other texts. "
        "Seconds are the processor's, of steps alone; PiSSA's and CorDA's hold a product with the "
        "start, which is kept beside the weight, not taken out of it. ★ has the smallest mean "
        "area; all are tried at four rates, LoRA and CorDA-KPM at one more, PoLAR at one less. "
        "Made by `python -m benchmarks.adapter_speed --data-dir DIR`.",
        _rates_table(runs),
        "## At the best rate of each\n\n"
        "For every seed the rate that is best on the other seeds. Steps until the mean of the last "
        f"{_TRAILING} losses is at LoRA's final one with the same seed, and with how many seeds it "
        "is not before the last step; loss on passages at a loss on questions that both reach, "
        "minus LoRA's.\n\n" + _best_table(runs, base),
        "## Forgetting by the rival's rate\n\n"
        f"How much less {GENTLEST} forgets at its best rate than each rival at each of its rates: "
        "the difference of their losses on passages, in nats, when both have the same loss on "
        "questions. That loss lies half-way between the two lowest of the adapter that learned "
        "less. At a lower rate, less is learned and forgotten by then.\n\n"
        + _forgetting_table(runs, base),
        "## Claims\n\n" + claims_table(claims(out)),
    ]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _forgetting_table(runs: Runs, base: dict[str, float]) -> str:
    ours, rows = runs.at_best(GENTLEST), []
    for name in (rival for _, arm, rival in FORGETS_LESS if arm == GENTLEST):
        for lr in runs.rates(name):
            rivals = runs.finished(name, lr)
            targets = [record["marks"][-1][TARGET] for record in rivals.values()]
            less = forgetting_gains(base, ours, rivals)
            rows.append([name, f"{lr:g}", str(len(less)), shown(targets), shown(less)])
    return table(["rival", "rate", "seeds", f"rival's last {TARGET}", "forgets less by"], rows)


def claims(out: Path) -> list[Claim]:
    """Return the papers' claims with the stored gains."""
    runs, base = Runs(out, MARKS), stored_base(out)
    if base is None:
        return []
    listed = []
    for method, name, rival in FASTER:
        pair = runs.at_best(name), runs.at_best(rival)
        notes = _notes(runs, name, rival)
        faster, lower = (gains(*pair, gain) for gain in (smaller_area, lower_target))
        text = f"{name} learns faster than {rival}, each at its best rate"
        listed.append(Claim(method, text, "nats of area", faster, notes=notes))
        text = f"{name} ends lower than {rival} on other questions, each at its best rate"
        listed.append(Claim(method, text, "nats", lower, notes=notes))
        shared = set(runs.rates(name)) & set(runs.rates(rival)) if name in AT_EVERY_RATE else ()
        for lr in sorted(shared):
            same = gains(runs.finished(name, lr), runs.finished(rival, lr), smaller_area)
            text = f"{name} learns faster than {rival}, both at {lr:g}"
            diverged = "; ".join(filter(None, (runs.lost(name, lr), runs.lost(rival, lr))))
            listed.append(Claim(method, text, "nats of area", same, notes=diverged))
    for method, name, rival in FORGETS_LESS:
        listed += _gentler(runs, base, (method, name, rival))
    return listed


def _gentler(runs: Runs, base: dict[str, float], arms: tuple[str, str, str]) -> list[Claim]:
    """Return the claims that an arm forgets less than a rival, at best rates and at equal rates."""
    method, name, rival = arms
    ours, theirs = runs.at_best(name), runs.at_best(rival)
    same = _at_rates_of(ours, runs, rival)
    text, unit = f"{name} forgets less than {rival} at equal loss", "nats on generic text"
    less = forgetting_gains(base, ours, theirs)
    notes = _notes(runs, name, rival)
    listed = [Claim(method, f"{text}, each at its best rate", unit, less, notes=notes)]
    if same != theirs:
        diverged = {runs.lost(rival, record["lr"]) for record in ours.values()}
        notes = "; ".join(filter(None, (runs.at_edge(name), runs.lost(name), *sorted(diverged))))
        less = forgetting_gains(base, ours, same)
        text = f"{text}, both at the best rate of {name}"
        listed.append(Claim(method, text, unit, less, notes=notes))
    return listed


def _at_rates_of(ours: dict[int, Record], runs: Runs, rival: str) -> dict[int, Record]:
    """Return for every seed the rival's run at the rate of ours, if there is one."""
    rivals = {seed: runs.finished(rival, record["lr"]) for seed, record in ours.items()}
    return {seed: records[seed] for seed, records in rivals.items() if seed in records}


def _notes(runs: Runs, *arms: str) -> str:
    """Return notes on arms that are compared at their best rates."""
    return "; ".join(
        filter(None, (note(arm) for note in (runs.at_edge, runs.lost) for arm in arms))
    )


def forgets_less(base: dict[str, float], ours: Record, rival: Record) -> float:
    """Return how much lower our generic loss is at equal target loss.

    The generic loss is interpolated linearly between marks, which is too high on a convex curve.
    Therefore the level is half-way between the two lowest falling target losses of the run that
    learned less, so that both losses are interpolated.
    """
    runs = [_falling(base, record) for record in (ours, rival)]
    lowest = max(runs, key=lambda points: points[-1][0])
    level = fmean(point[0] for point in lowest[-2:])
    return generic_at(base, rival, level) - generic_at(base, ours, level)


def forgetting_gains(
    base: dict[str, float], ours: dict[int, Record], rivals: dict[int, Record]
) -> tuple[float, ...]:
    """Return `forgets_less` for every seed with which both arms learned anything."""
    learned = [
        {seed: record for seed, record in runs.items() if len(_falling(base, record)) > 1}
        for runs in (ours, rivals)
    ]
    return gains(*learned, partial(forgets_less, base))


def _falling(base: dict[str, float], record: Record) -> list[tuple[float, float]]:
    """Return the points whose target loss is below that of all previous points."""
    falling = _points(base, record)[:1]
    for point in _points(base, record)[1:]:
        if point[0] < falling[-1][0]:
            falling.append(point)
    return falling


def generic_at(base: dict[str, float], record: Record, level: float) -> float:
    """Return the interpolated generic loss where the target loss first reaches a level."""
    points = _points(base, record)
    for (above, before), (below, after) in pairwise(points):
        if below <= level <= above:
            share = (above - level) / (above - below) if above > below else 1.0
            return before + share * (after - before)
    return points[0][1]


def _points(base: dict[str, float], record: Record) -> list[tuple[float, float]]:
    """Return the (target, generic) losses before training and at every mark."""
    states = [base, *record["marks"]]
    return [(state[TARGET], state[GENERIC]) for state in states]


def steps_to(record: Record, level: float) -> int:
    """Return the steps until the trailing mean of the loss reaches a level, at most all steps."""
    losses = record["losses"]
    for step in range(_TRAILING, len(losses) + 1):
        if fmean(losses[step - _TRAILING : step]) <= level:
            return step
    return len(losses)


def _rates_table(runs: Runs) -> str:
    rows = []
    for name in _present(runs):
        for lr in runs.rates(name):
            done = list(runs.finished(name, lr).values())
            diverged = len(runs.records(name, lr)) - len(done)
            star = " ★" if lr == runs.best_rate(name) else ""
            ranks = [rank for r in done if math.isfinite(rank := mean_rank(r))]
            cells = [
                shown([area(r) for r in done]),
                *(shown([r["marks"][-1][key] for r in done]) for key in (TARGET, GENERIC)),
                shown(ranks, 2),
                shown([r["step_seconds"] / len(r["losses"]) for r in done], 2),
            ]
            seeds = f"{len(done)}" + (f", {diverged} diverged" if diverged else "")
            rows.append([f"{name}{star}", f"{lr:g}", seeds, *cells])
    head = ["arm", "rate", "seeds", "area", TARGET, GENERIC, "stable rank", "processor s a step"]
    return table(head, rows)


def _best_table(runs: Runs, base: dict[str, float]) -> str:
    reference = runs.at_best(REFERENCE)
    rows = []
    for name in _present(runs):
        own = runs.at_best(name)
        steps = gains(own, reference, lambda r, rival: steps_to(r, final_loss(rival)))
        late = sum(step >= STEPS for step in steps)
        ahead = gains(own, reference, smaller_area)
        more = [-gap for gap in gains(own, reference, partial(forgets_less, base))]
        rates = ", ".join(f"{lr:g}" for lr in sorted({record["lr"] for record in own.values()}))
        reached = shown(steps, 1) + (f" ({late} not before)" if late else "")
        cells = [reached, shown([-gap for gap in ahead]), shown(more)]
        rows.append([name, rates, *cells, _notes(runs, name)])
    head = ["arm", "rate", "steps to LoRA's loss", "Δ area", f"Δ {GENERIC} at equal target", ""]
    return table(head, rows)


def final_loss(record: Record) -> float:
    """Return the mean of the last `_TRAILING` losses."""
    return fmean(record["losses"][-_TRAILING:])


def _present(runs: Runs) -> list[str]:
    return [name for name in ARMS if runs.rates(name)]
