"""Data in memory, and the choice between your own data and a known task."""

import numpy as np
import pytest
import torch

from bayeslora.data.read import load_examples
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
        load_examples(data, **options)
    return str(caught.value)


@pytest.mark.parametrize("kind", [FakeDataset, FakeFrame, FakeArrowTable])
def test_objects_with_columns(kind):
    data = kind({"sentence": ["one", "two"], "label": [1, 0], "noise": [[1], [2]]})
    examples = load_examples(data, text_column="sentence")
    assert examples.texts == ("one", "two")
    assert examples.labels == (1, 0)
    assert all(type(label) is int for label in examples.labels)
    assert examples.rows == (1, 2)
    assert examples.source == f"<{kind.__name__}>"
    text = message(data)
    assert f"<{kind.__name__}> has no column 'text'" in text
    assert "'sentence', 'label', 'noise'" in text


def test_an_empty_data_set_and_one_with_several_splits():
    assert "<FakeDataset> is empty" in message(FakeDataset({"text": []}))
    splits = FakeDataset({"text": ["x"]})
    splits.column_names = {"train": ["text"], "test": ["text"]}
    text = message(splits)
    assert "several splits ('train', 'test')" in text
    assert "data['train']" in text


def test_a_list_of_mappings():
    examples = load_examples([{"text": "one", "label": "a"}, {"text": "two", 3: "ignored"}])
    assert examples.texts == ("one", "two")
    assert examples.labels == ("a", None)
    assert examples.source == "<list>"
    assert "<list> is empty" in message([])
    assert "<list>, row 1: expected an object" in message([7])
    assert "got 7" in message([7])


@pytest.mark.parametrize("labels", [[1, 0], np.array([1, 0]), torch.tensor([1, 0]), (1, 0)])
def test_a_pair_of_texts_and_labels(labels):
    examples = load_examples((["one", "two"], labels), text_column="body", label_column="y")
    assert examples.texts == ("one", "two")
    assert examples.labels == (1, 0)
    assert examples.label_column == "y"
    assert examples.source == "<texts, labels>"


def test_texts_without_labels():
    assert load_examples((["one", "two"], None)).labels == (None, None)


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


def test_the_task_of_own_data_may_be_spelled_out():
    assert len(load_examples([{"text": "x"}], task="text-classification")) == 1


def test_a_known_task_by_name(tmp_path, monkeypatch):
    folder = tmp_path / "sst2_sentences"
    folder.mkdir()
    (folder / "classes.json").write_text('["negative", "positive"]')
    (folder / "test.jsonl").write_text('{"id": "t0", "question": "good", "label": "positive"}\n')
    options = {"task": "sst2_sentences", "data_dir": tmp_path}
    assert load_examples("test", **options).texts == ("good",)
    assert load_examples(split="test", **options).labels == ("positive",)
    monkeypatch.setenv("BAYESLORA_DATA", str(tmp_path))
    assert load_examples("test", task="sst2_sentences").ids == ("t0",)


def test_bad_tasks():
    text = message("test", task="clinc15")
    assert "unknown task 'clinc15'" in text
    assert "'clinc150'" in text
    for data, split in [(None, None), ("train", "test"), ([{"text": "x"}], None)]:
        text = message(data, split=split, task="sst2_sentences")
        assert "(train, validation, test)" in text
    assert "split='test' requires a known task" in message([{"text": "x"}], split="test")


@pytest.mark.parametrize("kind", [FakeDataset, FakeFrame, FakeArrowTable])
def test_further_columns_are_kept_as_texts(kind):
    data = kind({"text": ["a b", "c"], "label": ["x", "y"], "n": [1.5, float("nan")]})
    assert load_examples(data, keep=["n", "text"]).further == {
        "n": ("1.5", None),
        "text": ("a b", "c"),
    }
    assert load_examples(data).further == {}


def test_further_columns_follow_their_rows():
    rows = [{"text": f"t{k}", "from": ["s", k]} for k in range(3)]
    taken = load_examples(rows, keep=["from"]).take([2, 0])
    assert taken.further == {"from": ('["s", 2]', '["s", 0]')}


def test_a_further_column_that_is_not_there_is_named():
    text = message([{"text": "a", "source": "b"}], keep=["sauce"])
    for part in ("'sauce'", "did you mean 'source'", "--keep"):
        assert part in text
    text = message("test", task="newsgroups", keep=["sauce"])
    assert "unknown column to keep 'sauce'; choose from 'text'" in text
