"""Adapters and last layers: tables and claims from stored fits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from statistics import fmean

from bayeslora.io.files import atomic_file
from benchmarks.lib.fits import EPOCHS, MAX_LENGTH, SCORES
from benchmarks.lib.results import Results
from benchmarks.lib.tables import Rows, difference, is_blind, shown, table
from benchmarks.lib.verdicts import Claim, claims_table

FIXED = "lisa-fixed"
MOST_RATES = 5

# Fits, and the posteriors calibrated on each.
FITS: dict[str, tuple[str, ...]] = {"mle": ("laplace",), "vbll": ()}
REFERENCE = "lora"
KEY = ("kind", "task", "adapter", "fit", "seed")
CHANGED = ("accuracy", "nll", "ece", "far max_probability")
"""Columns of the comparison of last layers with the point estimate."""


def best(losses: Mapping[float, float]) -> float:
    """Return the learning rate with the lowest validation NLL."""
    return min(losses, key=losses.__getitem__)


def write_summary(out: Path) -> None:
    """Write one table per data set from the stored scores."""
    parts = [_preamble()]
    for task, methods in sorted(_read(out).items()):
        parts += [f"## {task}", _table(methods), f"### Last layers on {task}", _gains(methods)]
    if rates := _rates(out):
        parts += ["## Learning rates", rates]
    parts += ["## Claims", claims_table(claims(out))]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _read(out: Path) -> dict[str, dict[tuple[str, str], Rows]]:
    """Return the rows of fits at their chosen rate, by data set, last layer and adapter."""
    tasks: dict[str, dict[tuple[str, str], Rows]] = defaultdict(lambda: defaultdict(dict))
    results = Results(out, KEY)
    rates = {_kind(row): row["lr"] for row in results.rows(kind="rate")}
    for content in results.rows(kind="fit"):
        if content["lr"] != rates[_kind(content)]:
            continue
        for row in content["rows"]:
            place = (row["method"], content["adapter"])
            tasks[content["task"]][place][content["seed"]] = row
    return tasks


def _kind(row: Mapping[str, str]) -> tuple[str, str]:
    """Return the key of a learning rate: the data set, and the adapter with the fit."""
    return row["task"], f"{row['adapter']}-{row['fit']}"


def claims(out: Path) -> list[Claim]:
    """Return LISA's claim that layers should be resampled, with the stored gains."""
    listed: list[Claim] = []
    for task, methods in sorted(_read(out).items()):
        for posterior in FITS:
            drawn, fixed = (methods.get((posterior, name), {}) for name in ("lisa", FIXED))
            shared = sorted(drawn.keys() & fixed.keys())
            lower = tuple(fixed[seed]["nll"] - drawn[seed]["nll"] for seed in shared)
            text = (
                f"layers drawn anew have a lower NLL than those of one draw ({task}, {posterior})"
            )
            listed.append(Claim("LISA", text, "nats", lower))
    return listed or [Claim("LISA", "layers drawn anew have a lower NLL", "nats", ())]


def _gains(methods: Mapping[tuple[str, str], Rows]) -> str:
    """Return differences of last layers from the point estimate, paired by adapter and seed."""
    others = sorted({posterior for posterior, _ in methods} - {"mle"})
    adapters = sorted({adapter for _, adapter in methods})
    lines = []
    for posterior, adapter in product(others, adapters):
        rows, base = (methods.get((name, adapter), {}) for name in (posterior, "mle"))
        lines.append([posterior, adapter, *(difference(rows, base, name) for name in CHANGED)])
    return table(["last layer", "adapter", *(f"Δ {name}" for name in CHANGED)], lines)


def _rates(out: Path) -> str:
    """Return the validation NLL of every tried rate, with the chosen rate in bold."""
    rows = []
    for stored in sorted(Results(out, KEY).rows(kind="rate"), key=_kind):
        losses = dict(sorted(stored["validation_nll"]))
        tried = [
            f"**{lr:g}: {nll:.3f}**" if lr == best(losses) else f"{lr:g}: {nll:.3f}"
            for lr, nll in losses.items()
        ]
        edge = "the best is at the end" if best(losses) in (min(losses), max(losses)) else ""
        place = [stored[column] for column in ("task", "adapter", "fit")]
        rows.append([*place, ", ".join(tried), edge])
    return table(["data set", "adapter", "fit", "rate: validation NLL", ""], rows) if rows else ""


def _preamble() -> str:
    return (
        "# Adapters and last layers\n\n"
        "SmolLM2-135M, every adapter at its default size in the last 6 of 30 layers, 640 training, "
        "320 validation and 500 test rows, 250 rows of each out-of-distribution set, at most "
        f"{MAX_LENGTH} tokens a text, at most {EPOCHS} epochs, where `fit` would take 15: what "
        "needs more epochs is at a disadvantage. bfloat16, except LISA, which trains in float32. "
        "Epoch, learning rate (with one seed: the better of two, then on in its direction until "
        f"one is worse, at most {MOST_RATES}) and the posterior's own number are chosen by "
        "validation NLL. Values are means over seeds ± half a 95 % t "
        "interval; Δ NLL and Δ ECE are paired by seed, adapter − "
        f"{REFERENCE} under the same last layer; below each table, last layer − mle on the same "
        "adapter. The rows are the same for every seed, so the "
        "intervals reflect training, not the choice of rows. Overconfidence is mean "
        "confidence − accuracy; near and far are AUROCs of out-of-distribution rows (near: "
        "newsgroups that are no class; far: Reuters, for SST-2 AG news), nothing where a last "
        "layer has no variance. Stable rank is ‖ΔW‖²_F / ‖ΔW‖²₂ and relative size ‖ΔW‖_F / ‖W‖_F, "
        "means over changed layers; trained are the numbers that changed, in thousands. Seconds "
        "are processor time of a fit on one thread, without the pass of the frozen layers that "
        "serves all fits of an adapter, and with CorDA's pass over its context. LoRA, PoLAR, "
        "PiSSA and CorDA sit on the query and value projections, the first two with rank 8, the "
        "others with 16; differences from LoRA are of defaults, in size too. "
        f"`{FIXED}` draws its layers once, as a control of LISA. "
        "Made by `python -m benchmarks.adapter_grid --data-dir DIR`."
    )


def _table(methods: Mapping[tuple[str, str], Rows]) -> str:
    present = [
        name for name in SCORES if not all(is_blind(rows, name) for rows in methods.values())
    ]
    head = ["last layer", "adapter", "seeds", *present, "Δ NLL", "Δ ECE"]
    head += ["stable rank", "relative size", "trained", "fit s"]
    lines = []
    for (posterior, adapter), rows in sorted(methods.items()):
        values = list(rows.values())
        cells = [
            "" if is_blind(rows, name) else shown([row[name] for row in values]) for name in present
        ]
        base = methods.get((posterior, REFERENCE), {})
        gaps = [difference(rows, base, name) for name in ("nll", "ece")]
        shape = [fmean(row[name] for row in values) for name in ("stable_rank", "relative_norm")]
        seconds = f"{fmean(row['fit_seconds'] for row in values):.0f}"
        trained = f"{fmean(row['num_trained'] for row in values) / 1e3:,.0f}"
        row = [posterior, adapter, str(len(rows)), *cells, *gaps]
        lines.append([*row, f"{shape[0]:.2f}", f"{shape[1]:.3f}", trained, seconds])
    return table(head, lines)
