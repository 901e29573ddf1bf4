"""A predictions file written piece by piece, which resumes after an interruption.

A Parquet file cannot be appended to once its writer is closed. Each finished piece is therefore a
separate file in a hidden directory beside the predictions file, `.NAME.parts`, with a record of
everything that determines the predictions. The last step joins the pieces in the predictions file,
and deletes them: a directory without pieces has nothing to resume from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.data.formats import open_file, parquet_file
from bayeslora.errors import InputError
from bayeslora.io import hidden, lock, read_json, real_path, write_json
from bayeslora.predictions.files import ROW_GROUP, write
from bayeslora.predictions.record import BY_ROW, Predictions


def joined(pieces: Sequence[Predictions]) -> Predictions:
    """Concatenate the rows of all pieces, with the name and the metadata of the first.

    Args:
        pieces: One or more pieces from one classifier: the same classes, uncertainties, scores and
            columns; ids in all of them or in none. A piece without labels has unlabelled rows.

    Raises:
        InputError: An id is duplicated.
    """
    first = pieces[0]
    if len(pieces) == 1:
        return first
    ids = [piece.ids for piece in pieces if piece.ids is not None]
    return first.replace(
        **{name: _column(pieces, name) for name in BY_ROW},
        ids=tuple(chain(*ids)) if ids else None,
        scores={k: np.concatenate([piece.scores[k] for piece in pieces]) for k in first.scores},
        columns={k: np.concatenate([piece.columns[k] for piece in pieces]) for k in first.columns},
    )


def _column(pieces: Sequence[Predictions], name: str) -> NDArray[Any] | None:
    parts = [getattr(piece, name) for piece in pieces]
    if all(part is None for part in parts):
        return None
    for place, piece in enumerate(pieces):
        if parts[place] is None:  # as only `labels` and `available` are, of some pieces
            is_label = name == "labels"
            parts[place] = np.full(len(piece), -1) if is_label else np.ones(piece.probs.shape, bool)
    return np.concatenate(parts)


_IDENTITY = "predictions.json"
_OURS = re.compile(r"[0-9]+\.parquet|predictions\.json|\..*\.(?:part|lock)")


class PredictionParts:
    """The finished pieces of an unfinished predictions file."""

    def __init__(self, out: str | Path) -> None:
        """Set the path of the predictions file; nothing is read or written."""
        self.out = real_path(out)
        self.folder = hidden(self.out, ".parts")

    def sweep(self) -> None:
        """Delete leftovers of a run that was killed before its first piece, or after joining them.

        Joined pieces are older than the predictions file.
        """
        with suppress(InputError), lock(self.out):
            written = self.out.stat().st_mtime_ns if self.out.exists() else 0
            if all(piece.stat().st_mtime_ns <= written for piece in self._pieces()):
                self.remove()

    def refuse(self, identity: Mapping[str, str], *, overwrite: bool) -> None:
        """Raise InputError if the pieces are of other predictions and may not be replaced.

        Args:
            identity: The known settings that determine the predictions.
            overwrite: Whether pieces of other predictions may be deleted.

        Raises:
            InputError: They may not be replaced.
        """
        different = self._differences(identity)
        if different and not overwrite:
            raise InputError(
                f"{self.folder} contains interrupted predictions with another "
                f"{', '.join(different)}; use the same options, choose another --out, or pass "
                "--overwrite"
            )

    def claim(self, identity: Mapping[str, str], *, overwrite: bool) -> None:
        """Create the directory, or take over the pieces of an interrupted run.

        Args:
            identity: The settings that determine the predictions.
            overwrite: Whether pieces of other predictions may be deleted.

        Raises:
            InputError: As `refuse`.
        """
        self.refuse(identity, overwrite=overwrite)
        if self._differences(identity) or not (self.folder / _IDENTITY).is_file():
            self.remove()
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / _IDENTITY, dict(identity))

    def missing(self, count: int) -> list[int]:
        """Return which of `count` pieces are missing."""
        return [number for number in range(count) if not self._file(number).is_file()]

    def num_finished(self) -> int:
        """Return the number of pieces."""
        return len(self._pieces())

    def add(self, number: int, predictions: Predictions) -> None:
        """Write one finished piece."""
        predictions.save(self._file(number))

    def finish(self) -> None:
        """Join all pieces into the predictions file by row groups; remove the directory."""
        pieces = self._pieces()
        schemas = [_schema(piece) for piece in pieces]
        # Pieces without a labelled row lack the column `label`.
        schema = next((each for each in schemas if "label" in each.names), schemas[0])
        write(self.out, schema, _regrouped(_read(piece, schema) for piece in pieces))
        self.remove()

    def remove(self) -> None:
        """Delete our files and the directory, if it exists."""
        with suppress(OSError):  # missing, or it holds foreign files
            for file in self.folder.iterdir():
                if _OURS.fullmatch(file.name):
                    file.unlink()
            self.folder.rmdir()

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:08d}.parquet"

    def _pieces(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.parquet"))

    def _differences(self, identity: Mapping[str, str]) -> list[str]:
        mark = self.folder / _IDENTITY
        try:
            known = read_json(mark) if mark.is_file() else identity
        except InputError:  # damaged: the origin of the pieces is unknown
            known = {}
        return [key for key, value in identity.items() if known.get(key) != value]


def _schema(file: Path) -> Any:
    with parquet_file(open_file(file)) as parquet:
        return parquet.schema_arrow


def _read(file: Path, schema: Any) -> Any:
    """Return a piece with the columns of `schema`; missing columns are null."""
    import pyarrow as pa

    with parquet_file(open_file(file)) as parquet:
        table = parquet.read(use_threads=False)
    return pa.concat_tables([schema.empty_table(), table], promote_options="default")


def _regrouped(tables: Iterable[Any]) -> Iterator[Any]:
    """Yield the same rows in tables of `ROW_GROUP` rows; the last may be shorter."""
    import pyarrow as pa

    waiting = None
    for table in tables:
        waiting = table if waiting is None else pa.concat_tables([waiting, table])
        while len(waiting) >= ROW_GROUP:
            yield waiting.slice(0, ROW_GROUP)
            waiting = waiting.slice(ROW_GROUP)
    if waiting is not None and len(waiting):
        yield waiting
