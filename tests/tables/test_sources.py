"""Safe opening of files: misleading sizes, encodings, keys and characters are refused."""

import gzip
import json
from encodings.aliases import aliases as named

import pytest
from refusal import refused

from bayeslora.errors import InputError
from bayeslora.tables import reading, source
from bayeslora.tables.opening import open_table
from bayeslora.tables.reading import Reading, kind_of, suffix_of
from bayeslora.tables.table import plain_values

ROWS = [{"text": "é 1", "label": "ü"}, {"text": "é 2", "label": "ü"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CELLS = "text,label\né 1,ü\né 2,ü\n"


def read(path, options=None):
    table = open_table(path, options or Reading())
    rows = []
    for piece in table.pieces(["text", "label"]):
        columns = [plain_values(piece.columns[name]) for name in ("text", "label")]
        rows += [
            dict(zip(("text", "label"), row, strict=True)) for row in zip(*columns, strict=True)
        ]
    return rows


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
        with refused("input", "--encoding"):
            read(path)


def test_every_codec_of_python_reads_a_table_or_is_refused(tmp_path):
    """This includes incremental decoding of pieces, and bytes that are not text."""
    rows = [{"text": f"a..b; {k}", "label": "u"} for k in range(2000)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path, refused = tmp_path / "a.jsonl", set()
    for name in {*named.values(), "idna", "punycode", "undefined", "charmap", "aliases"}:
        try:
            how = Reading(encoding=name)
        except InputError:
            refused.add(name)
            continue
        path.write_bytes(lines.encode(name))
        assert read(path, how) == rows
        suffix_of(b"\xff\x80\n" * 40, name)
    assert refused >= {"idna", "punycode", "undefined", "base64_codec", "rot_13", "hex_codec"}
    assert not refused & {"latin_1", "utf_16", "utf_7", "cp037", "shift_jis", "gb18030", "cp864"}


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('{"text": "a", "text": "b"}', "duplicate key 'text'"),
        ('{"text": "a: b", "n": {"x": 1, "x": 2}}', "duplicate key 'x'"),
        ('{"text": "\\ud800"}', "surrogate"),
        ('{"text": "a", "other": ["\\uDFFF"]}', "surrogate"),
        ('{"text": "a"} {"text": "b"}', "invalid JSON"),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_json_that_would_mislead_is_refused(tmp_path, line, part, listed):
    path = tmp_path / "a.json"
    good = '{"text": "\\ud83d\\ude00 fine", "other": {"a": [1]}}'
    path.write_text(f"[{good},\n{line}]" if listed else f"{good}\n{line}\n")
    with refused("input", "row 2") as caught:
        read(path)
    assert part in str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_rows_without_end_are_refused_before_they_fill_the_memory(tmp_path, monkeypatch, name):
    for module in ("source", "delimited", "json_records"):
        monkeypatch.setattr(f"bayeslora.tables.{module}.ROW_LIMIT", 1000)
    monkeypatch.setattr("bayeslora.tables.json_records._PART", 100)
    path = tmp_path / name
    start = {"a.jsonl": '{"text": "', "a.json": '[{"text": "', "a.csv": 'text,label\n"'}[name]
    path.write_text(start + "a\n" * 10_000 if name == "a.csv" else start + "a" * 10_000)
    with pytest.raises(InputError, match=r"row [12].*longer"):
        read(path)


def test_a_list_on_one_line_may_be_longer_than_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr("bayeslora.tables.source.ROW_LIMIT", 1000)
    monkeypatch.setattr("bayeslora.tables.json_records._PART", 100)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS * 100))
    assert read(path) == ROWS * 100


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_UNCHECKED", 2**16)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\n" + b"\n" * 5_000_000))
    with refused("input", "a.csv.gz"):
        read(path)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[:-6] + b"123456", lambda b: b[:12]]
)
def test_damaged_gzip_is_refused(tmp_path, damage):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(damage(gzip.compress(LINES.encode())))
    with refused("input", "a.jsonl.gz"):
        read(path)


@pytest.mark.parametrize(
    ("head", "suffix"),
    [
        (b"PAR1\0\0", ".parquet"),
        (b' \n[{"a": 1}]', ".json"),
        (b"\xef\xbb\xbf" + b'{"a": 1}', ".json"),
        (b"a,b\n1\t,2", ".csv"),
        (b"a\tb\n1,\t2", ".tsv"),
        (gzip.compress(b"a\tb\n", mtime=0), ".tsv"),
        (b"text", ".csv"),
    ],
)
def test_the_format_of_standard_input_is_that_of_its_beginning(head, suffix):
    assert suffix_of(head) == suffix


def test_names_say_the_kind(tmp_path):
    assert kind_of(tmp_path / "A.JSONL.GZ") == "json"
    assert kind_of(tmp_path / "v1.2.csv") == "delimited"
    for name in ("a.parquet.gz", "a.txt.gz", "a.gz", "a", "csv"):
        with refused("input", ".jsonl", ".parquet"):
            kind_of(tmp_path / name)
    assert Reading(delimiter="tab").delimiter == "\t"
    assert reading.DEFAULT.delimiter_of(tmp_path / "a.tsv.gz") == "\t"
