"""fit, predict and calibrate on models of a few thousand weights."""

import json
import os
import re
from pathlib import Path

import forked
import numpy as np
import tiny
import torch
from cli_files import write_rows
from safetensors.torch import load_file

from bayeslora import BayesianClassifier, Predictions, evaluate


def tensors(model):
    return {
        **load_file(model / "adapter.safetensors"),
        **load_file(model / "posterior.safetensors"),
    }


def test_fit_gives_what_python_gives(run, world, tmp_path):
    out = tmp_path / "model"
    result = run(
        "fit",
        world.train,
        "--validation",
        world.valid,
        "--out",
        out,
        "--backbone",
        world.bert,
        "--adapter",
        "polar:r=4,lr=2e-3",
        "--posterior",
        "vbll:prior_scale=1",
        *["--epochs", 2, "--batch-size", 8, "--seed", 3, "--max-length", 12, "--quiet"],
    )
    assert result.code == 0, result.err
    clf = BayesianClassifier(
        str(world.bert),
        {"name": "polar", "r": 4, "lr": 2e-3},
        {"name": "vbll", "prior_scale": 1},
        seed=3,
        max_length=12,
        progress=False,
    )
    clf.fit(world.train, world.valid, epochs=2, batch_size=8)
    clf.save_pretrained(tmp_path / "python")
    for name, tensor in tensors(tmp_path / "python").items():
        assert torch.equal(tensors(out)[name], tensor), name
    results = clf.record.results
    *table, summary = result.out.splitlines()
    lines = dict(line.rsplit("  ", 1) for line in table)
    fields = {name.strip(): value for name, value in lines.items()}
    nll = f"{results['validation_nll']:.3f}"
    assert fields == {
        "model": str(out),
        "validation": f"NLL {nll} nats, accuracy {results['validation_accuracy']:.3f}",
        "NLL of cheaper models": f"bag of words {results['baselines']['bag_of_words']:.3f}",
    }
    for part in (f"{out} in ", "polar-vbll", nll):
        assert part in summary
    assert re.search(r" in \d+ (s|min): ", summary)


def test_duplicates_and_truncation_are_noted_once(run, world, tmp_path):
    rows = tiny.toy_rows(30, seed=4)
    for row in rows:
        row.pop("id")
    train = write_rows(tmp_path / "train.jsonl", [*rows, *rows[:3]])
    result = run(
        *["fit", train, "--out", tmp_path / "m", "--backbone", world.llama, "--epochs", 1],
        *["--posterior", "map", "--quiet", "--max-length", 5, "--template", "{text}"],
    )
    assert result.code == 0
    notes = result.err.splitlines()
    assert len(notes) == 2
    assert all(note.startswith("note: ") for note in notes)
    assert "3 of 33 rows repeat" in notes[0]
    assert "longer than 5 tokens and were truncated" in notes[1]


def test_columns_are_remembered(run, world, tmp_path):
    renamed = [
        {"sentence": row["text"], "topic": row["label"]} for row in tiny.toy_rows(30, seed=1)
    ]
    data = write_rows(tmp_path / "data.jsonl", renamed)
    columns = ["--text-column", "sentence", "--label-column", "topic"]
    fit = ["fit", data, "--out", tmp_path / "m", "--backbone", world.llama, "--epochs", 1]
    assert run(*fit, *columns, "--posterior", "map", "--quiet").code == 0
    result = run("predict", tmp_path / "m", data, "--out", tmp_path / "p.csv", "--quiet")
    assert result.code == 0
    assert "30 of them labelled" in result.out


def test_predict_writes_what_python_predicts(run, world, tmp_path):
    out = tmp_path / "test.parquet"
    options = ["--num-samples", 50, "--link", "probit", "--seed", 4, "--quiet"]
    result = run("predict", world.model, world.test, "--out", out, *options)
    assert result.code == 0, result.err
    clf = BayesianClassifier.from_pretrained(world.model, progress=False)
    expected = clf.predict(world.test, num_samples=50, link="probit", seed=4)
    written = Predictions.load(out)
    np.testing.assert_array_equal(written.probs, expected.probs)
    np.testing.assert_array_equal(written.epistemic, expected.epistemic)
    assert written.ids == expected.ids
    assert written.metadata == expected.metadata
    scores = evaluate(expected)
    for key in ("accuracy", "nll", "ece"):
        assert f"{scores[key].value:.3f}" in result.out


