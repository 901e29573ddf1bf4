"""A record as the columns of a predictions file; `files` reads them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslora.predictions.files import FORMAT_VERSION, UNCERTAINTIES
from bayeslora.predictions.tables import write_table

if TYPE_CHECKING:
    from bayeslora.predictions.record import Predictions


def write_predictions(predictions: Predictions, path: str | Path) -> None:
    """Write a `.parquet`, `.csv` or `.jsonl` file; see `Predictions.save`.

    Raises:
        InputError: The suffix is none of the three, or a name is not valid Unicode.
    """
    one = predictions
    names = np.array((*one.classes, None), dtype=object)  # -1 picks the None
    columns: dict[str, Any] = {} if one.ids is None else {"id": list(one.ids)}
    if one.labels is not None:
        columns["label"] = names[one.labels].tolist()
    columns["prediction"] = names[one.prediction].tolist()
    columns["confidence"] = one.confidence
    columns |= {f"prob_{name}": one.probs[:, k] for k, name in enumerate(one.classes)}
    present = [name for name in UNCERTAINTIES if getattr(one, name) is not None]
    columns |= {name: getattr(one, name) for name in present}
    columns |= {f"score_{name}": values for name, values in one.scores.items()}
    if one.sets is not None:
        columns |= {f"set_{name}": one.sets[:, k] for k, name in enumerate(one.classes)}
    columns |= {name: list(values) for name, values in one.columns.items()}
    fixed = {
        "format_version": str(FORMAT_VERSION),
        "name": one.name,
        "classes": json.dumps(one.classes, ensure_ascii=False),
    }
    write_table(path, columns, {**one.metadata, **fixed})
