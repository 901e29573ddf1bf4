"""Mutations of good files: bytes, JSON and CSV. Parquet has a separate module."""

from __future__ import annotations

import csv
import io
import json
import random
from typing import Any

from . import nasty


def bytes_of(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Return a description of a change to a file's bytes, and the result."""
    size = max(1, len(content))
    start, length = chance.randrange(size), chance.choice((1, 2, 7, 40))
    end = start + length
    junk = chance.choice(
        (b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x1a", b"\x80", b"\r", b'"')
    )
    ways = {
        "bit": content[:start] + _flipped(content[start:], chance) if content else b"",
        "cut": content[:start],
        "gone": content[:start] + content[end:],
        "junk": content[:start] + junk * length + content[start:],
        "twice": content[:end] + content[start:],
        "swapped": content[start:] + content[:start],
        "doubled": content + content,
        "bom": b"\xef\xbb\xbf" * chance.choice((1, 2)) + content,
        "utf-16": content.decode("utf-8", "replace").encode("utf-16"),
        "utf-32": content.decode("utf-8", "replace").encode("utf-32-be"),
        "latin-1": content.replace(b"a", b"\xe4", 3),
        "cr": content.replace(b"\n", b"\r"),
        "crlf": content.replace(b"\n", b"\r\n"),
        "nul": content.replace(b" ", b"\x00", 2),
        "separators": content.replace(b" ", "\u2028".encode(), 2),
        "empty": b"",
        "blank": b" \n\t\n",
        "padded": b"\n\n" + content + b"\n \n\n",
        "random": chance.randbytes(chance.choice((1, 50, 3000))),
    }
    name = chance.choice(list(ways))
    return name, ways[name]


def _flipped(content: bytes, chance: random.Random) -> bytes:
    return bytes([content[0] ^ 1 << chance.randrange(8)]) + content[1:]


def json_text(text: str, chance: random.Random) -> tuple[str, str]:
    """Return a description of a change to a JSON document, and the result as text."""
    document = json.loads(text)
    places = list(_places(document))
    if not places:
        return "whole", _dumped(nasty.value(chance))
    parent, key = chance.choice(places)
    way = chance.choice(("value", "value", "raw", "gone", "renamed", "twice", "wrapped", "more"))
    mark = "@@here@@"
    if way == "gone":
        del parent[key]
    elif way == "renamed" and isinstance(parent, dict):
        parent[chance.choice((str(key).upper(), f"{key} ", f"{key}_", ""))] = parent.pop(key)
    elif way == "twice" and isinstance(parent, dict):
        parent[mark] = nasty.value(chance)
        return way, _dumped(document).replace(f'"{mark}"', json.dumps(key))
    elif way == "wrapped":
        parent[key] = chance.choice(([parent[key]], {"value": parent[key]}, str(parent[key])))
    elif way == "more" and isinstance(parent, dict):
        parent[chance.choice(nasty.TEXTS)] = nasty.value(chance)
    elif way == "raw":
        parent[key] = mark
        return way, _dumped(document).replace(f'"{mark}"', chance.choice(nasty.RAW))
    else:
        way, parent[key] = "value", nasty.value(chance)
    return way, _dumped(document)


def _dumped(document: Any) -> str:
    return json.dumps(document)


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Return every container in a document with each of its keys; long lists are sampled."""
    places = []
    if isinstance(document, dict):
        places = [(document, key) for key in document]
    elif isinstance(document, list):
        places = [(document, index) for index in range(min(len(document), 4))]
    for parent, key in list(places):
        places += _places(parent[key])
    return places


def json_lines(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Return a description of a change to JSON lines, and the result."""
    if chance.random() < 0.35:
        return bytes_of(content, chance)
    lines = content.decode().splitlines()
    row = chance.randrange(len(lines))
    how, lines[row] = json_text(lines[row], chance)
    if chance.random() < 0.2:
        lines.insert(row, chance.choice(("", "[]", "3", "null", '"a"', "{}", ",", "[1, 2", "NaN")))
    return how, "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"


_CELLS = (
    *nasty.TEXTS,
    *("nan", "inf", "-inf", "1e400", "-0.1", "1.1", "0,5", "1,000.5", "0x1p-1", " 0.5", "0.5 "),
    *("1_0", "½", "0.5%", "TRUE", "'", '"', '""', '"a', 'a"b', '"a"b', "a,b", "a\tb", "9" * 5000),
)


def csv_table(content: bytes, chance: random.Random, delimiter: str = ",") -> tuple[str, bytes]:
    """Return a description of a change to a CSV file, and the result."""
    if chance.random() < 0.3:
        return bytes_of(content, chance)
    rows = list(csv.reader(io.StringIO(content.decode()), delimiter=delimiter))
    row, column = chance.randrange(len(rows)), chance.randrange(len(rows[0]))
    way = chance.choice(
        ("cell", "cell", "raw", "wider", "narrower", "header", "delimiter", "quotes")
    )
    quoting, used = csv.QUOTE_MINIMAL, delimiter
    if way == "wider":
        rows[row] = [*rows[row], chance.choice(_CELLS)]
    elif way == "narrower":
        del rows[row][column]
    elif way == "header":
        names = (
            rows[0][0],
            rows[0][column].upper(),
            "",
            " ",
            "prob_",
            "id",
            "label",
            "prob_a\x00b",
        )
        rows[0][column] = chance.choice((*names, f" {rows[0][column]}"))
    elif way == "delimiter":
        used = chance.choice((";", "\t", "|", " "))
    elif way == "quotes":
        quoting = csv.QUOTE_ALL
    else:
        rows[row][column] = chance.choice(_CELLS) if way == "cell" else "@@here@@"
    file = io.StringIO()
    csv.writer(file, delimiter=used, quoting=quoting).writerows(rows)
    text = file.getvalue().replace("@@here@@", chance.choice(_CELLS))
    return way, text.encode("utf-8", "surrogatepass")
