"""Memory and time of a training step: tables and claims from stored measurements."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

from bayeslora.io.files import atomic_file
from benchmarks.lib.adapter_arms import LISA_ARM, LOWEST, MEMORY_ARMS, PUBLISHED, RANK
from benchmarks.lib.results import Results
from benchmarks.lib.tables import table
from benchmarks.lib.verdicts import Claim, claims_table

KEY = ("kind", "arm", "seed")
ROWS, TOKENS = 2, 128
PARTS, BESIDES = ("activations", "gradients", "optimiser"), ("parameters", "beside")
FULL, LORA = "full fine-tuning", "lora"

# Arms that should need less than a rival according to the papers. LISA's memory depends on the
# lowest sampled layer, so its worst draw counts; its time is that of its draws.
SMALLER: tuple[tuple[str, str, str], ...] = (
    ("LoRA", LORA, FULL),
    ("S²FT", "s2ft", LORA),
    ("S²FT", "s2ft", FULL),
    ("LISA", LOWEST, LORA),
    ("LISA", LOWEST, FULL),
    ("LISA", PUBLISHED, LORA),
    ("LISA", PUBLISHED, FULL),
)
FASTER: tuple[tuple[str, str, str], ...] = (
    ("LoRA", LORA, FULL),
    ("S²FT", "s2ft", LORA),
    ("S²FT", "s2ft", FULL),
    ("LISA", LISA_ARM, LORA),
    ("LISA", LISA_ARM, FULL),
)


def write_summary(out: Path) -> None:
    """Write the table from the stored measurements."""
    times = _times(out)
    rows = [_row(name, item, times) for name, item in _read(out).items()]
    head = ["arm", "trained, million", "activations", "gradients", "optimiser", "sum", "beside"]
    head += ["s", "cpu s"]
    parts = [
        "# Memory and time of a training step\n\n"
        f"SmolLM2-135M with its output layer, float32, {ROWS} × {TOKENS} tokens, r = {RANK} on all "
        "linear layers. MB (10⁶ bytes) of what autograd saves, of gradients and of the optimiser's "
        f"state; `{LISA_ARM}` is the mean over draws of its two layers, `{LOWEST}` the worst "
        f"possible draw, and `{PUBLISHED}` the published setting, in which the embedding trains at "
        "every step. `beside` is not in the sum: what is kept beside the backbone's weights, the "
        "adapter's own and, with LISA, copies of all that may train, as the backbone is shared "
        "and stays as it was. Seconds of a whole step on one "
        f"thread, by the clock and of the processor: medians of {len(times)} turns, `{LISA_ARM}` "
        "with another draw in each. "
        "Made by `python -m benchmarks.adapter_memory`.",
        table(head, rows),
        "## Claims\n\n" + claims_table(claims(out)),
    ]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _row(name: str, item: dict[str, float], times: list[dict[str, dict[str, float]]]) -> list[str]:
    parts = [item[key] for key in PARTS]
    turns = [turn[name] for turn in times if name in turn]
    seconds = [
        f"{median(turn[key] for turn in turns):.2f}" if turns else ""
        for key in ("clock", "processor")
    ]
    sizes = [f"{part / 1e6:.1f}" for part in parts]
    sizes += [f"{sum(parts) / 1e6:.0f}", f"{item['beside'] / 1e6:.0f}"]
    return [name, f"{item['parameters'] / 1e6:.2f}", *sizes, *seconds]


def claims(out: Path) -> list[Claim]:
    """Return the papers' claims with the stored gains."""
    sizes, times = _read(out), _times(out)
    listed = []
    for method, name, rival in SMALLER:
        exact: tuple[float, ...] = ()
        notes = ""
        if name in sizes and rival in sizes:
            own, other = _total(sizes[name]), _total(sizes[rival])
            exact = ((other - own) / 1e6,)
            notes = f"{other / own:.2f} times less; {_with_beside(sizes[name], sizes[rival])}"
        text = f"{name} keeps less than {rival} in a step"
        listed.append(Claim(method, text, "MB", exact, "counted", exact=True, notes=notes))
    for method, name, rival in FASTER:
        pairs = [
            (t[name]["processor"], t[rival]["processor"]) for t in times if {name, rival} <= {*t}
        ]
        faster = tuple(other - own for own, other in pairs)
        ratio = f"{median(b / a for a, b in pairs):.2f} times faster" if pairs else ""
        text = f"{name} takes less time a step than {rival}"
        listed.append(Claim(method, text, "s of the processor", faster, "turns", notes=ratio))
    return listed


def _with_beside(own: dict[str, float], rival: dict[str, float]) -> str:
    """Return a comparison of two arms that includes the bytes kept beside the backbone."""
    ours, other = (_total(item) + item["beside"] for item in (own, rival))
    return f"with what is kept beside the weights {ours / 1e6:.0f} MB against {other / 1e6:.0f}"


def _total(item: dict[str, float]) -> float:
    return sum(item[key] for key in PARTS)


def _read(out: Path) -> dict[str, dict[str, float]]:
    """Return the mean bytes over draws of every stored arm, in the order of the arms."""
    measurements: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for item in Results(out, KEY).rows(kind="bytes"):
        measurements[item["arm"]].append(item)
    return {
        name: {key: fmean(item[key] for item in measurements[name]) for key in (*PARTS, *BESIDES)}
        for name in MEMORY_ARMS
        if name in measurements
    }


def _times(out: Path) -> list[dict[str, dict[str, float]]]:
    row = Results(out, KEY).get(kind="times")
    turns: list[dict[str, dict[str, float]]] = row["turns"] if row else []
    return turns
