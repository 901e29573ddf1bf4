"""The fixed rows of an experiment: disjoint, balanced, the same every time."""

import json
import random

import pytest
from refusal import refused

from bayeslora.data.newsgroups import DISTRIBUTION
from benchmarks.lib import task_rows
from benchmarks.lib.experiment_data import FAR, NEAR

SIZES = {"num_train": 12, "num_validation": 6, "num_test": 8, "num_ood": 4}


def records(count, classes, seed, word):
    chance = random.Random(seed)
    return [
        {
            "id": f"{seed}-{n}",
            "question": f"{word} {chance.random()}",
            "label": classes[n % len(classes)],
        }
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Write two tasks with training rows that repeat and that occur in the test set."""
    folder = tmp_path_factory.mktemp("data")
    for place, (name, classes) in enumerate(
        (("sst2_sentences", ["negative", "positive"]), ("ag_news_10k", ["sport", "world"]))
    ):
        test = records(20, classes, 10 + place, name)
        train = records(40, classes, 20 + place, name)
        train += [{**train[0], "id": "repeated"}, *({**row, "id": "leak"} for row in test[:1])]
        path = folder / name
        path.mkdir()
        for split, rows in (("train", train), ("test", test)):
            path.joinpath(f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        path.joinpath("classes.json").write_text(json.dumps(classes))
    return folder


@pytest.mark.parametrize("task", ["sst2_sentences", "ag_news_10k"])
def test_known_tasks(data_dir, task):
    data = task_rows.load_experiment(task, data_dir=data_dir, **SIZES)
    splits = (data.train, data.validation, data.test)
    assert [len(split) for split in splits] == [12, 6, 8]
    for split in splits:
        assert set(split.labels) == set(data.classes)
    texts = [text for split in splits for text in split.texts]
    assert len(set(texts)) == len(texts)
    assert list(data.ood) == list(data.about) == [FAR]
    # The other task's texts serve as out-of-distribution rows.
    other = "ag_news_10k" if task == "sst2_sentences" else "sst2_sentences"
    assert len(data.ood[FAR]) == 4
    assert all(text.startswith(other) for text in data.ood[FAR].texts)


def test_the_rows_are_the_same_every_time(data_dir):
    first, second = (
        task_rows.load_experiment("ag_news_10k", data_dir=data_dir, **SIZES) for _ in range(2)
    )
    assert first == second


def test_unknown_tasks_and_missing_files_are_named(tmp_path):
    with refused("unknown", "'newsgrups'", "'newsgroups'"):
        task_rows.load_experiment("newsgrups")
    with refused("input", "sst2_sentences"):
        task_rows.load_experiment("sst2_sentences", data_dir=tmp_path)


def installed():
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return distribution(DISTRIBUTION)
    except PackageNotFoundError:
        return None


@pytest.mark.assets
@pytest.mark.skipif(installed() is None, reason="the newsgroups' package is missing")
def test_newsgroups():
    data = task_rows.load_experiment(
        task_rows.TASKS[0], num_train=16, num_validation=8, num_test=8, num_ood=8
    )
    assert [len(item) for item in (data.train, data.validation, data.test)] == [16, 8, 8]
    assert len(data.classes) == 8
    assert list(data.ood) == [NEAR, FAR]
    assert [len(item) for item in data.ood.values()] == [8, 8]
    assert not set(data.ood[NEAR].labels) & set(data.classes)
