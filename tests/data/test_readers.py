"""Data in memory, and the choice between your own data and a known task."""

import numpy as np
import pytest
import torch

from bayeslora.data.columns import DataColumns
from bayeslora.data.read import read
from bayeslora.errors import InputError


class FakeDataset:
    """Implements the used parts of `datasets.Dataset`."""

    def __init__(self, columns):
        self.columns_by_name = columns
        self.column_names = list(columns)

    def __len__(self):
        return len(next(iter(self.columns_by_name.values())))

    def __getitem__(self, name):
        return self.columns_by_name[name]


class FakeFrame:
    """Implements the used parts of a data frame; a column is an array."""

    def __init__(self, columns):
        self.arrays = {name: np.array(values) for name, values in columns.items()}
        self.columns = np.array(list(columns))

    def __len__(self):
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, name):
        return self.arrays[name]


class FakeArrowTable(FakeDataset):
    """Columns return their values by `to_pylist`."""

    class Chunked(list):
        def __iter__(self):
            raise AssertionError("scalars of Arrow, not plain values")

        def to_pylist(self):
            return self[:]

    def __getitem__(self, name):
        return self.Chunked(self.columns_by_name[name])


def message(data=None, **options):
    with pytest.raises(InputError) as caught:
        read(data, **options)
    return str(caught.value)


@pytest.mark.parametrize("kind", [FakeDataset, FakeFrame, FakeArrowTable])
def test_objects_with_columns(kind):
    data = kind({"sentence": ["one", "two"], "label": [1, 0], "noise": [[1], [2]]})
    examples = read(data, columns=DataColumns("sentence"))
    assert examples.texts == ("one", "two")
    assert examples.labels == (1, 0)
    assert all(type(label) is int for label in examples.labels)
    assert examples.rows == (1, 2)
    assert examples.source == f"<{kind.__name__}>"
    text = message(data)
    assert f"<{kind.__name__}> has no column 'text'" in text
    assert "'sentence', 'label', 'noise'" in text


def test_a_list_of_mappings():
    examples = read([{"text": "one", "label": "a"}, {"text": "two", 3: "ignored"}])
    assert examples.texts == ("one", "two")
    assert examples.labels == ("a", None)
    assert examples.source == "<list>"
    assert "<list> is empty" in message([])
    assert "<list>, row 1: expected an object" in message([7])
    assert "got 7" in message([7])


@pytest.mark.parametrize("labels", [[1, 0], np.array([1, 0]), torch.tensor([1, 0]), (1, 0)])
def test_a_pair_of_texts_and_labels(labels):
    examples = read((["one", "two"], labels), columns=DataColumns("body", "y"))
    assert examples.texts == ("one", "two")
    assert examples.labels == (1, 0)
    assert examples.label_column == "y"
    assert examples.source == "<texts, labels>"


def test_texts_without_labels():
    assert read((["one", "two"], None)).labels == (None, None)


def test_bad_pairs():
    assert "2 texts but 1 label;" in message((["one", "two"], ["a"]))
    assert "<texts, labels> is empty" in message(([], []))
    assert "row 2, column 'text': 5 is not a string" in message((["one", 5], None))
    assert "expected a list of values, got 3" in message((["one"], 3))
    assert "expected a list of values, got 'a'" in message((["one"], "a"))


@pytest.mark.parametrize("data", [None, 3, b"path", {"text": ["x"]}, {"a text"}])
def test_other_objects_are_refused(data):
    text = message(data)
    assert "data must be the path of a file" in text
    assert "(texts, labels)" in text


@pytest.mark.parametrize("kind", [FakeDataset, FakeFrame, FakeArrowTable])
def test_further_columns_are_kept_as_texts(kind):
    data = kind({"text": ["a b", "c"], "label": ["x", "y"], "n": [1.5, float("nan")]})
    assert read(data, keep=["n", "text"]).further == {"n": ("1.5", None), "text": ("a b", "c")}
    assert read(data).further == {}


def test_a_further_column_that_is_not_there_is_named():
    text = message([{"text": "a", "source": "b"}], keep=["sauce"])
    for part in ("'sauce'", "'source'", "--keep"):
        assert part in text
    text = message(read((["one"], None)), keep=["sauce"])
    assert "unknown column to keep 'sauce'; choose from 'text'" in text
