"""The arguments that studies share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


class StudyParser(argparse.ArgumentParser):
    """A parser of a study's arguments; `--threads` sets the threads of torch."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the arguments, after setting the number of threads."""
        parsed = super().parse_args(args, namespace)
        if "threads" in parsed:
            import torch  # noqa: PLC0415 - studies of memory and start-up time need none

            torch.set_num_threads(parsed.threads)
        return parsed


def study_parser(
    doc: str, out: str | Path, *, data_dir: bool = True, threads: int | None = 2
) -> StudyParser:
    """Return a parser with the options `--out`, `--data-dir` and `--threads`.

    Args:
        doc: Docstring of the study; its first line is the description.
        out: Default of `--out`.
        data_dir: Whether the study reads known tasks from a directory.
        threads: Default of `--threads`; None for no such option.
    """
    parser = StudyParser(description=doc.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path(out))
    if data_dir:
        parser.add_argument("--data-dir", type=Path, default=None)
    if threads is not None:
        parser.add_argument("--threads", type=int, default=threads)
    return parser
