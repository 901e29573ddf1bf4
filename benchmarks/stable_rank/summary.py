"""Stable rank and convergence: arms, tables and claims from stored runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.polar import PoLAR
from bayeslora.errors import InputError
from bayeslora.io.files import atomic_file
from benchmarks.lib.adapter_arms import Arm
from benchmarks.lib.adapter_training import (
    Record,
    Runs,
    area,
    gains,
    lower_target,
    mean_rank,
    smaller_area,
    stored_base,
)
from benchmarks.lib.causal_lm import GENERIC, TARGET
from benchmarks.lib.tables import shown, table
from benchmarks.lib.verdicts import Claim, claims_table

OUT = Path("reports/stable-rank")
STEPS, MARKS = 40, (10, 20, 40)
LOW, HIGH = 4e-4, 4e-3
_SITES: dict[str, Any] = {
    "r": 8,
    "alpha": 32,
    "target_modules": ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj"),
    "num_layers": None,
}
LANDING = "polar, landing"
ARMS = {
    "lora": Arm(LoRA(**_SITES), (LOW, HIGH)),
    "polar": Arm(PoLAR(**_SITES), (HIGH,)),
    LANDING: Arm(PoLAR(constraint="landing", absorb_every=0, **_SITES), (HIGH,)),
}


def write_summary(out: Path) -> None:
    """Write the tables from the stored runs."""
    runs, base = Runs(out, MARKS), stored_base(out)
    if base is None:
        raise InputError(f"{out} has no losses of the model before training")
    parts = [
        "# Stable rank and convergence of PoLAR\n\n"
        "SmolLM2-135M in float32, r = 8, alpha = 32 on query, key, value, up and down projections "
        f"of all layers, {STEPS} steps of 2 × 64 tokens of OpenBookQA with its answers, constant "
        f"rate. `{LANDING}` pulls the factors to the manifold as published, `polar` retracts them "
        "at every step, our default; the papers train for far longer, on larger batches, with a "
        "rate that warms up and falls. `drift` is the largest ‖ZᵀZ − I‖_F of a factor after the "
        "last step. The stable rank ‖ΔW‖²_F / ‖ΔW‖²_2 is the mean over layers, 1 at least and 8 at "
        "most; `area` is the mean training loss in nats a token, the others are losses on texts "
        f"that were not trained on (before training {base[TARGET]:.3f} and {base[GENERIC]:.3f}). "
        "Means over seeds ± half a 95 % t interval. Made by `python -m benchmarks.stable_rank "
        "--data-dir DIR`.",
        _table(runs),
        "## By projection, after the last step\n\n" + _projections(runs),
        "## Claims\n\n" + claims_table(claims(out)),
    ]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def claims(out: Path) -> list[Claim]:
    """Return the paper's claims with the stored gains."""
    runs, base = Runs(out, MARKS), stored_base(out) or {TARGET: math.inf}
    listed = []
    rates = ((LOW, "published rates"), (HIGH, "the same rate"))
    for name, (rate, words) in product(("polar", LANDING), rates):
        ours, rival = runs.finished(name, HIGH), runs.finished("lora", rate)
        higher = gains(ours, rival, lambda a, b: mean_rank(a) - mean_rank(b))
        listed.append(Claim("PoLAR", f"{name}: higher stable rank than LoRA, {words}", "", higher))
        faster = gains(ours, rival, smaller_area)
        text = f"{name}: converges faster than LoRA, {words}"
        listed.append(Claim("PoLAR", text, "nats of area", faster))
        lower = gains(ours, rival, lower_target)
        text = f"{name}: ends lower than LoRA on other questions, {words}"
        above = (unlearned(done, base, arm) for done, arm in ((rival, "LoRA"), (ours, name)))
        notes = "; ".join(filter(None, above))
        listed.append(Claim("PoLAR", text, "nats", lower, notes=notes))
    return listed


def unlearned(runs: Mapping[int, Record], base: Mapping[str, float], arm: str) -> str:
    """Return a note on seeds whose run ends above the loss of the untrained model."""
    above = [seed for seed, run in runs.items() if run["marks"][-1][TARGET] > base[TARGET]]
    seeds = ", ".join(map(str, sorted(above)))
    return f"{arm} ends above the untrained model with seed {seeds}" if above else ""


def _table(runs: Runs) -> str:
    rows = []
    for name, arm in ARMS.items():
        for lr in arm.rates:
            done = list(runs.finished(name, lr).values())
            cells = [
                shown([area(record) for record in done]),
                *(shown([r["marks"][-1][key] for r in done]) for key in (TARGET, GENERIC)),
                *(shown([mean_rank(r, mark) for r in done]) for mark in range(len(MARKS))),
                f"{max((r['marks'][-1]['drift'] for r in done), default=0.0):.1e}",
            ]
            rows.append([name, f"{lr:g}", str(len(done)), *cells])
    after = [f"stable rank after {step}" for step in MARKS]
    return table(["arm", "rate", "seeds", "area", TARGET, GENERIC, *after, "drift"], rows)


def _projections(runs: Runs) -> str:
    columns = {
        f"{name}, {lr:g}": list(runs.finished(name, lr).values())
        for name, arm in ARMS.items()
        for lr in arm.rates
    }
    rows = []
    for kind in _SITES["target_modules"]:
        cells = [
            shown([record["marks"][-1]["stable_rank"][kind] for record in done])
            for done in columns.values()
        ]
        rows.append([kind, *cells])
    return table(["projection", *columns], rows)
