"""How much memory does it take to score a large predictions file?

Files of random predictions with ids and labels are written to a temporary directory, each is scored
by the command line in a process of its own, and the most memory that process held is noted. Reading
alone is measured as well, as the part of it that does not depend on the scores.

    python -m benchmarks.large_files
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from bayeslora.io.files import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.memory import peak, write_predictions
from benchmarks.lib.results import Results

SHAPES = ("100000x5", "1000000x5", "10000000x4", "1000000x150")
LIMIT = 8.0
"""Maximum resident memory for scoring a file, in GiB."""

_READ = "import sys; from bayeslora import Predictions; Predictions.load(sys.argv[1])"
_EVALUATE = """
import functools, sys
import bayeslora.metrics.evaluate as scores
from bayeslora.cli import main
resamples = int(sys.argv.pop(1))
scores.evaluate = functools.partial(scores.evaluate, num_resamples=resamples)
sys.exit(main(["evaluate", *sys.argv[1:], "--json"]))
"""


def main() -> None:
    """Measure every shape, then write the numbers and the table."""
    parser = study_parser(__doc__, "reports/large-files", data_dir=False, threads=None)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="ROWSxCLASSES")
    parser.add_argument(
        "--resamples",
        type=int,
        default=1000,
        help="of the bootstrap, of which memory holds one at a time",
    )
    args = parser.parse_args()
    measurements = [measure(*map(int, shape.split("x")), args.resamples) for shape in args.shapes]
    results = Results(args.out, ("rows", "classes"))
    for row in measurements:
        results.append(row | {"num_resamples": args.resamples, "limit_gib": LIMIT})
    results.sort()
    page = summary(measurements, args.resamples)
    with atomic_file(args.out / "summary.md") as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(page)


def measure(rows: int, classes: int, resamples: int) -> dict[str, Any]:
    """Return the size of a random predictions file and the peak memory to read and score it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "predictions.parquet"
        write_predictions(file, rows, classes)
        return {
            "rows": rows,
            "classes": classes,
            "file_gib": round(file.stat().st_size / 2**30, 3),
            "read_gib": peak(sys.executable, "-c", _READ, str(file)),
            "evaluate_gib": peak(sys.executable, "-c", _EVALUATE, str(resamples), str(file)),
        }


def summary(measurements: list[dict[str, Any]], resamples: int) -> str:
    """Return the page in Markdown."""
    lines = [
        "# Memory for large predictions files",
        "",
        f"Peak resident memory, all of the process; allowed is {LIMIT:g} GiB. Parquet files with "
        "an `id` and a `label`; `evaluate` is `bayeslora evaluate FILE --json` with "
        f"{resamples:,} bootstrap resamples, of which memory holds one at a time. Made by "
        f"`python -m benchmarks.large_files --resamples {resamples}`.",
        "",
        "| rows | classes | file, GiB | reading, GiB | evaluate, GiB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['rows']:,} | {row['classes']} | {row['file_gib']:.2f} | {row['read_gib']:.2f} "
        f"| {row['evaluate_gib']:.2f} |"
        for row in measurements
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
