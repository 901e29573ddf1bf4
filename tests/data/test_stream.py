"""Streamed examples: the same as loading all at once, after a pass that stores none."""

import json
import random
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusal import refused

from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import joined
from bayeslora.data.formats import Reading
from bayeslora.data.read import read, stream

COLUMNS = DataColumns()


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def rows(n, **more):
    return [{"id": f"r{k}", "text": f"text {k}", "label": "ab"[k % 2], **more} for k in range(n)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "one-line.json", "a.csv", "a.parquet"])
@pytest.mark.parametrize("with_ids", [True, False])
def test_the_pieces_are_the_whole(tmp_path, name, with_ids, monkeypatch):
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
    assert len(set(whole.ids)) == 11
    streamed = stream(path, COLUMNS, keep=["source"])
    for size in (1, 4, 11, 100):
        monkeypatch.setattr("bayeslora.data.examples.PIECE", size)
        for rows_of in (streamed, whole):
            pieces = list(rows_of.pieces())
            assert joined(pieces) == whole
            assert {len(piece) for piece in pieces[:-1]} <= {size}
            assert len(pieces[-1]) <= size


def test_rows_that_share_a_line_are_named_by_their_number(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "x"}, {"text": "y"}, {"text": "z"}]))
    examples = read(path)
    assert examples.ids == ("1", "2", "3")
    assert examples.rows == (1, 2, 3)
    path.write_text('[{"text": "x"}, {"text": "y"}, {"text": 3}]')
    with refused("input", "row 3"):
        read(path)


def test_labels_from_text_are_integers_only_if_all_rows_say_so(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "x,1\n" * 5000 + "y,2\n")
    streamed = stream(path, COLUMNS)
    assert next(streamed.pieces()).labels[0] == 1
    path.write_text("text,label\n" + "x,1\n" * 5000 + "y,two\n")
    streamed = stream(path, COLUMNS)
    assert next(streamed.pieces()).labels[0] == "1"
    assert read(path).labels == ("1",) * 5000 + ("two",)


@pytest.mark.parametrize("place", [1, 4999, 9000])
def test_an_id_that_appears_twice_is_found_wherever_it_is(tmp_path, place):
    records = rows(9001)
    records[place]["id"] = "r0"
    path = lines(tmp_path / "a.jsonl", records)
    for reader in (read, lambda path: stream(path, COLUMNS)):
        with refused("input", f"row {place + 1}", "'id'", "'r0'", "row 1"):
            reader(path)


def test_the_pass_keeps_a_few_bytes_a_row(tmp_path):
    path = tmp_path / "a.csv"
    label = random.Random(0).choice

    def peak(n):
        with path.open("w") as out:
            out.write("id,text,label\n")
            out.writelines(f"row-{k},some words {k},{label('abc')}\n" for k in range(n))
        tracemalloc.start()
        stream(path, COLUMNS)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    small, large = peak(50_000), peak(80_000)  # more than one block of the file
    assert large - small < 30_000 * 40


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_rows_without_a_text_are_left_out_where_that_is_asked_for(tmp_path, blank, caplog):
    records = [{"text": blank, "label": "a"}, *rows(3), {"text": blank}, {"id": "z", "text": "z"}]
    path = lines(
        tmp_path / "a.jsonl", [{"id": str(k), **record} for k, record in enumerate(records)]
    )
    examples = read(path, reading=Reading(blank="skip"))
    assert examples.rows == (2, 3, 4, 6)
    assert "skipped 2 of 6 rows" in caplog.text
    assert joined(list(stream(path, COLUMNS, reading=Reading(blank="skip")).pieces())) == examples
    with refused("input", "row 1, column 'text'"):
        read(path)
    with refused("input", "blank"):
        read([{"text": blank}], reading=Reading(blank="skip"))
    with refused("input", "row 1, column 'text'"):
        read([{"text": 3}], reading=Reading(blank="skip"))


@pytest.mark.parametrize(
    "name",
    ["Label", "LABEL", "labels", " label", "Label ", "lable", "lables", "labl"],
)
def test_a_column_spelled_almost_like_the_labels_is_not_passed_over(tmp_path, name):
    path = lines(tmp_path / "a.jsonl", [{"text": "x", name: "a"}])
    with refused("input", "'label'"):
        read(path)
    assert read(path, columns=DataColumns(label=name)).labels == ("a",)
    both = lines(tmp_path / "b.jsonl", [{"text": "x", name: "a", "label": "b"}])
    assert read(both).labels == ("b",)


@pytest.mark.parametrize("name", ["label_source", "label2", "labeller", "level", "text_label"])
def test_a_column_of_another_name_is_not_taken_for_labels(name):
    assert read([{"text": "x", name: "a"}]).labels == (None,)
    assert read([{"text": "x", "x": "a"}], columns=DataColumns(label="y")).labels == (None,)


def test_labels_that_all_differ_are_not_kept(tmp_path):
    """Free text in place of a label, with `--unknown-labels ood`."""
    path = tmp_path / "a.jsonl"
    lines(path, [{"text": "x", "label": f"free text {n}"} for n in range(5000)])
    stream(path, COLUMNS)
    tracemalloc.start()
    streamed = stream(path, COLUMNS)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(map(len, streamed.pieces())) == 5000
    assert size < 200_000, "bytes"
