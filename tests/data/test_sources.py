"""Safe opening of files: misleading sizes, encodings, keys and characters are refused."""

import gzip
import json

import pytest
from refusal import refused

from bayeslora.data.formats import Reading, kind_of, open_table

ROWS = [{"text": "é 1", "label": "ü"}, {"text": "é 2", "label": "ü"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CELLS = "text,label\né 1,ü\né 2,ü\n"


def read(path, options=None):
    return [record for _, record in open_table(path, options or Reading()).rows(["text", "label"])]


@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "utf-16", "utf-8", "utf-8-sig", "utf-32"]
)
@pytest.mark.parametrize(("name", "text"), [("a.jsonl", LINES), ("a.csv", CELLS)])
@pytest.mark.parametrize("packed", [False, True])
def test_text_is_decoded_as_it_is_said_to_be(tmp_path, encoding, name, text, packed):
    path = tmp_path / (f"{name}.gz" if packed else name)
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if packed else content)
    assert read(path, Reading(encoding=encoding)) == ROWS
    if encoding in {"utf-8", "utf-8-sig"}:
        assert read(path) == ROWS
    elif not packed or encoding == "latin-1":
        with refused("input", "encoding=latin-1"):
            read(path)


def test_names_say_the_kind(tmp_path):
    assert kind_of(tmp_path / "A.JSONL.GZ") == ".jsonl"
    assert kind_of(tmp_path / "v1.2.csv") == ".csv"
    for name in ("a.parquet.gz", "a.txt.gz", "a.gz", "a", "csv"):
        with refused("input", ".jsonl", ".parquet"):
            kind_of(tmp_path / name)
    assert Reading(delimiter="tab").delimiter == "\t"
