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


@pytest.mark.parametrize(("key", "first"), [("probs", 0.25), ("logits", 1 / (1 + np.exp(0.5)))])
def test_an_object_of_classes_stands_for_their_columns(tmp_path, key, first):
    row = {"label": 1, key: {"a": 0.25, "b": 0.75}}
    predictions = read(tmp_path, row, row)
    assert predictions.classes == ("a", "b")
    np.testing.assert_allclose(predictions.probs[:, 0], first, rtol=1e-15)
    assert predictions.labels.tolist() == [1, 1]


def test_values_beside_the_numbers_keep_their_text(tmp_path):
    rows = [
        {"id": 7, "label": "2020-01-01", "source": "01", "prob_2020-01-01": 1, "prob_b": 0},
        {"id": 8, "label": None, "source": ["x", 1], "prob_2020-01-01": 1, "prob_b": 0},
    ]
    predictions = read(tmp_path, *rows, columns=["source"])
    assert predictions.ids == ("7", "8")
    assert predictions.labels.tolist() == [0, -1]
    assert list(predictions.columns["source"]) == ["01", '["x", 1]']


GOOD = {"id": "x", "label": "a", "prob_a": 0.5, "prob_b": 0.5}


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([], ()),
        ([GOOD, '{"id": "y", "prob'], ("row 2", "JSON", "column 13")),
        ([GOOD, "", "[1, 2]"], ("row 3", "[1, 2]")),
        ([GOOD, "[" * 100_000], ("row 2", "JSON")),
        (
            [GOOD, {"id": "y", "label": "a", "prob_a": 1}],
            ("row 2", "'prob_b'"),
        ),
        ([GOOD, {"id": "y", "prob_a": 1, "prob_b": 0}], ("row 2", "'label'")),
        (
            [GOOD, {**GOOD, "id": "y", "prob_c": 0}],
            ("row 2", "'prob_c'"),
        ),
        ([{"prob_a": 1, "prob_b": 0}, GOOD], ("row 2", "'id'")),
        ([GOOD, {**GOOD, "prob_b": "half"}], ("row 2, column 'prob_b': 'half'",)),
        ([GOOD, {**GOOD, "prob_b": 10**400}], ("row 2, column 'prob_b'",)),
        ([{**GOOD, "prob_b": None}], ("row 1, class 'b'", "nan")),
        (['{"prob_a": NaN, "prob_b": 1}'], ("row 1, class 'a'", "nan")),
        ([GOOD, {**GOOD, "id": None}], ("row 2, column 'id'",)),
        ([GOOD, GOOD], ("row 2: id 'x'", "row 1")),
        ([{**GOOD, "label": "q"}], ("row 1, column 'label'", "'q'")),
        (['{"prob_a": 1' + "0" * 5000 + ', "prob_b": 1}'], ("row 1", "JSON", "4300")),
        (
            ['{"label": "\\ud800", "prob_a": 1, "prob_b": 0}'],
            ("column 'label'", r"'\ud800'"),
        ),
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


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_wrong_logit_in_a_later_piece_is_named_by_its_row(tmp_path, kind, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet

    logits = [0.0] * 7 + [float("inf")]
    path = tmp_path / f"p.{kind}"
    if kind == "parquet":
        pa.parquet.write_table(pa.table({"logit_a": logits, "logit_b": [0.0] * 8}), path)
    else:
        lines = (json.dumps({"logit_a": value, "logit_b": 0.0}) for value in logits)
        path.write_text("\n".join(lines))
    monkeypatch.setattr("bayeslora.predictions.files.ROW_GROUP", 3)
    with refused("input", "row 8, column 'logit_a': inf"):
        Predictions.load(path)


def test_a_record_shares_what_nobody_can_change():
    made = Predictions([[0.25, 0.75]], ["a", "b"], labels=[1], epistemic=[0.5])
    other = made.replace(name="other")
    for name in ("probs", "labels", "epistemic"):
        assert getattr(other, name) is getattr(made, name)
    view = np.array([[0.25, 0.75], [1.0, 0.0]])[:1]
    view.setflags(write=False)  # the base array is still writable
    assert Predictions(view, ["a", "b"]).probs.base is None
