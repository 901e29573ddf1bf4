"""How much memory does it take to score a large predictions file?

Files of random predictions with ids and labels are written to a temporary directory, each is scored
by the command line in a process of its own, and the most memory that process held is noted. Reading
alone is measured as well, as the part of it that does not depend on the scores.

    python benchmarks/large_files.py
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bayeslora.files import atomic_file, write_json

SHAPES = ("100000x5", "1000000x5", "10000000x4", "1000000x150")
LIMIT = 8.0
"""GiB of resident memory that scoring a file may take."""

_READ = "import sys; from bayeslora import Predictions; Predictions.load(sys.argv[1])"
_EVALUATE = """
import functools, sys
import bayeslora.metrics.evaluate as scores
from bayeslora.cli import main
resamples = int(sys.argv.pop(1))
scores.evaluate = functools.partial(scores.evaluate, num_resamples=resamples)
sys.exit(main(["evaluate", *sys.argv[1:], "--json"]))
"""
_CELLS = 4_000_000  # values that are drawn at a time


def main() -> None:
    """Measure every shape and write the numbers and a table of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("reports/large-files"))
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="ROWSxCLASSES")
    parser.add_argument(
        "--resamples",
        type=int,
        default=1000,
        help="of the bootstrap, of which memory holds one at a time",
    )
    args = parser.parse_args()
    found = [measure(*map(int, shape.split("x")), args.resamples) for shape in args.shapes]
    content = {"limit_gib": LIMIT, "num_resamples": args.resamples, "files": found}
    write_json(args.out / "scores.json", content)
    page = summary(found, args.resamples)
    with atomic_file(args.out / "summary.md") as aside:
        aside.write_text(page, encoding="utf-8")
    print(page)


def measure(rows: int, classes: int, resamples: int) -> dict[str, Any]:
    """Return the size of a file of random predictions and the memory that reading it takes."""
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


def write_predictions(file: Path, rows: int, classes: int, seed: int = 0) -> None:
    """Write random predictions, in parts, whose labels are drawn from the probabilities."""
    generator = np.random.default_rng(seed)
    size = max(1, _CELLS // classes)
    writer = None
    for start in range(0, rows, size):
        count = min(size, rows - start)
        logits = generator.gumbel(size=(count, classes)) * 2
        probs = np.exp(logits - logits.max(1, keepdims=True))
        probs /= probs.sum(1, keepdims=True)
        labels = np.argmax(np.log(probs) + generator.gumbel(size=probs.shape), axis=1)
        names = pa.array([f"class-{k}" for k in range(classes)])
        numbers = pa.array(np.arange(start, start + count)).cast(pa.string())
        table = pa.table(
            {
                "id": pc.binary_join_element_wise("row", numbers, "-"),
                "label": names.take(pa.array(labels)),
                **{f"prob_{name}": probs[:, k] for k, name in enumerate(names.to_pylist())},
            }
        )
        writer = writer or pq.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def peak(*command: str) -> float:
    """Run a command; return the most resident memory that it held, in GiB."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return round(usage.ru_maxrss * unit / 2**30, 2)


def summary(found: list[dict[str, Any]], resamples: int) -> str:
    """Return the numbers as a page in Markdown."""
    lines = [
        "# Memory for large predictions files",
        "",
        f"Peak resident memory, all of the process; allowed is {LIMIT:g} GiB. Parquet files with "
        "an `id` and a `label`; `evaluate` is `bayeslora evaluate FILE --json` with "
        f"{resamples:,} bootstrap resamples, of which memory holds one at a time. Made by "
        f"`python benchmarks/large_files.py --resamples {resamples}`.",
        "",
        "| rows | classes | file, GiB | reading, GiB | evaluate, GiB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['rows']:,} | {one['classes']} | {one['file_gib']:.2f} | {one['read_gib']:.2f} "
        f"| {one['evaluate_gib']:.2f} |"
        for one in found
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
