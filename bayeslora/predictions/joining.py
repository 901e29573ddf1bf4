"""Predictions of consecutive rows as one record."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.predictions.files import UNCERTAINTIES
from bayeslora.predictions.record import Predictions


def joined(pieces: Sequence[Predictions]) -> Predictions:
    """Return the rows of all pieces in order, with the name and the metadata of the first.

    Args:
        pieces: One or more, of one classifier: the same classes, uncertainties, scores and columns,
            ids in all of them or in none. A piece without labels counts as unlabelled rows.

    Raises:
        InputError: An id is there twice.
    """
    first = pieces[0]
    if len(pieces) == 1:
        return first

    def column(name: str) -> Any:
        parts = [getattr(one, name) for one in pieces]
        return None if parts[0] is None else np.concatenate(parts)

    return first.replace(
        probs=column("probs"),
        labels=np.concatenate([_labels(one) for one in pieces]),
        ids=None if first.ids is None else tuple(chain(*(one.ids or () for one in pieces))),
        sets=column("sets"),
        scores={
            name: np.concatenate([one.scores[name] for one in pieces]) for name in first.scores
        },
        columns={
            name: np.concatenate([one.columns[name] for one in pieces]) for name in first.columns
        },
        **{name: column(name) for name in UNCERTAINTIES},
    )


def _labels(piece: Predictions) -> NDArray[np.int64]:
    return np.full(len(piece), -1) if piece.labels is None else piece.labels
