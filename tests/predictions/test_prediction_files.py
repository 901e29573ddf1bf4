"""Predictions on disk: lossless, files of other tools load, wrong files raise by name."""

import datetime
import decimal
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused

from bayeslora.predictions.record import Predictions

SUFFIXES = [".parquet", ".csv", ".jsonl"]
NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    min_size=2,
    max_size=5,
    unique=True,
)


def random_predictions(rows: int, classes: list[str], seed: int = 0) -> Predictions:
    generator = np.random.default_rng(seed)
    return Predictions(
        generator.dirichlet(np.ones(len(classes)), size=rows),
        classes,
        labels=generator.integers(-1, len(classes), size=rows),
        ids=[f"row-{i}" for i in range(rows)],
        total=generator.random(rows),
        aleatoric=generator.random(rows),
        epistemic=generator.random(rows),
        scores={"logit_variance": generator.random(rows)},
        name="polar-vbll",
        metadata={"link": "bridge", "seed": "3"},
    )


def random_sets(predictions: Predictions, seed: int) -> Predictions:
    members = np.random.default_rng(seed).random(predictions.probs.shape) < 0.5
    return predictions.replace(sets=members)


def assert_same_columns(actual: Predictions, expected: Predictions) -> None:
    assert actual.classes == expected.classes
    assert actual.ids == expected.ids
    for name in ("probs", "labels", "total", "aleatoric", "epistemic"):
        assert np.array_equal(getattr(actual, name), getattr(expected, name)), name
    assert np.array_equal(actual.sets, expected.sets)
    assert actual.scores.keys() == expected.scores.keys()
    assert all(np.array_equal(actual.scores[name], expected.scores[name]) for name in actual.scores)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=40, deadline=None)
@given(classes=NAMES, seed=st.integers(0, 2**32 - 1))
def test_a_round_trip_keeps_every_bit_and_every_name(tmp_path_factory, suffix, classes, seed):
    path = tmp_path_factory.mktemp("files") / f"p{suffix}"
    predictions = random_predictions(7, classes, seed)
    for record in (predictions, random_sets(predictions, seed)):
        record.save(path)
        assert_same_columns(Predictions.load(path), record)


def test_parquet_carries_the_name_and_the_notes(tmp_path):
    random_predictions(3, ["a", "b"]).save(tmp_path / "p.parquet")
    loaded = Predictions.load(tmp_path / "p.parquet")
    assert (loaded.name, dict(loaded.metadata)) == ("polar-vbll", {"link": "bridge", "seed": "3"})
    assert Predictions.load(tmp_path / "p.parquet", name="mine").name == "mine"
    random_predictions(3, ["a", "b"]).replace(name="").save(tmp_path / "nameless.parquet")
    assert Predictions.load(tmp_path / "nameless.parquet").name == "nameless"
    stored = pq.read_schema(tmp_path / "p.parquet").metadata
    assert stored[b"bayeslora.format_version"] == b"1"
    assert json.loads(stored[b"bayeslora.classes"]) == ["a", "b"]


