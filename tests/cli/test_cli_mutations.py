"""Valid files with random damage: they are read or refused, without a crash."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_files import NOWHERE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bayeslora.cli import main

TEXTS = [
    {"id": "a", "text": 'one, "two"', "label": "x"},
    {"id": "b", "text": "drei\nvier", "label": "y"},
]
PROBABILITIES = [
    {"id": "a", "label": "x", "prob_x": 0.25, "prob_y": 0.75, "score_s": 1.5, "source": "s"},
    {"id": "b", "label": None, "prob_x": 1.0, "prob_y": 0.0, "score_s": -2.0, "source": "t"},
]
LOG = [
    {
        "doc_id": k,
        "doc": {"question": "?"},
        "target": "1",
        "arguments": [["q", " yes"], ["q", " no"]],
        "filtered_resps": [["-1.0", "False"], ["-2.0", "True"]],
        "acc": 1.0,
    }
    for k in range(2)
]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def delimited(rows, mark):
    cells = [[*rows[0]], *([("" if v is None else v) for v in row.values()] for row in rows)]
    quoted = (mark.join('"' + str(v).replace('"', '""') + '"' for v in row) for row in cells)
    return "\n".join(quoted).encode()


def parquet(rows):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, compression="none")
    return out.getvalue()


def files(rows):
    return {
        "p.jsonl": lines(rows),
        "p.json": json.dumps(rows).encode(),
        "p.csv": delimited(rows, ","),
        "p.tsv": delimited(rows, "\t"),
        "p.parquet": parquet(rows),
        "p.csv.gz": gzip.compress(delimited(rows, ","), mtime=0),
    }


GOOD = {"fit": files(TEXTS), "evaluate": files(PROBABILITIES) | {"samples.jsonl": lines(LOG)}}
TOKENS = [
    *(b"", b"NaN", b"null", b"true", b"[]", b"{}", b'"', b"\0", b"\xff", b"\r\n\r\n", b",", b"\t"),
    *(b"0", b"-", b'"label"', b'"text"', b"label", b"x", b" ", b":"),
]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
@pytest.mark.parametrize("verb", GOOD)
def test_a_mutated_file_is_read_or_refused(verb, data, tmp_path_factory):
    name = data.draw(st.sampled_from(sorted(GOOD[verb])))
    content = GOOD[verb][name]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 12)))
        content = content[:start] + data.draw(st.sampled_from(TOKENS)) + content[end:]
    folder = tmp_path_factory.mktemp("mutated")
    (folder / name).write_bytes(content)
    out = folder / "o.parquet"
    more = ["--backbone", NOWHERE, "--out", str(out)] if verb == "fit" else []
    code = main([verb, str(folder / name), *more])
    assert code in {0, 2}
    assert {path.name for path in folder.iterdir()} == {name}
