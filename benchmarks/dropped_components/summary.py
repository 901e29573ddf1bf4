"""Dropped components: tables and claims from stored losses."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

from bayeslora.files import atomic_file, read_json
from benchmarks.lib.tables import shown, table
from benchmarks.lib.verdicts import Claim, claims_table

DROPPED = (8, 32, 128)
# Of the second moment that the weight is multiplied by.
POWERS = {"plain": 0.0, "context": 1.0, "context, root": 0.5}

Losses = dict[str, list[float]]


def write_summary(out: Path) -> None:
    """Write the table from what is there."""
    found: Losses = read_json(out / "scores.json")
    before = fmean(found["none"])
    rows = []
    for choice in POWERS:
        known = [found.get(f"{choice}, {k}", []) for k in DROPPED]
        cells = [f"{math.exp(fmean(losses)):.1f}" if losses else "" for losses in known]
        rows.append([choice, *cells, *(shown(losses) for losses in known)])
    head = ["chosen by", *(f"perplexity, {k} dropped" for k in DROPPED)]
    head += [f"loss, {k} dropped" for k in DROPPED]
    parts = [
        "# Components that a context lets go\n\n"
        "SmolLM2-135M in float32, the smallest components of all linear layers dropped, of 192 on "
        "key and value and 576 on the others. Loss in nats a token on Wikipedia passages that are "
        f"not in the context: {before:.3f} with everything, perplexity {math.exp(before):.1f}. "
        f"Means over {len(found['none'])} blocks ± half a 95 % t interval. `context, root` takes "
        "the root of the second moment, which is best for each layer's outputs and is not CorDA. "
        "Made by `python -m benchmarks.dropped_components --data-dir DIR`.",
        table(head, rows),
        "## Claims\n\n" + claims_table(claims(out)),
    ]
    with atomic_file(out / "summary.md") as aside:
        aside.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def claims(out: Path) -> list[Claim]:
    """Return the paper's claims with what is stored."""
    file = out / "scores.json"
    found: Losses = read_json(file) if file.is_file() else {}
    listed = []
    for k in DROPPED:
        pair = zip(found.get(f"plain, {k}", ()), found.get(f"context, {k}", ()), strict=True)
        gains = tuple(plain - context for plain, context in pair)
        text = f"dropping {k} components that a context chooses costs less than the plain smallest"
        listed.append(Claim("CorDA", text, "nats a token", gains, "blocks"))
    return listed