def test_written_files_say_what_is_predicted(tmp_path):
    Predictions([[0.25, 0.75], [0.5, 0.5]], ["no", "yes"], labels=[1, -1]).save(tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text().splitlines() == [
        '"label","prediction","confidence","prob_no","prob_yes"',
        '"yes","yes",0.75,0.25,0.75',
        ',"no",0.5,0.5,0.5',
    ]
    assert Predictions.load(tmp_path / "p.csv").name == "p"


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "p.parquet"
    random_predictions(3, ["a", "b"]).save(path)
    before = path.read_bytes()

    def full_disk(where, *_, **_options):
        where.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter", full_disk)
    with pytest.raises(OSError, match="no space left"):
        random_predictions(3, ["c", "d"]).save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.parquet"]


def read_csv(tmp_path, text: str, encoding: str = "utf-8") -> Predictions:
    (tmp_path / "p.csv").write_bytes(text.encode(encoding))
    return Predictions.load(tmp_path / "p.csv")


def test_the_least_that_another_tool_must_write(tmp_path):
    predictions = read_csv(tmp_path, "prob_x,note,prob_y\n0.25,hello,0.75\n")
    assert predictions.classes == ("x", "y")
    assert predictions.probs.tolist() == [[0.25, 0.75]]
    assert predictions.labels is predictions.ids is predictions.total is None


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    assert read_csv(tmp_path, "id,prob_x,prob_y\n01,1,0\n", "utf-8-sig").ids == ("01",)


def test_logits_become_probabilities_in_float64(tmp_path):
    predictions = read_csv(tmp_path, "logit_x,logit_y\n0,1.5\n1000,0\n-1000,-1001\n")
    sigmoid = 1 / (1 + np.exp(1.5))
    np.testing.assert_allclose(predictions.probs[0], [sigmoid, 1 - sigmoid], rtol=1e-15)
    assert predictions.probs[1].tolist() == [1.0, 0.0]
    np.testing.assert_allclose(predictions.probs[2, 1], 1 / (1 + np.e), rtol=1e-15)


@pytest.mark.parametrize(
    ("classes", "labels", "expected"),
    [
        (("cat", "dog"), ["dog", None, "cat"], [1, -1, 0]),
        (("cat", "dog"), ["1", None, "0"], [1, -1, 0]),
        (("cat", "dog"), [1, None, 0], [1, -1, 0]),
        (("cat", "dog"), [1.0, None, 0.0], [1, -1, 0]),  # as pandas writes integers with a gap
        (("1", "0"), ["0", None, "1"], [1, -1, 0]),  # names win over indices
        (("1", "0"), [0, None, 1], [1, -1, 0]),
        (("1", "2", "3"), ["3", "1", None], [2, 0, -1]),
        (("1", "2", "3"), ["0", None, "0"], [0, -1, 0]),  # none is a name
    ],
)
def test_labels_are_names_or_else_indices(tmp_path, classes, labels, expected):
    even = np.full(3, 1 / len(classes))
    table = pa.table({"label": labels, **{f"prob_{name}": even for name in classes}})
    pq.write_table(table, tmp_path / "p.parquet")
    assert Predictions.load(tmp_path / "p.parquet").labels.tolist() == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", ()),
        ("prob_a,prob_b\n", ("empty",)),
        ("label,text\na,b\n", ("prob_<class>", "'label', 'text'")),
        ("prob_a,label\n1,b\n1,c\n", ("'prob_a'",)),
        ("prob_a,prob_b,logit_a\n1,0,3\n", ("prob_<class>", "'logit_'")),
        ("prob_a,prob_b,prob_a\n1,0,1\n", ("'prob_a'",)),
        ("prob_a,prob_b\n1,0\n0.5,x\n", ("row 3, column 'prob_b': 'x'",)),
        ("prob_a,prob_b\n1,0\n0.5\n", ("row 3: 1 fields", "2")),
        ("prob_a,prob_b\n1,0\n,1\n", ("row 3, class 'a'", "nan")),
        ("prob_a,prob_b\nnan,1\n", ("row 2, class 'a'", "nan")),
        ("prob_a,prob_b\n1,inf\n", ("row 2, class 'b'", "inf")),
        ("prob_a,prob_b\n1.5,-0.5\n", ("row 2, class 'b'", "-0.5")),
        ("prob_a,prob_b\n1,0\n0.7,0.7\n", ("row 3", "1.4")),
        ("logit_a,logit_b\n0,1\n0,inf\n", ("row 3, column 'logit_b': inf",)),
        ("id,prob_a,prob_b\nx,1,0\ny,1,0\nx,1,0\n", ("row 4: id 'x'", "row 2")),
        ("id,prob_a,prob_b\nx,1,0\n,1,0\n", ("row 3, column 'id'",)),
        # two quotation marks without their ends
        ('id,prob_a,prob_b\n"x,1,0\ny,1,0\nz",1,0\n', ("row 2, column 'id'", "x,1,0")),
        ("label,prob_a,prob_b\na,1,0\nq,1,0\n", ("row 3", "'q'", "'a', 'b'")),
        ("label,prob_a,prob_b\n0,1,0\n2,1,0\n", ("row 3, column 'label'", "'2'", "1")),
        ("label,prob_a,prob_b\na,1,0\n1,1,0\n", ("row 3, column 'label'", "'1'")),
        ("total,prob_a,prob_b\n1,1,0\n,1,0\n", ("row 3: total", "nan")),
        ("score_s,prob_a,prob_b\ninf,1,0\n", ("row 2: score 's'", "inf")),
    ],
)
def test_a_wrong_csv_is_refused_by_file_row_and_value(tmp_path, text, named):
    with refused("input", "p.csv", *named):
        read_csv(tmp_path, text)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("nested", [{"a": 0.9, "b": 0.1}, [0.9, 0.1]])
