"""Streamed examples: the same as loading all at once, after a pass that stores none."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusal import refused

from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import joined
from bayeslora.data.formats import Reading
from bayeslora.data.read import read, stream, stream_of

COLUMNS = DataColumns()


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def rows(n, **more):
    return [{"id": f"r{k}", "text": f"text {k}", "label": "ab"[k % 2], **more} for k in range(n)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "one-line.json", "a.csv", "a.parquet"])
@pytest.mark.parametrize("with_ids", [True, False])
def test_the_pieces_are_the_whole(tmp_path, name, with_ids):
    records = rows(11, source="s")
    if not with_ids:
        records = [{**record, "id": None} for record in records]
    path = tmp_path / name
    if name == "a.jsonl":
        lines(path, records)
    elif name == "a.json":
        path.write_text(json.dumps(records, indent=1))
    elif name == "one-line.json":
        path.write_text(json.dumps(records))
    elif name == "a.csv":
        cells = ((record["id"] or "", record["text"], record["label"], "s") for record in records)
        path.write_text("id,text,label,source\n" + "".join(",".join(c) + "\n" for c in cells))
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    whole = read(path, keep=["source"])
    streamed = stream(path, COLUMNS, keep=["source"])
    for size in (1, 4, 11, 100):
        pieces = list(streamed.pieces(size))
        assert joined(pieces) == whole
        assert max(map(len, pieces)) <= size
    in_memory = stream_of(whole)
    assert (in_memory.num_rows, in_memory.numbered) == (streamed.num_rows, streamed.numbered)
    assert joined(list(in_memory.pieces(4))) == whole
    assert streamed.num_rows == len(whole) == 11
    assert len(set(whole.ids)) == 11


@pytest.mark.parametrize(
    ("labels", "numbered"),
    [
        *((["0", "1", ""], True), (["1.0", "0"], True), (["007", "1"], True), ([""], True)),
        *((["-1", "1"], False), (["1.0", "a"], False), (["1", "a"], False), (["1.0", "07"], False)),
    ],
)
def test_whether_labels_are_numbers_is_known_of_the_whole(tmp_path, labels, numbered):
    """The piece they are in does not matter, and examples in memory agree."""
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"x,{label}\n" * 5000 for label in labels))
    streamed = stream(path, COLUMNS)
    assert streamed.numbered == numbered
    assert stream_of(joined(list(streamed.pieces(1000)))).numbered == numbered


@pytest.mark.parametrize("place", [1, 4999, 9000])
def test_an_id_that_appears_twice_is_found_wherever_it_is(tmp_path, place):
    records = rows(9001)
    records[place]["id"] = "r0"
    path = lines(tmp_path / "a.jsonl", records)
    for reader in (read, lambda path: stream(path, COLUMNS)):
        with refused("input", f"row {place + 1}", "'id'", "'r0'", "row 1"):
            reader(path)


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_rows_without_a_text_are_left_out_where_that_is_asked_for(tmp_path, blank, caplog):
    records = [{"text": blank, "label": "a"}, *rows(3), {"text": blank}, {"id": "z", "text": "z"}]
    path = lines(
        tmp_path / "a.jsonl", [{"id": str(k), **record} for k, record in enumerate(records)]
    )
    examples = read(path, reading=Reading(blank="skip"))
    assert examples.rows == (2, 3, 4, 6)
    assert "2 of 6" in caplog.text
    assert joined(list(stream(path, COLUMNS, reading=Reading(blank="skip")).pieces(2))) == examples
    with refused("input", "row 1, column 'text'"):
        read(path)
    with refused("input", "blank"):
        read([{"text": blank}], reading=Reading(blank="skip"))
    with refused("input", "row 1, column 'text'"):
        read([{"text": 3}], reading=Reading(blank="skip"))
