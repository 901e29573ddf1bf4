"""Predictions to score, from files and run directories, with their out-of-distribution sets."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bayeslora.cli.data import predictions_reading
from bayeslora.errors import InputError, unknown_choice
from bayeslora.plain_text import quoted

if TYPE_CHECKING:
    from bayeslora.predictions.collection import Method
    from bayeslora.predictions.files import PredictionsReading

TEST = "predictions/test.parquet"
FITTED = frozenset({"train", "validation"})
"""Splits in `predictions/` that are not out of distribution but were used for fitting."""


@dataclass(frozen=True)
class Scored:
    """Predictions to score.

    Attributes:
        files: In-distribution predictions, one file per method.
        ood: Files of the out-of-distribution sets, by the method's label, then by name.
        reading: How to read them.
        shifted: Files in run directories with deliberately corrupted rows.
    """

    files: list[Path]
    ood: dict[str, dict[str, Path]]
    reading: PredictionsReading
    shifted: tuple[Path, ...] = ()

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [*self.files, *(path for sets in self.ood.values() for path in sets.values())]

    def methods(self, needed: Sequence[str] = ()) -> list[Method]:
        """Read all predictions, with additional columns that every method's file must have."""
        from bayeslora.predictions.collection import gather

        return gather(self.files, self.ood, needed=needed, reading=self.reading)


def find(args: argparse.Namespace) -> Scored:
    """Return the predictions named by the arguments of a scoring verb.

    Args:
        args: Arguments with `files`, predictions files and run directories, reading options, and
            perhaps `ood`, each `NAME=FILE` or `METHOD:NAME=FILE`.

    Raises:
        InputError: A file is missing or wrong, or a set cannot be assigned to a method.
    """
    from bayeslora.predictions.collection import labels_of

    paths, reading = args.files, predictions_reading(args)
    files = [_test_file(Path(path)) for path in paths]
    called = labels_of(files, reading)
    sets: dict[str, dict[str, Path]] = {}
    shifted: list[Path] = []
    for path, file, (label, _) in zip(paths, files, called, strict=True):
        beside = _sets_beside(file) if Path(path).is_dir() else {}
        corrupted = [name for name, sibling in beside.items() if _is_shifted(sibling, reading)]
        shifted += [beside.pop(name) for name in corrupted]
        sets[label] = beside
    for option in getattr(args, "ood", ()):
        label, name, file = _tied(option, called)
        if name in sets[label]:
            raise InputError(f"--ood {option}: {label} already has a set {name!r}")
        sets[label][name] = file
    if getattr(args, "ood_score", None) is not None and not any(sets.values()):
        raise InputError(
            f"--ood-score {args.ood_score}: there are no out-of-distribution sets; add them with "
            "--ood"
        )
    return Scored(files, sets, reading, tuple(shifted))


def _test_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / TEST).is_file():
        from bayeslora.checkpoint import is_model

        if is_model(path):
            raise InputError(
                f"{path} is a model without predictions; create them with `bayeslora predict "
                f"{path} DATA --out FILE.parquet`"
            )
        raise InputError(
            f"{path} has no {TEST}; pass a predictions file (.parquet, .csv, .jsonl) or a run "
            "directory"
        )
    return path / TEST


def _sets_beside(test: Path) -> dict[str, Path]:
    return {
        file.stem: file
        for file in sorted(test.parent.glob("*.parquet"))
        if file != test and file.stem not in FITTED
    }


def _is_shifted(file: Path, reading: PredictionsReading) -> bool:
    from bayeslora.predictions.files import open_columns

    return "corruption" in open_columns(file, reading).notes


def _tied(option: str, called: Sequence[tuple[str, str]]) -> tuple[str, str, Path]:
    """Parse an OOD option into the label of the method, the name of the set and its file.

    Args:
        option: `NAME=FILE`, or `METHOD:NAME=FILE` with a label, or a name that one method has.
        called: Label and name of each method.
    """
    left, equals, file = option.partition("=")
    if not (left and equals and file):
        raise InputError(f"--ood {option}: expected NAME=FILE or METHOD:NAME=FILE")
    methods = {label: label for label, _ in called}
    count = Counter(name for _, name in called)
    for label, name in called:
        if count[name] == 1:
            methods.setdefault(name, label)
    for method, label in methods.items():
        if left.startswith(f"{method}:") and left != f"{method}:":
            return label, left.removeprefix(f"{method}:"), Path(file)
    unknown, colon, _ = left.partition(":")
    if colon:
        raise unknown_choice("method", unknown, methods).within(f"--ood {option}")
    if len(called) > 1:
        raise InputError(
            f"--ood {option}: specify which of the {len(called)} methods made these predictions, "
            f"as METHOD:{option}, with METHOD one of {', '.join(map(quoted, methods))}"
        )
    return called[0][0], left, Path(file)
