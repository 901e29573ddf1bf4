"""Strings: texts versus file names."""

import pytest
from refusal import refused

from bayeslora.data.read import as_texts

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
