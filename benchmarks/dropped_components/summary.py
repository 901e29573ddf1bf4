"""Dropped components: tables and claims from stored losses."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

from bayeslora.io.files import atomic_file
from benchmarks.lib.results import Results
from benchmarks.lib.tables import shown, table
from benchmarks.lib.verdicts import Claim, claims_table

DROPPED = (8, 32, 128)
# Powers of the second moment that multiplies the weight.
POWERS = {"plain": 0.0, "context": 1.0, "context, root": 0.5}

KEY = ("choice", "dropped")
NOTHING = ("none", 0)

Losses = dict[tuple[str, int], list[float]]
"""Losses of all blocks, by method of choosing components and number of dropped components."""


def stored(out: Path) -> Losses:
    """Return the stored losses."""
    return {(row["choice"], row["dropped"]): row["losses"] for row in Results(out, KEY).rows()}


def write_summary(out: Path) -> None:
    """Write the table from the stored losses."""
    by_choice = stored(out)
    before = fmean(by_choice[NOTHING])
    rows = []
    for choice in POWERS:
        known = [by_choice.get((choice, k), []) for k in DROPPED]
        cells = [f"{math.exp(fmean(losses)):.1f}" if losses else "" for losses in known]
        rows.append([choice, *cells, *(shown(losses) for losses in known)])
    head = ["chosen by", *(f"perplexity, {k} dropped" for k in DROPPED)]
    head += [f"loss, {k} dropped" for k in DROPPED]
    parts = [
        "# Components that a context lets go\n\n"
        "SmolLM2-135M in float32, the smallest components of all linear layers dropped, of 192 on "
        "key and value and 576 on the others. Loss in nats a token on Wikipedia passages that are "
        f"not in the context: {before:.3f} with everything, perplexity {math.exp(before):.1f}. "
        f"Means over {len(by_choice[NOTHING])} blocks ± half a 95 % t interval. `context, root` "
        "takes the root of the second moment, which is best for each layer's outputs and is not "
        "CorDA. "
        "Made by `python -m benchmarks.dropped_components --data-dir DIR`.",
        table(head, rows),
        "## Claims\n\n" + claims_table(claims(out)),
    ]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def claims(out: Path) -> list[Claim]:
    """Return the paper's claims with the stored gains."""
    losses = stored(out)
    listed = []
    for k in DROPPED:
        pair = zip(losses.get(("plain", k), []), losses.get(("context", k), []), strict=True)
        gains = tuple(plain - context for plain, context in pair)
        text = f"dropping {k} components that a context chooses costs less than the plain smallest"
        listed.append(Claim("CorDA", text, "nats a token", gains, "blocks"))
    return listed