def test_unknown_labels_can_be_kept(run, refused, world, tmp_path):
    rows = [{"text": "the cat", "label": "animals"}, {"text": "red", "label": "colours"}]
    data = write_rows(tmp_path / "data.jsonl", rows)
    predict = ["predict", world.model, data, "--out", tmp_path / "p.parquet", "--quiet"]
    message = refused(*predict)
    for part in ("data.jsonl", "row 2", "'label'", "'colours'", "'animals'"):
        assert part in message
    assert run(*predict, "--unknown-labels", "ood").code == 0
    predictions = Predictions.load(tmp_path / "p.parquet", columns=["unknown_label"])
    assert predictions.labels.tolist() == [0, -1]
    assert predictions.columns["unknown_label"].tolist() == [None, "colours"]
    assert run(*predict[:2], world.test, *predict[3:], "--unknown-labels", "ood", "--overwrite")
    known = Predictions.load(tmp_path / "p.parquet", columns=["unknown_label"])
    assert set(known.columns["unknown_label"]) == {None}


def test_another_process_predicts_the_same_bits(run, world, tmp_path):
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    assert run("predict", world.model, world.test, "--out", here, "--quiet").code == 0
    other = forked.command("predict", world.model, world.test, "--out", there, "--quiet")
    assert other.wait() == 0
    assert here.read_bytes() == there.read_bytes()


def test_a_moved_backbone_can_be_named(run, refused, world, tmp_path):
    record = json.loads((world.model / "bayeslora.json").read_text())
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in world.model.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    record["backbone"]["name"] = str(tmp_path / "gone")
    (moved / "bayeslora.json").write_text(json.dumps(record))
    tiny.without_hashes(moved)
    predict = ["predict", moved, world.test, "--out", tmp_path / "p.parquet", "--quiet"]
    assert "gone" in refused(*predict)
    assert f"backbone '{world.bert}' differs" in refused(*predict, "--backbone", world.bert)
    assert run(*predict, "--backbone", world.llama).code == 0
    # The output of calibrate records the new path, and export finds it by the option.
    again = tmp_path / "again"
    calibrate = ["calibrate", moved, world.train, "--posterior", "laplace", "--quiet"]
    assert run(*calibrate, "--set", f"backbone={world.llama}", "--out", again).code == 0
    assert run("predict", again, world.test, "--out", tmp_path / "q.parquet", "--quiet").code == 0
    export = ["export", moved, "--out", tmp_path / "peft"]
    assert "gone" in refused(*export)
    assert run(*export, "--set", f"backbone={world.llama}").code == 0


def test_columns_of_the_data_are_kept_in_the_predictions(run, refused, world, tmp_path):
    rows = tiny.toy_rows(6, seed=4)
    for k, row in enumerate(rows):
        row |= {"source": None if k == 1 else "ab"[k % 2], "n": k}
    data, out = write_rows(tmp_path / "d.jsonl", rows), tmp_path / "p.parquet"
    for name, part in (("sauce", "no column 'sauce'"), ("label", "'label': the name is reserved")):
        command = ["predict", world.model, data, "--keep", name, "--out", out]
        assert part in refused(*command)
    keep = ["--keep", "source", "--keep", "n", "--keep", "text"]
    assert run("predict", world.model, data, *keep, "--out", out, "--quiet").code == 0
    predictions = Predictions.load(out, columns=["source", "n", "text"])
    assert list(predictions.columns["source"]) == ["a", None, "a", "b", "a", "b"]
    assert list(predictions.columns["n"]) == list("012345")
    assert list(predictions.columns["text"]) == [row["text"] for row in rows]


def test_a_place_that_cannot_be_written_is_found_before_the_work(
    run, refused, world, tmp_path, monkeypatch
):
    """Root may write anywhere, so the test replaces the check of the permission."""
    (tmp_path / "file").touch()
    message = refused("predict", world.model, world.test, "--out", tmp_path / "file" / "p.csv")
    assert str(tmp_path / "file") in message
    mine = tmp_path / "elsewhere" / "mine.csv"
    assert run("predict", world.model, world.test, "--out", mine).code == 0
    monkeypatch.setattr(os, "access", lambda place, mode: not Path(place).is_relative_to(tmp_path))
    for words in (
        ["predict", world.model, world.test, "--out", tmp_path / "new" / "p.csv"],
        ["calibrate", world.model, world.valid, "--out", tmp_path / "m"],
        ["fit", world.train, "--backbone", world.llama, "--out", tmp_path / "m"],
        ["export", world.model, "--out", tmp_path / "peft"],
        ["compare", mine, mine, "--out", tmp_path / "c.md"],
        ["report", mine, "--out", tmp_path / "r"],
    ):
        assert "is not a directory to write to" in refused(*words)
