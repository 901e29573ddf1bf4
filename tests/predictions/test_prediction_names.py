"""Seeds of one method are recognised from explicit information, and from nothing else."""

import numpy as np
import pytest

from bayeslora.predictions.collection import by_group, gather, group_seeds, seed_of
from bayeslora.predictions.record import Predictions


def made(name="lora", rows=3, classes=("a", "b"), **metadata):
    even = np.full((rows, len(classes)), 1 / len(classes))
    return Predictions(even, classes, name=name, metadata=metadata)


def test_stored_seeds_of_one_name_are_one_method_by_rising_seed():
    items = [made(fit_seed="10"), made("other"), made(fit_seed="2"), made(fit_seed="0")]
    first, second = group_seeds(items)
    assert (first.name, first.members, first.seeds) == ("lora", (3, 2, 0), ("0", "2", "10"))
    assert (second.name, second.members, second.seeds) == ("other", (1,), ("",))


@pytest.mark.parametrize(
    "others",
    [
        [made(fit_seed="0")],  # the same fit twice
        [made()],  # two methods may share a name
        [made(fit_seed="1", rows=4)],  # other rows
        [made(fit_seed="1", classes=("a", "c"))],  # another task
        [made("lora-2", fit_seed="1")],
        [made(fit_seed="1", fit_options="4f")],  # for example another rank
        [made(fit_seed="1", recalibration="temperature")],
        [made(fit_seed="1"), made(fit_seed="0")],
    ],
)
def test_what_may_be_something_else_stays_apart(others):
    groups = group_seeds([made(fit_seed="0"), *others])
    assert [group.members for group in groups] == [(k,) for k in range(1 + len(others))]


@pytest.mark.parametrize(
    ("path", "name", "expected"),
    [
        ("lora-seed-1.csv", None, ("lora", "1")),
        ("lora_seed12.csv", None, ("lora", "12")),
        ("runs/lora/seed-3/test.csv", None, ("test", "")),
        ("runs/lora-seed-3.csv", "polar", ("polar", "3")),
        ("reseed.csv", None, ("reseed", "")),
        ("lora-seed-1b.csv", None, ("lora-seed-1b", "")),
        ("test.csv", None, ("test", "")),
    ],
)
def test_the_name_of_a_file_says_the_seed_where_nothing_is_stored(path, name, expected):
    stem = path.rpartition("/")[2].partition(".")[0]
    assert seed_of(name or stem, {}, f"/data/{path}") == expected


def test_the_seed_of_the_fit_wins_over_the_file_and_the_file_over_the_seed_of_the_draws():
    path = "/data/lora-seed-3.parquet"
    assert seed_of("lora", {"fit_seed": "1", "seed": "0"}, path) == ("lora", "1")
    assert seed_of("lora", {"seed": "0"}, path) == ("lora", "3")
    assert seed_of("lora", {"seed": "0"}, "/data/test.parquet") == ("lora", "0")
    assert seed_of("lora", {"seed": "0"}) == ("lora", "0")


def test_gathered_methods_know_their_seed(tmp_path):
    for seed in (1, 0):
        made().save(tmp_path / f"lora-seed-{seed}.csv")
    made("plain").save(tmp_path / "plain.csv")
    files = [tmp_path / f"{name}.csv" for name in ("lora-seed-1", "plain", "lora-seed-0")]
    methods = gather(files)
    pairs = [(method.group, method.seed) for method in methods]
    assert pairs == [("lora", "1"), ("plain", ""), ("lora", "0")]
    groups = by_group(methods)
    assert list(groups) == ["lora", "plain"]
    assert [method.seed for method in groups["lora"]] == ["0", "1"]


def test_two_methods_of_one_name_with_several_seeds_are_called_by_their_directories(tmp_path):
    files = []
    for rank in ("r4", "r8"):
        for seed in "01":
            folder = tmp_path / rank / f"seed-{seed}"
            folder.mkdir(parents=True)
            files.append(folder / "test.parquet")
            made(fit_seed=seed, fit_options=rank).save(files[-1])
    methods = gather(files)
    assert list(by_group(methods)) == ["lora (r4)", "lora (r8)"]
    assert [method.label for method in methods] == [
        f"lora ({rank}, seed {seed})" for rank in ("r4", "r8") for seed in "01"
    ]
