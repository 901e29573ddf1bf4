"""One table of the claims of papers on adapters and the results of the studies."""

from __future__ import annotations

from pathlib import Path

from benchmarks.adapter_grid import summary as adapter_grid
from benchmarks.adapter_memory import summary as adapter_memory
from benchmarks.adapter_speed import summary as adapter_speed
from benchmarks.amt import summary as amt
from benchmarks.dropped_components import summary as dropped_components
from benchmarks.lib.verdicts import claims_table
from benchmarks.multi_task import report as multi_task
from benchmarks.next_item import summary as next_item
from benchmarks.quantisation_error import summary as quantisation_error
from benchmarks.stable_rank import summary as stable_rank

PARTS = {
    "adapter_speed": ("Speed and forgetting", adapter_speed.claims),
    "stable_rank": ("Stable rank", stable_rank.claims),
    "adapter_memory": ("Memory and time", adapter_memory.claims),
    "dropped_components": ("Dropped components", dropped_components.claims),
    "quantisation_error": ("Quantisation", quantisation_error.claims),
    "adapter_grid": ("Classification", adapter_grid.claims),
    "amt": ("Under attack, on unseen classes", amt.claims),
    "next_item": ("Which item next", next_item.claims),
    "multi_task": ("Several tasks at once", multi_task.claims),
}
"""By study: title of its section, and the function that returns its claims."""


def page(reports: Path) -> str:
    """Return the page, one section per study."""
    parts = [
        "# Claims of papers on adapters\n\n"
        "On SmolLM2-135M (quantisation also on MiniLM, several tasks and the next item on "
        "MiniLM alone, AMT on DINOv2-S and MiniLM), at the size of the benchmark that each "
        "section names: nothing here applies to larger models or longer training. A gain is "
        "above 0 where the claim holds, and paired where there is a rival. **reproduced**: the "
        "95 % t interval of the mean gain lies above 0; **in direction only**: the mean alone "
        "does, so the difference is not clear; **not reproduced**: neither; **contradicted**: "
        "the interval lies below 0; **too few**: less than three gains, as where runs diverged."
        " Seeds differ in batches and random starts: an interval over them says nothing of "
        "other texts, tasks or models. Each claim stands alone, without correction for their "
        "number: half of all false claims would come out as *in direction only* by chance."
        " Made by `python -m benchmarks.claims`."
    ]
    for study, (title, claims) in PARTS.items():
        folder = study.replace("_", "-")
        place = f"Numbers: `reports/{folder}/summary.md`, by `python -m benchmarks.{study}`."
        parts.append(f"## {title}\n\n{place}\n\n{claims_table(claims(reports / folder))}")
    return "\n\n".join(parts) + "\n"
