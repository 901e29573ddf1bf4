"""Rows of the study, and baselines without a model: popularity and co-occurrence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from bayeslora.data.examples import LETTERS, Examples
from bayeslora.data.movielens import liked_films, load_movielens

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Items:
    """The films of all rows by index, and which training users liked them.

    Attributes:
        names: Names of the M films.
        liked: [U, M]: 1 if a user liked a film before the rows to score, else 0.
    """

    names: tuple[str, ...]
    liked: Array

    @classmethod
    def before(cls, last: int) -> Items:
        """Return the films and likes, without the likes of the `last` films of each user."""
        users = [films[:-last] for films in liked_films().values()]
        names = sorted({film for films in liked_films().values() for film in films})
        places = {name: place for place, name in enumerate(names)}
        liked = np.zeros((len(users), len(names)))
        for row, films in enumerate(users):
            liked[row, [places[film] for film in films]] = 1
        return cls(tuple(names), liked)

    def numbers(self, lists: Sequence[Sequence[str]]) -> NDArray[np.int64]:
        """Return the indices [N, L] of N lists of L films."""
        places = {name: place for place, name in enumerate(self.names)}
        flat = [places[film] for film in chain.from_iterable(lists)]
        return np.array(flat, dtype=np.int64).reshape(len(lists), -1)

    def popularity(self, rows: Examples) -> Array:
        """Return the number of users who liked each candidate, [N, C]."""
        counts: Array = self.liked.sum(0)[self.numbers(rows.choices or ())]
        return counts

    def co_occurrence(self, rows: Examples) -> Array:
        """Return how often candidates co-occur with the films of the history, [N, C].

        The sum over the history of C_ij / √((n_i + 5)(n_j + 5)), with C_ij users who liked both.
        """
        counts = self.liked.sum(0)
        similar = self.liked.T @ self.liked / np.sqrt(np.outer(counts + 5, counts + 5))
        np.fill_diagonal(similar, 0)
        history, choices = self.numbers(rows.history or ()), self.numbers(rows.choices or ())
        scores: Array = similar[history[:, :, None], choices[:, None, :]].sum(1)
        return scores


def truth(rows: Examples) -> NDArray[np.int64]:
    """Return the index of each row's right candidate, [N]."""
    return np.array([LETTERS.index(str(label)) for label in rows.labels])


def hit_rate(scores: Array, rows: Examples) -> float:
    """Return HR@1 of scores [N, C]; ties are resolved to the first candidate."""
    return float((scores.argmax(1) == truth(rows)).mean())


def windows(count: int, seed: int) -> Examples:
    """Return `count` training rows, drawn without replacement."""
    rows = load_movielens("train")
    return rows.take(np.random.default_rng(seed).permutation(len(rows))[:count])