def test_probabilities_in_two_forms_are_refused(tmp_path, suffix, nested):
    path = tmp_path / f"p{suffix}"
    write_columns(path, {"prob_a": [0.1], "prob_b": [0.9], "probs": [nested]})
    with refused("input", f"p{suffix}", "'probs'", "prob_"):
        Predictions.load(path)


def test_unreadable_files_are_named(tmp_path):
    with refused("input", "none.parquet"):
        Predictions.load(tmp_path / "none.parquet")
    with refused("input", "p.txt"):
        Predictions.load(tmp_path / "p.txt")
    with refused("input", "p.json", ".parquet", ".csv", ".jsonl"):
        random_predictions(2, ["a", "b"]).save(tmp_path / "p.json")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and nothing more")
    with refused("input", "bad.parquet", "Parquet"):
        Predictions.load(tmp_path / "bad.parquet")
    (tmp_path / "latin.csv").write_bytes("prob_ä,prob_b\n1,0\n".encode("latin-1"))
    with refused("input", "latin.csv", "row 1", "0xe4", "encoding=latin-1"):
        Predictions.load(tmp_path / "latin.csv")


@pytest.mark.parametrize("version", ["2", "1.5", "new"])
def test_a_newer_format_is_refused(tmp_path, version):
    table = pa.table({"prob_a": [0.5], "prob_b": [0.5]})
    table = table.replace_schema_metadata({"bayeslora.format_version": version})
    pq.write_table(table, tmp_path / "p.parquet")
    with refused("input", "p.parquet", f"'{version}'"):
        Predictions.load(tmp_path / "p.parquet")


