"""Predictions of the rows of several tasks: each row's among the classes of its own task.

What a row's logits of other tasks' classes are plays no part: probabilities, their uncertainty and
all scores are those of a classifier of its task alone, and other classes have probability 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bayeslora.engine.predict import Answer, to_predictions
from bayeslora.posteriors.per_task import restricted
from bayeslora.predictions.record import Predictions
from bayeslora.tasks.union import task_of


def of_tasks(
    answers: Iterable[Answer],
    classes: Sequence[str],
    tasks: Mapping[str, int],
    task_of_row: NDArray[np.int64],
    *,
    how: Mapping[str, Any],
    about: Mapping[str, Any],
) -> Predictions:
    """Return the predictions of rows of several tasks, in their order.

    Args:
        answers: N rows, in one piece or several, with logits of all classes.
        classes: Names of all classes.
        tasks: How many of them each task has, in their order.
        task_of_row: [N], the number of each row's task.
        how: Options of `to_predictions`.
        about: `labels`, `ids`, `columns` and `name` of the predictions.
    """
    known = [*answers]
    ends = np.cumsum([0, *tasks.values()])
    places, parts = [], []
    for task in range(len(tasks)):
        rows = np.flatnonzero(task_of_row == task)
        if not len(rows):
            continue
        own = slice(int(ends[task]), int(ends[task + 1]))
        found = to_predictions(_of_rows(known, rows, own), classes[own], **how)
        places.append(rows)
        parts.append((own, found))
    order = np.argsort(np.concatenate(places), kind="stable")
    first = parts[0][1]

    def joined(name: str) -> Any:
        values = [getattr(part, name) for _, part in parts]
        return None if values[0] is None else np.concatenate(values)[order]

    probs = np.zeros((len(task_of_row), len(classes)))
    for rows, (own, part) in zip(places, parts, strict=True):
        probs[rows, own] = part.probs
    return Predictions(
        probs=probs,
        classes=tuple(classes),
        available=task_of_row[:, None] == task_of(tasks),
        scores={
            name: np.concatenate([part.scores[name] for _, part in parts])[order]
            for name in first.scores
        },
        metadata=first.metadata,
        **{name: joined(name) for name in ("total", "aleatoric", "epistemic")},
        **about,
    )


def _of_rows(
    answers: Sequence[Answer], rows: NDArray[np.int64], classes: slice
) -> Iterator[Answer]:
    """Yield the answers of some rows, which ascend, and of some classes."""
    start = 0
    for one in answers:
        count = len(one.logits.mean)
        inside = rows[(rows >= start) & (rows < start + count)] - start
        if len(inside):
            chosen = torch.from_numpy(inside).to(one.logits.mean.device)
            scores = {name: values[chosen] for name, values in one.scores.items()}
            yield Answer(restricted(one.logits, chosen, classes), scores)
        start += count
