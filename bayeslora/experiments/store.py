"""Cells on disk, written atomically: predictions and one record each.

experiment.json              marker of the directory, with the grid
cells/<cell>.json            the record, written last: a cell without it is not finished
cells/<cell>.<set>.parquet   predictions on the reported rows and on each OOD set
cells/<cell>.error.json      the reason of a cell's failure, until it succeeds
work/<cell>/                 checkpoints of a running or interrupted fit
results.parquet, summary.md  computed from the records
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError
from bayeslora.experiments.grid import Cell
from bayeslora.experiments.summary import write_results
from bayeslora.io.files import atomic_file, is_empty_directory, lock, read_json, write_json

MARKER, VERSION = "experiment.json", 1
_PATIENCE = 60.0  # seconds


class Store:
    """The directory of an experiment.

    Args:
        out: Its path.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        self._cells = self.out / "cells"

    def check(self) -> None:
        """Raise InputError unless the directory is an experiment's, missing or empty."""
        marker = self.out / MARKER
        if not self.out.exists() or is_empty_directory(self.out):
            return
        if not marker.is_file():
            raise InputError(
                f"{self.out} is not an experiment directory: it has no {MARKER}; choose another "
                "path"
            )
        content = read_json(marker)
        if not isinstance(content, dict) or content.get("format_version") != VERSION:
            raise InputError(
                f"{marker} is damaged, or was written by a newer bayeslora; choose another path",
                code="damaged",
            )

    def claim(self, grid: Mapping[str, Any]) -> None:
        """Create the directories, and store the grid of the latest run."""
        self._cells.mkdir(parents=True, exist_ok=True)
        (self.out / "work").mkdir(exist_ok=True)
        write_json(self.out / MARKER, {"format_version": VERSION, "grid": grid})

    def work(self, cell: Cell) -> Path:
        """Return the working directory of a cell while it runs."""
        return self.out / "work" / cell.id

    def reserved(self, cell: Cell) -> AbstractContextManager[None]:
        """Lock a cell against other processes while the context lasts."""
        return lock(self._cells / cell.id)

    def record(self, cell: Cell) -> dict[str, Any] | None:
        """Return the record of a finished cell, or None."""
        file = self._cells / f"{cell.id}.json"
        return _read_record(file) if file.is_file() else None

    def records(self) -> list[dict[str, Any]]:
        """Return the records of all finished cells, sorted by their key."""
        files = self._cells.glob("*.json") if self._cells.is_dir() else ()
        records = [_read_record(file) for file in files if not file.name.endswith(".error.json")]
        return sorted(
            records, key=lambda record: [sort_key(value) for value in record["cell"].values()]
        )

    def check_settings(self, settings: Mapping[Cell, dict[str, Any]]) -> None:
        """Raise InputError if a cell, or another seed of it, is finished with other settings.

        Raises:
            InputError: They differ; the message names the cell, the setting and both values.
        """
        records = self.records()
        for cell, new in settings.items():
            for record in records:
                seed = record["cell"]["seed"]
                if not {**record["cell"], "seed": cell.seed}.items() >= cell.key.items():
                    continue
                difference = _first_difference(record["settings"], new, drawn=seed != cell.seed)
                if difference is not None:
                    key, before, after = difference
                    raise InputError(
                        f"cell {cell} has {key} = {after}, but seed {seed} is finished with "
                        f"{key} = {before}; choose another --out, or delete the records of its "
                        f"seeds in {self._cells} to compute them again"
                    )

    def add(self, cell: Cell, record: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Store a finished cell, with its record last.

        Args:
            cell: The cell.
            record: JSON-ready.
            files: Contents of predictions files by name.

        Raises:
            InputError: The backbone has other weights than that of a finished cell.
        """
        backbone = record["backbone"]
        for other in self.records():
            name, weights = other["backbone"]["name"], other["backbone"]["fingerprint"]
            if name == backbone["name"] and weights != backbone["fingerprint"]:
                raise InputError(
                    f"cell {cell}: the weights of backbone {name} differ from those of the "
                    "finished cells; choose another --out"
                )
        for file, content in files.items():
            with atomic_file(self._cells / f"{cell.id}.{file}") as temporary:
                temporary.write_bytes(content)
        write_json(self._cells / f"{cell.id}.json", record)
        (self._cells / f"{cell.id}.error.json").unlink(missing_ok=True)
        shutil.rmtree(self.work(cell), ignore_errors=True)

    def fail(self, cell: Cell, error: str, trace: str) -> None:
        """Store the error of a failed cell."""
        content = {"cell": cell.key, "error": error, "traceback": trace}
        write_json(self._cells / f"{cell.id}.error.json", content)

    def tidy(self) -> None:
        """Remove the directory of running cells if it is empty."""
        with suppress(OSError):
            (self.out / "work").rmdir()

    def collect(self, reference: str) -> list[dict[str, Any]]:
        """Return the records of all finished cells after writing their tables.

        Args:
            reference: The method with which others are compared.

        Raises:
            InputError: Another process has been writing the tables for a minute.
        """
        results = self.out / "results.parquet"
        with lock(results, wait=_PATIENCE):
            records = self.records()
            if records:
                write_results(records, results, self.out / "summary.md", reference)
        return records


def _read_record(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict) or not content.keys() >= {"cell", "settings", "scores"}:
        raise InputError(f"{file} is not a cell record; delete it to compute the cell again")
    return content


def sort_key(value: Any) -> tuple[int, float, str]:
    """Return a sort key that puts missing values before numbers, and numbers before text."""
    if value is None:
        return 0, 0.0, ""
    return (2, 0.0, value) if isinstance(value, str) else (1, value, "")


def _first_difference(
    old: Mapping[str, Any], new: Mapping[str, Any], *, drawn: bool
) -> tuple[str, object, object] | None:
    """Return name and values of the first setting that differs.

    Args:
        old: Settings of a finished cell.
        new: Settings of a cell of the grid.
        drawn: Whether the training rows may differ, as between seeds.
    """
    for part in sorted({*old, *new}):
        before, after = old.get(part) or {}, new.get(part) or {}
        for key in sorted({*before, *after}):
            name = f"{part}.{key}"
            if before.get(key) != after.get(key) and not (drawn and name == "data.train"):
                return name, before.get(key), after.get(key)
    return None
