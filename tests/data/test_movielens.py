"""MovieLens-100K as questions, from small files of the same layout and, if present, real files."""

import hashlib
from importlib.metadata import PackageNotFoundError, distribution

import pytest

from bayeslora.data import known, newsgroups
from bayeslora.data.known import liked_films, load_movielens
from tests.data.test_newsgroups import FakeDistribution

FILMS = 60


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Create users 1 to 12, who rate films 1 to 14 in turn; user 2 likes only eleven of them."""
    folder = tmp_path / "recbole/dataset_example/ml-100k"
    folder.mkdir(parents=True)
    # Film 14 duplicates film 1 under another number.
    titles = {n: (f"Film {n}", 1900 + n) for n in range(1, FILMS + 1)} | {14: ("Film 1", 1901)}
    ratings = []
    for user in range(1, 13):
        ratings += [
            (user, film, 5 if user != 2 or film < 12 else 3, 1000 - film // 2)
            for film in range(14, 0, -1)
        ]
        # Films with enough ratings that users 1 to 12 did not rate.
        ratings += [(user + 100, film, 2, 5) for film in range(15, FILMS + 1)]
    ratings += [(200, film, 5, film) for film in range(15, 39)]
    ratings += [(201, film, 5, film) for film in range(39, FILMS + 1)]
    content = {
        "ml-100k.item": [f"{n}\t{title}\t{year}\tDrama" for n, (title, year) in titles.items()],
        "ml-100k.inter": ["\t".join(map(str, rating)) for rating in ratings],
    }
    monkeypatch.setattr(known, "_SHA256", {})
    for name, rows in content.items():
        (folder / name).write_text("header\n" + "\n".join(rows) + "\n")
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        known._SHA256[name] = digest
    monkeypatch.setattr(newsgroups, "distribution", lambda name: FakeDistribution(tmp_path))
    liked_films.cache_clear()
    yield folder
    liked_films.cache_clear()


def test_liked_films_are_in_order_of_time_and_ties_in_that_of_the_file(folder):
    films = liked_films()["1"]
    assert films[:3] == ("Film 1 (1901)", "Film 13 (1913)", "Film 12 (1912)")
    assert "2" not in liked_films()


def test_the_last_film_is_the_test_and_the_one_before_it_the_validation(folder):
    for split, place in (("test", -1), ("validation", -2)):
        rows = load_movielens(split)
        for name, choices, label, history in zip(
            rows.ids, rows.choices, rows.labels, rows.history, strict=True
        ):
            user = liked_films()[name[1:].partition("-")[0]]
            assert choices["ABCDEFGHIJKLMNOPQRST".index(label)] == user[place]
            assert len(set(choices)) == 20
            assert len(history) == 10
            assert {*user}.isdisjoint({*choices} - {user[place]})
    train = load_movielens("train")
    assert len(train) == sum(max(0, len(user) - 12) for user in liked_films().values())


def test_the_real_files_have_the_known_counts():
    try:
        distribution("recbole")
    except PackageNotFoundError:
        pytest.skip("recbole is not installed")
    liked_films.cache_clear()
    assert len(liked_films()) == 847
    assert {split: len(load_movielens(split)) for split in ("train", "validation", "test")} == {
        "train": 43575,
        "validation": 847,
        "test": 847,
    }
