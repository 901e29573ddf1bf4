"""Predictions as rows, as data frames, and back."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import bayeslora as bl

CLASSES = ("ham", "spam", "egg")


def made(rows=6, **changes):
    generator = np.random.default_rng(0)
    fields = {
        "probs": generator.dirichlet(np.ones(3), size=rows),
        "classes": CLASSES,
        "labels": [0, 1, -1, 2, 1, 0][:rows],
        "ids": [f"row {k}" for k in range(rows)],
        "epistemic": generator.random(rows),
        "scores": {"energy": generator.random(rows)},
        "sets": generator.random((rows, 3)) > 0.5,
        "columns": {"source": ["web", "web", "news", "web", "web", "news"][:rows]},
        "name": "m",
    }
    return bl.Predictions(**{**fields, **changes})


class Frame:
    """A generic data frame with the interface common to pandas, polars and Arrow."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


def table_of(predictions, tmp_path):
    import pyarrow.parquet as pq

    predictions.save(tmp_path / "p.parquet")
    return pq.read_table(tmp_path / "p.parquet").replace_schema_metadata(None)


def test_rows_have_names_of_classes():
    predictions = made()
    rows = list(predictions)
    assert len(rows) == len(predictions) == 6
    assert [row.prediction for row in rows] == [CLASSES[k] for k in predictions.prediction]
    assert [row.confidence for row in rows] == predictions.confidence.tolist()
    assert [row.label for row in rows] == ["ham", "spam", None, "egg", "spam", "ham"]
    first = rows[0]
    assert first.id == "row 0"
    assert first.probs == dict(zip(CLASSES, predictions.probs[0].tolist(), strict=True))
    assert (first.total, first.epistemic) == (None, predictions.epistemic[0])
    assert first.scores == {"energy": predictions.scores["energy"][0]}
    assert first.set == tuple(np.array(CLASSES)[predictions.sets[0]])
    assert first.columns == {"source": "web"}


def test_indices_and_slices():
    predictions = made()
    assert predictions[-1] == predictions[5] == list(predictions)[5]
    assert predictions[np.int64(2)].id == "row 2"
    assert predictions[1:3].ids == ("row 1", "row 2")
    assert predictions[[4, 0]].ids == ("row 4", "row 0")
    assert predictions[predictions.confidence > 0.6].ids == tuple(
        row.id for row in predictions if row.confidence > 0.6
    )
    with pytest.raises(IndexError):
        predictions[6]
    with pytest.raises(bl.InputError):
        predictions[3:3]


@pytest.mark.parametrize("wrap", [Frame, lambda table: table, lambda table: table.to_pydict()])
def test_a_frame_is_scored_as_the_record_is(tmp_path, wrap):
    predictions = made()
    frame = wrap(table_of(predictions, tmp_path))
    ours = bl.evaluate(predictions, group_by="source", num_resamples=20)
    theirs = bl.evaluate(frame, ood={"far": frame}, group_by="source", num_resamples=20)
    # Compare as text, since NaN != NaN.
    assert str(theirs.scores) == str(ours.scores)
    assert str(theirs.groups) == str(ours.groups)
    assert theirs.ood["far"].auroc.value == 0.5
    loaded = bl.Predictions.from_frame(frame, name="m")
    np.testing.assert_array_equal(loaded.probs, predictions.probs)
    assert list(loaded.columns["source"]) == list(predictions.columns["source"])
    assert (loaded.ids, loaded.classes, loaded.name) == (predictions.ids, CLASSES, "m")


@pytest.mark.parametrize(
    "wrong",
    [
        [{"label": "ham", "prob_ham": 1.0}],
        np.ones((2, 3)),
        None,
        7,
        {"prob_a": [0.5], "prob_b": [0.5, 0.5]},
        {"label": ["a"], "probability": [0.5]},
        {"prob_a": [0.5], "prob_b": ["x"]},
        {"prob_a": [0.5], "prob_b": [0.7]},
        pa.table(
            [pa.array([0.5]), pa.array([0.5]), pa.array([0.5])], ["prob_a", "prob_b", "prob_b"]
        ),
    ],
    ids=["records", "array", "none", "number", "lengths", "columns", "text", "sum", "twice"],
)
def test_what_holds_no_predictions_is_an_input_error(wrong):
    with pytest.raises(bl.InputError):
        bl.evaluate(wrong)


def test_a_report_takes_frames(tmp_path):
    page = bl.report(table_of(made(), tmp_path), out=tmp_path / "report", num_resamples=5)
    assert Path(page).is_file()


def test_pandas_there_and_back(tmp_path):
    predictions = made()
    assert [*predictions.to_pandas()] == table_of(predictions, tmp_path).column_names
    again = bl.Predictions.from_frame(predictions.to_pandas(), name="m")
    np.testing.assert_array_equal(again.probs, predictions.probs)
    np.testing.assert_array_equal(again.labels, predictions.labels)
    np.testing.assert_array_equal(again.sets, predictions.sets)
    assert again.ids == predictions.ids
    assert list(again.columns["source"]) == list(predictions.columns["source"])
