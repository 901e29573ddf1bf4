"""Predictions of any number of rows, written to a file as they are made.

Memory holds one piece of rows at a time. Finished pieces are on disk, so that a run that was killed
goes on with the next one, and ends in the same file as if it had never stopped.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bayeslora.checkpoint import library_versions
from bayeslora.engine import data as checked_rows
from bayeslora.engine.data import CheckedRows
from bayeslora.engine.pieces import Drawing, predict_pieces
from bayeslora.locks import writing_to
from bayeslora.predictions.parts import PredictionParts
from bayeslora.processes import current

if TYPE_CHECKING:
    from bayeslora.engine.model import FittedModel


def predict_to_file(
    fitted: FittedModel,
    rows: CheckedRows,
    drawing: Drawing,
    out: str | Path,
    *,
    overwrite: bool = False,
) -> None:
    """Write the predictions of rows to a file; go on where an interrupted run of the same ended.

    Several processes share the passes inside `processes.together`; the first alone writes.

    Args:
        fitted: The classifier.
        rows: What to predict.
        drawing: How to draw.
        out: A `.parquet`, `.csv` or `.jsonl` file.
        overwrite: Whether the pieces of other interrupted predictions may be deleted.

    Raises:
        InputError: Beside `out` are pieces of other predictions, the rows have changed, or another
            process is writing to `out`.
    """
    world, parts = current(), PredictionParts(out)
    model = {"model": fitted.fingerprint, "device": str(fitted.network.feature_scale.device)}

    def claimed() -> list[int]:
        parts.claim(identity(rows, drawing) | model, overwrite=overwrite)
        return parts.missing(rows.num_pieces)

    with world.first_holds(lambda: writing_to(out)):
        missing = world.first(claimed)
        wanted = frozenset(missing)
        todo = (piece for number, piece in enumerate(rows.pieces()) if number in wanted)
        total = rows.stream.num_rows
        done = total - sum(rows.piece_size(number) for number in missing)
        made = predict_pieces(
            fitted, todo, drawing, total=total, done=done, most_options=rows.most_options
        )
        for predictions, number in zip(made, missing, strict=True):
            notes = {**predictions.metadata, **rows.stream.notes}
            noted = predictions.replace(metadata=notes)
            world.first(partial(parts.add, number, noted))
        world.first(parts.finish)


def identity(rows: CheckedRows, drawing: Drawing) -> dict[str, str]:
    """Return what decides predictions beside the model."""
    versions = ", ".join(f"{name} {number}" for name, number in library_versions().items())
    return {
        "data": rows.digest,
        "num_samples": str(drawing.num_samples),
        "link": drawing.link,
        "seed": str(drawing.seed),
        "unknown_labels": drawing.unknown,
        "piece": str(checked_rows.PIECE),
        "versions": versions,
    }
