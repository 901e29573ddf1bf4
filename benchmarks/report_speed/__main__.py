"""How long does a report on a large predictions file take, and how much memory?

A file of random predictions is written to a temporary directory, and `bayeslora report` runs on it
several times, each in a process of its own: seconds of the clock, start of the program included,
and the most memory that the process held.

    python -m benchmarks.report_speed --rows 1000000 --classes 4
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from bayeslora.io.files import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.memory import peak, write_predictions
from benchmarks.lib.results import Results

LIMIT = 20.0
"""Maximum seconds for a report on a million rows of four classes."""


def main() -> None:
    """Measure, then write the numbers and the page."""
    parser = study_parser(__doc__, "reports/report-speed", data_dir=False, threads=None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    result = measured(args.rows, args.classes, args.repeats)
    results = Results(args.out, ("rows", "classes"))
    results.append(result)
    results.sort()
    with atomic_file(args.out / "summary.md") as temporary:
        temporary.write_text(summary(result), encoding="utf-8")
    print(summary(result))


def measured(rows: int, classes: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of each run, the peak memory over runs, and the size of the report."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "predictions.parquet", Path(folder) / "report"
        write_predictions(file, rows, classes)
        command = (sys.executable, "-m", "bayeslora", "report", str(file), "--out", str(out))
        seconds, memory = [], 0.0
        for _ in range(repeats):
            start = time.perf_counter()
            memory = max(memory, peak(*command, "--overwrite"))
            seconds.append(round(time.perf_counter() - start, 2))
        size = sum(part.stat().st_size for part in out.rglob("*") if part.is_file())
    return {
        "rows": rows,
        "classes": classes,
        "seconds": seconds,
        "peak_gib": memory,
        "report_mb": round(size / 1e6, 2),
    }


def summary(result: dict[str, Any]) -> str:
    """Return the page in Markdown."""
    seconds = result["seconds"]
    return (
        "# Time and memory of a report\n\n"
        f"`bayeslora report` on a Parquet file of {result['rows']:,} rows and {result['classes']}"
        " classes with ids and labels, 1,000 resamples, the whole command:"
        f" **{median(seconds):.1f} s** of wall time, the median of {len(seconds)} runs"
        f" ({min(seconds):.1f} to {max(seconds):.1f}; the limit is {LIMIT:g}), on an idle machine"
        f" with two cores. At most {result['peak_gib']:.2f} GiB of resident memory;"
        f" the report is {result['report_mb']:.1f} MB."
        " Made by `python -m benchmarks.report_speed`.\n"
    )


if __name__ == "__main__":
    main()