def test_sets_may_be_written_as_words_or_as_numbers(tmp_path):
    path = tmp_path / "p.csv"
    for yes, no in (("true", "false"), ("True", "False"), ("1", "0")):
        path.write_text(f"prob_a,prob_b,set_b,set_a\n0.5,0.5,{yes},{no}\n0.2,0.8,{yes},{yes}\n")
        assert Predictions.load(path).sets.tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_further_columns_are_kept_where_they_are_asked_for(tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    predictions = random_predictions(4, ["a", "b"]).replace(
        columns={"source": ["02", "1.0", None, "01"], "text": ["x", "y\nz", 'q"', "é"]}
    )
    predictions.save(path)
    loaded = Predictions.load(path, columns=["source"])
    assert list(loaded.columns) == ["source"]
    assert list(loaded.columns["source"]) == ["02", "1.0", None, "01"]
    assert list(loaded.take([3, 0]).columns["source"]) == ["01", "02"]
    assert not Predictions.load(path).columns
    assert_same_columns(predictions, loaded)


def test_a_further_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    path = tmp_path / "p.parquet"
    random_predictions(3, ["a", "b"]).replace(columns={"source": ["s", "t", "u"]}).save(path)
    with refused("unknown", "'sauce'", "source"):
        Predictions.load(path, columns=["sauce"])


def test_lists_are_kept_as_json(tmp_path):
    file = tmp_path / "nested.parquet"
    columns = {"prob_a": [0.8, 0.1], "prob_b": [0.2, 0.9]}
    write_columns(file, columns | {"choices": [["x", "ä"], None]})
    loaded = Predictions.load(file, columns=["choices"])
    assert list(loaded.columns["choices"]) == ['["x", "ä"]', None]
    write_columns(file, columns | {"label": [["x"], ["y"]]})
    with refused("input", "nested.parquet", "column 'label'"):
        Predictions.load(file)


def write_columns(file, columns):
    """Write columns unchanged."""
    table = pa.table(columns)
    if file.suffix == ".parquet":
        pq.write_table(table, file)
    elif file.suffix == ".jsonl":
        file.write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    else:
        rows = [",".join(map(str, row.values())) for row in table.to_pylist()]
        file.write_text("\n".join([",".join(columns), *rows]))


def test_columns_of_other_names_hold_probabilities(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("label,no,p\nyes,0.25,0.75\nno,0.5,0.5\n")
    predictions = Predictions.load(path, probability_columns={"p": "yes", "no": "no"})
    assert predictions.classes == ("yes", "no")
    assert predictions.probs.tolist() == [[0.75, 0.25], [0.5, 0.5]]
    with refused("unknown", "'q'"):
        Predictions.load(path, probability_columns={"q": "yes"})


def test_ids_are_strings_or_numbers(tmp_path):
    rows = [{"id": [n], "label": "a", "prob_a": 0.5, "prob_b": 0.5} for n in range(3)]
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with refused("input", "id"):
        Predictions.load(path)


DAYS = [datetime.date(2026, 1, 2), datetime.date(2026, 1, 3)]
TENTHS = [decimal.Decimal("0.1"), decimal.Decimal("0.4")]


@pytest.mark.parametrize(
    ("name", "values", "read"),
    [
        ("id", pa.array(DAYS), ("2026-01-02", "2026-01-03")),
        ("id", pa.array(DAYS).cast(pa.timestamp("ns")), None),
        ("id", pa.array([1, 2], pa.time64("ns")), ("00:00:00.000000001", "00:00:00.000000002")),
        ("label", pa.array(["b", "a"]).dictionary_encode(), [1, 0]),
        ("prob_a", pa.array(TENTHS), [0.1, 0.4]),
        ("prob_a", pa.array(TENTHS, pa.decimal256(40, 10)), [0.1, 0.4]),
    ],
)
def test_columns_of_other_types_are_read_as_they_are_written(tmp_path, name, values, read):
    columns = {"id": ["x", "y"], "label": ["a", "b"], "prob_a": [0.1, 0.4], "prob_b": [0.9, 0.6]}
    pq.write_table(pa.table({**columns, name: values}), tmp_path / "p.parquet")
    loaded = Predictions.load(tmp_path / "p.parquet")
    labels, probs = list(loaded.labels), loaded.probs[:, 0].tolist()
    columns = {"id": loaded.ids, "label": labels, "prob_a": probs}
    if read is None:
        assert [text[:10] for text in loaded.ids] == ["2026-01-02", "2026-01-03"]
    else:
        assert columns[name] == read


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *(
            ("prob_a", pa.array(values))
            for values in (["0.1", "0.4"], DAYS, [False, True], [[1.0]] * 2)
        ),
        ("prob_a", pa.array([1, 0], pa.duration("s"))),
        ("label", pa.array([b"x", b"y"])),
        ("label", pa.array([["a"], ["b"]])),
        ("label", pa.array(DAYS)),
    ],
)
def test_columns_without_numbers_or_names_are_refused(tmp_path, name, values):
    columns = {"id": ["x", "y"], "label": ["a", "b"], "prob_a": [0.0, 1.0], "prob_b": [1.0, 0.0]}
    pq.write_table(pa.table({**columns, name: values}), tmp_path / "p.parquet")
    with refused("input", "p.parquet", name):
        Predictions.load(tmp_path / "p.parquet")
