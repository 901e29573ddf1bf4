"""Files: round trips, correct line numbers, and clear errors for broken files."""

import contextlib
import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused

from bayeslora.data.columns import DataColumns
from bayeslora.data.formats import open_table
from bayeslora.data.read import read
from bayeslora.errors import InputError

CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(CHARACTERS, min_size=1).filter(str.strip)


def write(path, records):
    """Write records in the format of the extension."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    elif path.suffix == ".json":
        text = json.dumps(records, ensure_ascii=False, indent=1)
        path.write_text(text, encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as stream:
            names = list(records[0])
            writer = csv.DictWriter(stream, names, delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(records)


def texts(path):
    return [record["text"] for _, record in whole(path)]


def lines(path):
    return [line for line, _ in whole(path)]


def whole(path, columns=("text",)):
    """Return all rows of a file."""
    return list(open_table(path).rows(columns))


def records_of(label):
    """Return records with labels of a single type, as Parquet columns need."""
    row = st.fixed_dictionaries({"text": TEXTS, "label": label, "second": TEXTS})
    return st.lists(row, min_size=1, max_size=5)


STRINGS = st.one_of(st.none(), TEXTS.map(lambda text: f"c{text}"))
INTEGERS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
RECORDS = st.one_of(records_of(STRINGS), records_of(INTEGERS))


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
@given(records=RECORDS)
def test_what_was_written_is_read_back(suffix, records, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"round-trip{suffix}"
    write(path, records)
    examples = read(path, columns=DataColumns(pair="second"))
    assert list(examples.texts) == [record["text"] for record in records]
    assert list(examples.pairs) == [record["second"] for record in records]
    assert list(examples.labels) == [record["label"] for record in records]
    assert examples.ids == tuple(map(str, examples.rows))
    assert examples.source == str(path)


def test_csv_text_with_quotes_commas_and_line_breaks(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text('text,label\n"a ""b"", c\nd",x\n\nplain é,y\n', encoding="utf-8-sig")
    assert texts(path) == ['a "b", c\nd', "plain é"]
    assert lines(path) == [2, 5]  # header in line 1, a record in lines 2 and 3, line 4 is blank


def test_json_lines_keep_their_line_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\r\n{"text": "two\xe2\x80\xa8"}')
    assert texts(path) == ["one", "two\u2028"]
    assert lines(path) == [1, 3]


def test_parquet_reads_only_what_is_wanted(tmp_path):
    path = tmp_path / "a.parquet"
    write(path, [{"text": "one", "blob": [1, 2], "label": "x"}])
    assert whole(path, ("text", "absent")) == [(1, {"text": "one"})]
    assert open_table(path).names == ("text", "blob", "label")


BROKEN = [
    ("a.jsonl", b"", ["is empty"]),
    ("a.jsonl", b" \n \n", ["is empty"]),
    ("a.csv", b"", ["is empty"]),
    ("a.parquet", b"", ["is empty"]),
    ("a.json", b"[ ]", ["is empty"]),
    ("a.csv", b"text,label\n", ["is empty"]),
    ("a.txt", b"x", [".jsonl", ".parquet"]),
    ("noname", b"x", [".csv"]),
    ("a.jsonl", b'{"text": "x"}\n{"text": caf\xe9}\n', ["row 2", "0xe9", "UTF-8"]),
    ("a.csv", b"text\ncaf\xe9\n", ["row 2", "0xe9", "UTF-8"]),
    ("a.jsonl", b'{"text": "x"}\n\n{"text": \n', ["row 3", "invalid JSON", "one object per line"]),
    ("a.jsonl", b'{"text": "x"}\n["x", 1]\n', ["row 2", "expected an object", "['x', 1]"]),
    ("a.jsonl", b"[" * 100_000, ["row 1", "invalid JSON", "recursion depth"]),
    ("a.jsonl", b'{"text": ' + b"1" * 5000 + b"}", ["row 1", "invalid JSON"]),
    ("a.json", b'[{"text": "x"},\n{"text" "y"}]', ["row 2", "invalid JSON"]),
    ("a.json", b'[{"text": "x"}\n{"text": "y"}]', ["row 2", "',' delimiter"]),
    ("a.json", b'[{"text": "x"}', ["row 1", "',' delimiter"]),
    ("a.json", b'[{"text": "x"},\n]', ["row 2", "invalid JSON"]),
    ("a.json", b'[{"text": "x"}] more', ["Extra data"]),
    ("a.json", b'[{"text": "x"},\n3]', ["row 2", "expected an object", "got 3"]),
    ("a.json", b'{"data": [\n1]}', ["row 1", "invalid JSON", "one object per line"]),
    (
        "a.csv",
        b"text,label\nx,1\na,b,c\n",
        ["row 3", "3 fields", "header has 2 ('text', 'label')", "','"],
    ),
    ("a.tsv", b"text\tlabel\nx\n", ["row 2", "1 fields", "header has 2", "'\\t'"]),
    ("a.csv", b'text,label\nx,1\n"open,2\nmore,3\n', ["row 3", "quotation mark"]),
    ("a.csv", b'text,label\n"x" y,1\n', ["row 2", "quotation mark"]),
    ("a.csv", b"text,text\nx,y\n", ["duplicate column 'text'"]),
    ("a.parquet", b"PAR1 but not really", ["cannot be read as Parquet"]),
]


@pytest.mark.parametrize(("name", "content", "parts"), BROKEN)
def test_broken_files_are_explained(name, content, parts, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path)
    for part in [str(path), *parts]:
        assert part in str(caught.value)
    assert str(caught.value).count("\n") <= 1


def test_missing_files_and_directories(tmp_path):
    with refused("input", "nothing.csv"):
        read(tmp_path / "nothing.csv")
    with refused("input", "directory", ".jsonl", ".csv"):
        read(str(tmp_path))


def test_parquet_with_a_string_that_is_not_utf8(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["intact", "damaged"]}), path, compression="none")
    path.write_bytes(path.read_bytes().replace(b"damaged", b"d\xffmaged"))
    with refused("input", "a.parquet", "UTF8"):
        read(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
@given(data=st.data())
def test_damaged_files_never_give_another_error(suffix, data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    write(path, [{"text": 'a "b"', "label": "x"}, {"text": "c\nd", "label": "y"}])
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, len(content)))
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=8)) + content[end:])
    with contextlib.suppress(InputError):
        assert all(text.strip() for text in read(path).texts)


@pytest.mark.parametrize("value", ['"\\ud800"', '{"k": ["\\ud800"]}', '{"\\ud800": 1}'])
def test_half_a_surrogate_pair_in_a_column_is_refused(value, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"text": "a", "extra": {value}}}\n')
    with refused("input", "row 1"):
        read(path, keep=["extra"])
