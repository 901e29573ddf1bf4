"""Predictions as JSON lines: accepted input, and the messages for wrong lines."""

import json

import numpy as np
import pytest
from refusal import refused

from bayeslora.predictions.record import Predictions


def read(tmp_path, *lines, **options):
    path = tmp_path / "p.jsonl"
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n"
    )
    return Predictions.load(path, **options)


def test_written_lines_are_plain_objects(tmp_path):
    made = Predictions([[0.25, 0.75], [0.5, 0.5]], ["no", "yes"], labels=[1, -1], ids=["x", "y"])
    made.save(tmp_path / "p.jsonl")
    first, second = map(json.loads, (tmp_path / "p.jsonl").read_text().splitlines())
    assert first == {
        "id": "x",
        "label": "yes",
        "prediction": "yes",
        "confidence": 0.75,
        "prob_no": 0.25,
        "prob_yes": 0.75,
    }
    assert second["label"] is None


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf\n{"prob_a": 1, "prob_b": 0}\n \n{"prob_a": 0, "prob_b": 1}')
    assert Predictions.load(path).probs.tolist() == [[1, 0], [0, 1]]


GOOD = {"id": "x", "label": "a", "prob_a": 0.5, "prob_b": 0.5}


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([], ()),
        ([GOOD, '{"id": "y", "prob'], ("row 2", "JSON", "column 13")),
        ([GOOD, "", "[1, 2]"], ("row 3", "[1, 2]")),
        ([GOOD, "[" * 100_000], ("row 2", "JSON")),
        ([GOOD, {"id": "y", "label": "a", "prob_a": 1}], ("row 2", "'prob_b'")),
        ([GOOD, {"id": "y", "prob_a": 1, "prob_b": 0}], ("row 2", "'label'")),
        ([GOOD, {**GOOD, "id": "y", "prob_c": 0}], ("row 2", "'prob_c'")),
        ([{"prob_a": 1, "prob_b": 0}, GOOD], ("row 2", "'id'")),
        ([GOOD, {**GOOD, "prob_b": "half"}], ("row 2, column 'prob_b': 'half'",)),
        ([GOOD, {**GOOD, "prob_b": 10**400}], ("row 2, column 'prob_b'",)),
        ([{**GOOD, "prob_b": None}], ("row 1, class 'b'", "nan")),
        (['{"prob_a": NaN, "prob_b": 1}'], ("row 1, class 'a'", "nan")),
        ([GOOD, {**GOOD, "id": None}], ("row 2, column 'id'",)),
        ([GOOD, GOOD], ("row 2: id 'x'", "row 1")),
        ([{**GOOD, "label": "q"}], ("row 1, column 'label'", "'q'")),
        (['{"prob_a": 1' + "0" * 5000 + ', "prob_b": 1}'], ("row 1", "JSON", "4300")),
        (['{"label": "\\ud800", "prob_a": 1, "prob_b": 0}'], ("column 'label'", r"'\ud800'")),
        ([{"label": "a"}], ("prob_<class>", "'label'")),
        ([{"probs": [0.5, 0.5]}], ("prob_<class>", "'probs'")),
    ],
)
def test_a_wrong_line_is_named(tmp_path, lines, named):
    with refused("input", "p.jsonl", *named):
        read(tmp_path, *lines)


def test_bytes_that_are_not_utf8_are_named_by_their_line(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"id": "caf\xe9"}\n')
    with refused("input", "row 2", "0xe9", "UTF-8"):
        Predictions.load(path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_files_read_in_pieces_are_the_files_read_whole(tmp_path, suffix, monkeypatch):
    generator = np.random.default_rng(0)
    made = Predictions(
        generator.dirichlet(np.ones(3), size=20),
        ["a", "b", "c"],
        labels=generator.integers(-1, 3, size=20),
        ids=[f"r{row}" for row in range(20)],
        total=generator.random(20),
        sets=generator.random((20, 3)) < 0.5,
        columns={"source": [None if row % 5 == 0 else f"s{row}" for row in range(20)]},
    )
    path = tmp_path / f"p{suffix}"
    made.save(path)
    monkeypatch.setattr("bayeslora.predictions.files.ROW_GROUP", 3)
    loaded = Predictions.load(path, columns=["source"])
    assert np.array_equal(loaded.probs, made.probs)
    assert np.array_equal(loaded.labels, made.labels)
    assert np.array_equal(loaded.total, made.total)
    assert np.array_equal(loaded.sets, made.sets)
    assert loaded.ids == made.ids
    assert list(loaded.columns["source"]) == list(made.columns["source"])
