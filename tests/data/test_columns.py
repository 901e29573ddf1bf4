"""Values: accepted texts, labels and ids, and the messages for the others."""

import decimal
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusal import refused

from bayeslora.data.columns import DataColumns
from bayeslora.data.read import read
from bayeslora.errors import InputError
from tests.data.test_formats import write


def message(data, **options):
    with pytest.raises(InputError) as caught:
        read(data, **options)
    text = str(caught.value)
    assert text.count("\n") <= 1
    return text


def rows(*records):
    return [{"text": "fine", "label": "a"}, *records]


def csv_file(tmp_path, text):
    path = tmp_path / "data.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (None, "missing or empty"),
        ("", "the text '' is blank"),
        (" \t\n", "is blank"),
        (7, "7 is not a string"),
        (float("nan"), "nan is not a string"),
        (b"bytes", "b'bytes' is not a string"),
        (["x"], "['x'] is not a string"),
        ("half \ud83d", "surrogate"),
    ],
)
def test_bad_texts(value, part):
    text = message(rows({"text": value, "label": "b"}))
    for piece in ("<list>, row 2, column 'text'", part):
        assert piece in text


def test_bad_texts_in_files_are_named_by_line(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "x"}\n\n{"text": 12}\n')
    assert f"{path}, row 3, column 'text': 12 is not a string" in message(path)
    path = csv_file(tmp_path, 'text,label\n"two\nlines",a\n,b\n')
    assert f"{path}, row 4, column 'text': the text is missing or empty" in message(path)
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"text": [1.5, 2.5]}), path)
    assert f"{path}, row 1, column 'text': 1.5 is not a string" in message(path)


def test_the_second_text_is_checked_too():
    data = [{"text": "x", "other": "y"}, {"text": "x", "other": None}]
    assert "row 2, column 'other'" in message(data, columns=DataColumns(pair="other"))
    assert read(data[:1], columns=DataColumns(pair="other")).pairs == ("y",)
    assert read(data).pairs is None


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (
            {"columns": DataColumns("txet")},
            ["no column 'txet'", "'text', 'label'", "--text-column"],
        ),
        ({"columns": DataColumns(pair="second")}, ["no column 'second'", "--text-pair-column"]),
        (
            {"columns": DataColumns(label="labels"), "labels": "required"},
            ["no column 'labels'", "--label-column"],
        ),
    ],
)
def test_a_missing_column_lists_those_that_exist(options, parts):
    text = message(rows(), **options)
    for part in ["<list>", *parts]:
        assert part in text


def test_columns_that_are_named_make_texts_of_questions():
    record = {"id": "q1", "question": "which?", "choices": ["a", "b"], "answer_index": 1}
    examples = read([record], columns=DataColumns("question", "answer_index"))
    assert examples.labels == (1,)
    assert examples.choices is None


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 1.5, ["a"], {"a": 1}, decimal.Decimal(1)]
)
def test_bad_labels(value):
    text = message(rows({"text": "x", "label": value}))
    assert "<list>, row 2, column 'label'" in text
    assert repr(value) in text
    assert "a string or an integer" in text


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
@pytest.mark.parametrize("label", ["nan", "NaN", float("nan")])
def test_nan_is_a_missing_label_in_every_format(suffix, label, tmp_path):
    path, first = tmp_path / f"data.{suffix}", "a" if isinstance(label, str) else 1.0
    write(path, [{"text": "x", "label": first}, {"text": "y", "label": label}])
    for labels in ("optional", "required"):
        text = message(path, labels=labels)
        for part in (str(path), "row", "column 'label': the label is missing: "):
            assert part in text


@pytest.mark.parametrize("data", [[{"text": "x", "label": "nan"}], (["x"], np.array([np.nan]))])
def test_nan_is_a_missing_label_in_memory(data):
    assert "row 1, column 'label': the label is missing: " in message(data)


def test_whole_floats_and_numpy_integers_are_integers(tmp_path):
    data = [{"text": "x", "label": v} for v in (1.0, np.float32(2), np.int64(3), 2**70, None)]
    labels = read(data).labels
    assert labels == (1, 2, 3, 2**70, None)
    assert all(type(label) is int for label in labels[:4])
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"text": ["x", "y"], "label": pa.array([1.0, None])}), path)
    assert read(path).labels == (1, None)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "-2", "", "0"], (1, -2, None, 0)),
        (["1.0", "", "2.0"], (1, None, 2)),
        (["1", "two"], ("1", "two")),
        (["007", "7"], ("007", "7")),
        (["-0", "0"], ("-0", "0")),
        (["1.5", "1.0"], ("1.5", "1.0")),
        (["12345678901234567890"], (12345678901234567890,)),
        (["", ""], (None, None)),
    ],
)
def test_labels_in_csv(cells, expected, tmp_path):
    path = csv_file(tmp_path, "text,label\n" + "".join(f"x,{cell}\n" for cell in cells))
    assert read(path).labels == expected


def test_labels_are_optional_unless_required(tmp_path):
    assert read([{"text": "x"}]).labels == (None,)
    text = message(rows({"text": "x"}), labels="required")
    assert "row 2, column 'label': the label is missing" in text
    path = csv_file(tmp_path, "text,label\nx,a\ny,\n")
    assert f"{path}, row 3, column 'label': the label is missing" in message(
        path, labels="required"
    )


def test_ids_are_kept_and_default_to_the_row(tmp_path):
    assert read([{"id": "a", "text": "x"}, {"id": 7, "text": "y"}]).ids == ("a", "7")
    assert read([{"id": None, "text": "x"}]).ids == ("1",)
    path = tmp_path / "data.jsonl"
    path.write_text("\n" + json.dumps({"text": "x"}) + "\n")
    assert read(path).ids == ("2",)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("a", "'a' duplicates the id of row 1"),
        (None, "the id is None"),
        (True, "the id is True"),
        (2.5, "the id is 2.5"),
    ],
)
def test_bad_ids(value, part):
    text = message([{"id": "a", "text": "x"}, {"id": value, "text": "y"}])
    assert "<list>, row 2, column 'id'" in text
    assert part in text


def test_several_columns_make_one_text_by_a_template(tmp_path):
    path = csv_file(tmp_path, "subject,body,label\nHelp,It broke,a\nHello,,b\n")
    both = DataColumns(r"{subject}\n{body}")
    assert read(path, both).texts == ("Help\nIt broke", "Hello\n")
    records = [{"subject": "{body}", "body": 7, "label": "a"}]
    assert read(records, both).texts == ("{body}\n7",)
    records = [{"subject": "half \ud83d", "body": "x"}]
    assert "row 1" in message(records, columns=both)
    # Texts that are passed as a list are already whole.
    assert read(["as it is"], both).texts == ("as it is",)


def test_a_template_names_columns_that_exist_and_leaves_no_blank_text(tmp_path):
    path = csv_file(tmp_path, "subject,body,label\n,,a\nHelp,now,b\n")
    with refused("unknown"):
        read(path, DataColumns("{subject} {text}"))
    assert "row 2" in message(path, columns=DataColumns("{subject} {body}"))
    with refused("input"):
        DataColumns("{label}: {body}")
