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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError
from bayeslora.experiments.grid import Cell, settings_digest
from bayeslora.io.files import atomic_file, is_empty_directory, lock, read_json, write_json

MARKER, VERSION = "experiment.json", 1
_PATIENCE = 60.0  # seconds
RESULTS, SUMMARY = "results.parquet", "summary.md"


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
        version = content.get("format_version") if isinstance(content, Mapping) else None
        if type(version) is not int or not 1 <= version <= VERSION:
            raise InputError(
                f"{marker} is damaged, or was written by a newer bayeslora; choose another path",
                code="damaged",
            )

    @cached_property
    def _finished(self) -> list[dict[str, Any]]:
        """The records at the start of a run."""
        return self.records()

    @cached_property
    def _fingerprints(self) -> dict[str, str | None]:
        return {
            record["backbone"]["name"]: record["backbone"]["fingerprint"]
            for record in self._finished
        }

    def fingerprint(self, backbone: str) -> str | None:
        """Return the hash of a backbone's weights in the cells finished so far; None without."""
        return self._fingerprints.get(backbone)

    def check_weights(self, record: Mapping[str, Any]) -> None:
        """Raise InputError if a new cell's backbone has other weights than those of other cells."""
        name, weights = record["backbone"]["name"], record["backbone"]["fingerprint"]
        if self._fingerprints.setdefault(name, weights) != weights:
            raise InputError(
                f"the weights of backbone {name} differ from those of the finished cells; choose "
                "another --out"
            )

    def claim(self, grid: Mapping[str, Any]) -> None:
        """Create the directories, and store the grid of the latest run."""
        self._cells.mkdir(parents=True, exist_ok=True)
        (self.out / "work").mkdir(exist_ok=True)
        write_json(self.out / MARKER, {"format_version": VERSION, "grid": grid})

    def work(self, cell: Cell) -> Path:
        """Return the working directory of a cell while it runs."""
        return self.out / "work" / cell.id

    def record(self, cell: Cell) -> dict[str, Any] | None:
        """Return the record of a finished cell, or None."""
        file = self._cells / f"{cell.id}.json"
        return _mapping(file) if file.is_file() else None

    def check_settings(self, cell: Cell, settings: Mapping[str, Any]) -> None:
        """Raise InputError if the cell, or another seed of it, is finished with other settings.

        Raises:
            InputError: They differ; the message names the cell, the setting and both values.
        """
        stored = self.record(cell)
        if stored is not None and stored["digest"] != settings_digest(settings):
            difference = _first_difference(stored["settings"], settings)
            part, key, old, new = difference or ("settings", "digest", "?", "?")
            raise InputError(
                f"cell {cell} is finished with {part}.{key} = {old}, but the grid has {new}; "
                f"choose another --out, or delete {self._cells / cell.id}.json to compute it "
                "again"
            )
        same_but_seed = {**cell.key, "seed": None}
        for record in self._finished:
            if {**record["cell"], "seed": None}.items() >= same_but_seed.items():
                difference = _first_difference(_shared(record["settings"]), _shared(settings))
                if difference is not None:
                    part, key, old, new = difference
                    raise InputError(
                        f"cell {cell} has {part}.{key} = {new}, but seed "
                        f"{record['cell']['seed']} is finished with {old}; choose another --out, "
                        "because one table must not mix both"
                    )

    @contextmanager
    def reserved(self, cell: Cell) -> Iterator[None]:
        """Lock a cell against other processes while the context lasts.

        Raises:
            InputError: Another process is computing it.
        """
        with lock(self._cells / cell.id):
            yield

    @contextmanager
    def all_records(self) -> Iterator[list[dict[str, Any]]]:
        """Yield the records of all finished cells, while no other process writes the results.

        Raises:
            InputError: Cells of several processes have different weights of a backbone.
        """
        with lock(self.out / RESULTS, wait=_PATIENCE):
            records = self.records()
            weights: dict[str, Mapping[str, Any]] = {}
            for record in records:
                backbone = record["backbone"]
                first = weights.setdefault(backbone["name"], record)
                if first["backbone"]["fingerprint"] != backbone["fingerprint"]:
                    raise InputError(
                        f"cells {_named(first)} and {_named(record)} have different weights of "
                        f"backbone {backbone['name']}; delete the record of one of them in "
                        f"{self._cells} to compute it again"
                    )
            yield records

    def write(self, cell: Cell, record: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Store a finished cell, with its record last.

        Args:
            cell: The cell.
            record: JSON-ready.
            files: Contents of predictions files by name.
        """
        for name, content in files.items():
            with atomic_file(self._cells / f"{cell.id}.{name}") as temporary:
                temporary.write_bytes(content)
        write_json(self._cells / f"{cell.id}.json", record)
        (self._cells / f"{cell.id}.error.json").unlink(missing_ok=True)
        shutil.rmtree(self.work(cell), ignore_errors=True)

    def tidy(self) -> None:
        """Remove the directory of running cells if it is empty."""
        with suppress(OSError):
            (self.out / "work").rmdir()

    def fail(self, cell: Cell, error: str, trace: str) -> None:
        """Store the error of a failed cell."""
        content = {"cell": cell.key, "error": error, "traceback": trace}
        write_json(self._cells / f"{cell.id}.error.json", content)

    def records(self) -> list[dict[str, Any]]:
        """Return the records of all finished cells, sorted by their key."""
        files = self._cells.glob("*.json") if self._cells.is_dir() else ()
        records = [_mapping(file) for file in files if not file.name.endswith(".error.json")]
        return sorted(
            records, key=lambda record: [sort_key(value) for value in record["cell"].values()]
        )


def _named(record: Mapping[str, Any]) -> str:
    cell = record["cell"]
    return ", ".join(f"{key} {cell[key]}" for key in ("task", "method", "seed"))


def _mapping(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict) or not content.keys() >= {"cell", "digest", "scores"}:
        raise InputError(f"{file} is not a cell record; delete it to compute the cell again")
    return content


def sort_key(value: Any) -> tuple[int, float, str]:
    """Return a sort key that puts missing values before numbers, and numbers before text."""
    if value is None:
        return 0, 0.0, ""
    return (2, 0.0, value) if isinstance(value, str) else (1, value, "")


def _shared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that all seeds of a cell have: all but the drawn training rows."""
    data = {key: value for key, value in settings["data"].items() if key != "train"}
    return {**settings, "data": data}


def _first_difference(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[str, str, object, object] | None:
    for part in sorted({*old, *new}):
        before, after = old.get(part) or {}, new.get(part) or {}
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                return part, key, before.get(key), after.get(key)
    return None
