"""One table of what papers on adapters claim and what the benchmarks beside this file found.

python benchmarks/adapter_claims.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import adapter_grid
import adapter_memory
import adapter_speed
import dropped_components
import quantisation_error
import stable_rank
from verdicts import claims_table

from bayeslora.files import atomic_file

PARTS = (
    ("Speed and forgetting", adapter_speed, "adapter-speed"),
    ("Stable rank", stable_rank, "stable-rank"),
    ("Memory and time", adapter_memory, "adapter-memory"),
    ("Dropped components", dropped_components, "dropped-components"),
    ("Quantisation", quantisation_error, "quantisation-error"),
    ("Classification", adapter_grid, "adapter-grid"),
)


def main() -> None:
    """Write the table from what is stored."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    args = parser.parse_args()
    write_summary(args.reports)
    print((args.reports / "adapter-claims" / "summary.md").read_text(encoding="utf-8"))


def write_summary(reports: Path) -> None:
    """Write one section a benchmark."""
    parts = [
        "# Claims of papers on adapters\n\n"
        "On SmolLM2-135M (quantisation also on MiniLM), at the size of the benchmark that each "
        "section names: nothing here speaks of larger models or longer training. A gain is above "
        "0 where the claim holds, and paired where there is a rival. **reproduced**: the 95 % t "
        "interval of the mean gain lies above 0; **reproduced in direction**: the mean alone does; "
        "**not reproduced**: neither; **contradicted**: the interval lies below 0; **too few**: "
        "less than three gains, as where runs diverged. Seeds differ in batches and random starts: "
        "an interval over them says nothing of other texts, tasks or models. Each claim stands "
        "alone: no correction for their number, and where there were no difference at all, "
        "every second claim would come out as reproduced in direction. Made by `python "
        "benchmarks/adapter_claims.py`."
    ]
    for title, module, folder in PARTS:
        found = module.claims(reports / folder)
        place = f"Numbers: `reports/{folder}/summary.md`, by `benchmarks/{module.__name__}.py`."
        parts.append(f"## {title}\n\n{place}\n\n{claims_table(found)}")
    with atomic_file(reports / "adapter-claims" / "summary.md") as aside:
        aside.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
