"""Join runs of the multiple-choice grids, and write their summary.

The cells of a grid may be computed on several machines, in pieces: a run adds its cells to those
that are stored, and replaces those of the same task, method and seed.

    bayeslora experiment benchmarks/grids/multiple-choice-core.yaml --data-dir DIR --out RUN
    python -m benchmarks.multiple_choice --add RUN
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from bayeslora.io import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.multiple_choice.summary import FILE, joined, write_summary


def main() -> None:
    """Add the cells of runs, if any, and write the summary."""
    parser = study_parser(__doc__, "reports/multiple-choice", data_dir=False, threads=None)
    parser.add_argument("--add", type=Path, nargs="+", default=[], metavar="RUN")
    args = parser.parse_args()
    file: Path = args.out / FILE
    if args.add:
        files = [
            *([file] if file.is_file() else []),
            *(run / "results.parquet" for run in args.add),
        ]
        cells = joined([pq.read_table(each) for each in files])
        with atomic_file(file) as temporary:
            pq.write_table(cells, temporary)
    write_summary(args.out)


if __name__ == "__main__":
    main()
