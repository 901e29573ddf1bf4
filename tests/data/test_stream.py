"""Streamed examples: the same as loading all at once, after a pass that stores none."""

import json

import pytest
from refusal import refused

from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import joined
from bayeslora.data.read import read, stream
from tests.data.test_formats import write

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
    if name == "one-line.json":
        path.write_text(json.dumps(records))
    else:
        write(path, records)
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


@pytest.mark.parametrize("place", [1, 4999, 9000])
def test_an_id_that_appears_twice_is_found_wherever_it_is(tmp_path, place):
    records = rows(9001)
    records[place]["id"] = "r0"
    path = lines(tmp_path / "a.jsonl", records)
    for reader in (read, lambda path: stream(path, COLUMNS)):
        with refused("input", f"row {place + 1}", "'id'", "'r0'", "row 1"):
            reader(path)
