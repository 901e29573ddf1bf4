"""Predictions of rows by networks fitted without them: kept with the model, and used by verbs."""

import json
import logging

import huggingface_hub
import numpy as np
import pytest
from refusal import refused
from tiny import QUICK_VBLL, toy_questions, toy_rows

import bayeslora as bl
from bayeslora.checkpoint import verify_model
from bayeslora.cli import main
from bayeslora.io import read_json
from bayeslora.predictions.files import HELD_OUT

ROWS = [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(toy_rows(24))]
PROBIT = f"{QUICK_VBLL},link=probit"


def fitted(backbone, rows=ROWS, adapter="none", posterior=PROBIT, cv=3, **options):
    clf = bl.BayesianClassifier(backbone, adapter, posterior, dtype="float32", progress=False)
    length = {} if adapter == "none" else {"epochs": 2, "batch_size": 8}
    return clf.fit(rows, cv=cv, **length, **options)


def nll(predictions):
    return -np.log(predictions.probs[np.arange(len(predictions)), predictions.labels]).mean()


@pytest.fixture(scope="module")
def model(backbone, tmp_path_factory):
    """Return a fitted classifier and its directory."""
    folder = tmp_path_factory.mktemp("held-out") / "model"
    return fitted(backbone, out=folder), folder


@pytest.mark.parametrize(
    ("adapter", "posterior", "options"),
    [
        ("none", "mle", {}),
        ("none", PROBIT, {}),
        ("lora:r=2", "laplace:link=probit", {}),
        ("lora:r=2", "mle", {"keep_folds": True}),
        ("lora:r=2", "ensemble:num_members=2", {}),
        ("lora:r=2", "mc_dropout", {}),
    ],
)
def test_they_are_the_answers_that_chose_the_scale(backbone, adapter, posterior, options):
    clf = fitted(backbone, adapter=adapter, posterior=posterior, **options)
    predictions, scale = clf.held_out, clf.record.results["logit_scale"]
    assert nll(predictions) == pytest.approx(scale["nll"], rel=1e-6)
    assert predictions.ids == tuple(row["id"] for row in ROWS)
    labels = [predictions.classes[label] for label in predictions.labels]
    assert labels == [row["label"] for row in ROWS]
    # Single networks are linked in another way than all that are kept.
    others = clf.predict(ROWS).metadata.items()
    assert predictions.metadata.items() >= {
        (key, note) for key, note in others if key not in ("link", "num_samples")
    }
    assert predictions.metadata["held_out"] == "cross-validation"
    assert predictions.metadata["held_out_rows"] == "24 of 24"


def test_questions_have_their_options(backbone):
    rows = toy_questions(18)
    predictions = fitted(backbone, rows, posterior="mle").held_out
    counts = {row["id"]: len(row["choices"]) for row in rows}
    assert predictions.num_options.tolist() == [counts[name] for name in predictions.ids]
    assert not predictions.columns, "no text of the training rows"


def test_several_tasks_keep_their_column(backbone):
    tasks = {name: toy_rows(12, seed) for seed, name in enumerate(("first", "second"))}
    predictions = fitted(backbone, tasks, posterior="mle").held_out
    assert set(predictions.columns["task"]) == {*tasks}


def test_without_folds_there_are_none(backbone, tmp_path):
    clf = fitted(backbone, cv=0, out=tmp_path / "model")
    assert clf.held_out is None
    assert not (tmp_path / "model" / HELD_OUT).exists()
    with refused("input", HELD_OUT, "cv"):
        bl.decide(tmp_path / "model", 0.1)


def test_a_directory_keeps_them_through_loading_and_saving(model, tmp_path):
    clf, folder = model
    again = bl.BayesianClassifier.from_pretrained(folder, progress=False)
    again.save_pretrained(tmp_path / "copy")
    for predictions in (again.held_out, bl.Predictions.load(tmp_path / "copy")):
        assert np.array_equal(predictions.probs, clf.held_out.probs)
        assert predictions.ids == clf.held_out.ids
        assert predictions.metadata == clf.held_out.metadata
    states = {item.name: item.state for item in verify_model(tmp_path / "copy")}
    assert states[HELD_OUT] == "ok"
    again.save_pretrained(tmp_path / "copy", overwrite=True)
    again.held_out.take([0]).save(tmp_path / "copy" / HELD_OUT)
    with refused("damaged", HELD_OUT):
        bl.BayesianClassifier.from_pretrained(tmp_path / "copy", progress=False)


def test_a_file_that_is_not_listed_is_ignored(backbone, model, tmp_path):
    fitted(backbone, cv=0, out=tmp_path / "model")
    model[0].held_out.save(tmp_path / "model" / HELD_OUT)
    clf = bl.BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    assert clf.held_out is None


def test_another_posterior_drops_them(model):
    clf = bl.BayesianClassifier.from_pretrained(model[1], progress=False)
    assert clf.calibrate(toy_rows(12, 5), posterior="laplace").held_out is None


def test_the_hub_does_not_get_them(model, monkeypatch):
    uploaded = []

    class Hub:
        def create_repo(self, *_, **__):
            pass

        def upload_folder(self, *, folder_path, **_):
            uploaded.extend(path.name for path in folder_path.iterdir())
            uploaded.extend(read_json(folder_path / "bayeslora.json")["files"])
            return type("Commit", (), {"commit_url": "address"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert model[0].push_to_hub("me/it") == "address"
    assert "adapter.safetensors" in uploaded
    assert HELD_OUT not in uploaded
    assert model[0].held_out is not None


def test_a_directory_stands_for_them(model, tmp_path, caplog):
    clf, folder = model
    with caplog.at_level(logging.WARNING):
        calibration = bl.decide(folder, 0.9)
    assert [HELD_OUT in record.getMessage() for record in caplog.records] == [True]
    new = clf.predict(toy_rows(15, 8))
    assert set(calibration.apply(new).columns["decision"]) <= {*clf.classes, "person"}
    with refused("input", 24, "fitted"):
        calibration.apply(clf.held_out)
    new.save(tmp_path / "new.parquet")
    recalibrated = bl.recalibrate(folder, tmp_path / "new.parquet")
    assert recalibrated.recalibrator.num_rows == len(ROWS)
    assert bl.evaluate(folder)["nll"].value == pytest.approx(nll(clf.held_out))


def test_commands_take_a_directory_with_a_note(model, tmp_path, capsys):
    save = str(tmp_path / "decision.json")
    assert main(["decide", str(model[1]), "--risk", ".9", "--save", save, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["rows"] == len(ROWS)
    assert [HELD_OUT in line for line in printed.err.splitlines()] == [True]
    assert main(["recalibrate", "--fit", str(model[1]), "--save", str(tmp_path / "t.json")]) == 0
    assert capsys.readouterr().err.count(HELD_OUT) == 1
    assert main(["labels", str(model[1]), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["rows"] == len(ROWS)
    assert printed.err.count(HELD_OUT) == 1
