"""Strings: texts versus file names."""

import numpy as np
import pytest
from refusal import refused

from bayeslora.data.read import as_texts, read

TEXTS = (
    "A lovely film.",
    "terrible",
    "Stop.",
    "1/2 of it was good",
    "a" * 5000,
    "",
    "see www.example.com for more",
    "null \0 byte",
    "end of it.Really",  # not a separate word
)
MISSING = (
    "test.jsonl",
    "my data.csv",
    "rows.CSV",
    "rows.tsv.gz",
    "data/test",
    "notes.txt",
    "table.xlsx",
    " test.parquet ",
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_a_list_of_one(text):
    assert as_texts(text) == [text]


@pytest.mark.parametrize("name", MISSING)
def test_the_name_of_a_missing_file_is_an_error_that_shows_it(name):
    with refused("input", name.strip()):
        as_texts(name)
    assert as_texts([name]) == [name]


def test_an_existing_file_is_a_file_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some words").write_text("", encoding="utf-8")
    assert as_texts("some words") == "some words"


@pytest.mark.parametrize(
    "texts", [["one", "two"], ("one", "two"), np.array(["one", "two"])], ids=["list", "tuple", "np"]
)
def test_texts_alone_are_unlabelled_examples(texts):
    examples = read(texts)
    assert examples.texts == ("one", "two")
    assert examples.labels == (None, None)
    assert examples.ids == read((["one", "two"], None)).ids


@pytest.mark.parametrize("texts", [["one", 2], ["one", " "], ["one", {"text": "two"}]])
def test_other_things_among_texts_are_refused_with_their_row(texts):
    with refused("input", "row 2"):
        read(texts)
