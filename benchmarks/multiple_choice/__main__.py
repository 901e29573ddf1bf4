"""Join runs of the multiple-choice grids, and write their summary.

The cells of a grid may be computed on several machines, in pieces: a run adds its cells to those
that are stored, and replaces those of the same task, method and seed. The summary compares a
replaced cell with the new one.

    bayeslora experiment benchmarks/grids/multiple-choice-core.yaml --data-dir DIR --out RUN
    python -m benchmarks.multiple_choice --add RUN
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.lib.arguments import study_parser
from benchmarks.multiple_choice.summary import (
    FILE,
    joined,
    stored_cells,
    write_cells,
    write_summary,
)


def main() -> None:
    """Add the cells of runs, if any, and write the summary."""
    parser = study_parser(__doc__, "reports/multiple-choice", data_dir=False, threads=None)
    parser.add_argument("--add", type=Path, nargs="+", default=[], metavar="RUN")
    args = parser.parse_args()
    file: Path = args.out / FILE
    if args.add:
        new = [pq.read_table(run / "results.parquet") for run in args.add]
        empty = new[0].slice(0, 0)
        stored, former = stored_cells(file) if file.is_file() else (empty, empty)
        cells, replaced = joined(stored, new)
        former, _ = joined(former, [replaced])
        write_cells(file, cells, former)
    write_summary(args.out)


if __name__ == "__main__":
    main()
