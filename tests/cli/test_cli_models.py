"""fit, predict and calibrate on models of a few thousand weights."""

import json
import os
import re
import shutil
from pathlib import Path

import forked
import numpy as np
import pytest
import refusal
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
    best = results["best_epoch"]
    *table, summary = result.out.splitlines()
    lines = dict(line.rsplit("  ", 1) for line in table)
    fields = {name.strip(): value for name, value in lines.items()}
    assert fields == {
        "model": str(out),
        "best epoch": f"{best} of 2",
        "validation NLL (nats)": f"{results['validation_nll']:.3f}",
        "validation accuracy": f"{results['validation_accuracy']:.3f}",
    }
    nll = f"{results['validation_nll']:.3f}"
    for part in (f"{out} in ", "polar-vbll", "prior scale 1,", nll):
        assert part in summary
    assert re.search(r" in \d+ (s|min): ", summary)


def test_fit_without_validation_in_json(run, world, tmp_path):
    result = run(
        *["fit", world.train, "--out", tmp_path / "m", "--backbone", world.llama],
        *["--posterior", "map", "--epochs", 1, "--quiet", "--json"],
    )
    content = json.loads(result.out)
    assert content["model"] == str(tmp_path / "m")
    assert content["best_epoch"] == 1
    assert "validation_nll" not in content["history"][0]


@pytest.mark.usefixtures("terminal")
def test_bars_are_on_stderr_unless_quiet(run, world, tmp_path):
    fit = ["fit", world.train, "--backbone", world.llama, "--epochs", 1, "--posterior", "map"]
    loud = run(*fit, "--out", tmp_path / "loud")
    assert "step/s" in loud.err
    assert "step/s" not in loud.out
    assert run(*fit, "--out", tmp_path / "quiet", "--no-progress").err == ""


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


def test_a_known_task_is_fitted_and_predicted_by_split(run, world, tmp_path):
    folder = tmp_path / "data" / "sst2_sentences"
    folder.mkdir(parents=True)
    words = {"animals": "negative", "food": "positive"}
    for split, seed in (("train", 1), ("validation", 2), ("test", 3)):
        rows = [
            {"id": row["id"], "question": row["text"], "label": words[row["label"]]}
            for row in tiny.toy_rows(45, seed=seed)
            if row["label"] in words
        ]
        write_rows(folder / f"{split}.jsonl", rows)
    (folder / "classes.json").write_text(json.dumps(["negative", "positive"]))
    task = ["--task", "sst2_sentences", "--data-dir", tmp_path / "data", "--quiet"]
    fit = ["fit", "--validation", "validation", "--out", tmp_path / "m", "--epochs", 1]
    assert run(*fit, "--backbone", world.llama, *tiny.QUICK_VBLL_ARGS, *task).code == 0
    result = run("predict", tmp_path / "m", "test", "--out", tmp_path / "p.parquet", *task)
    assert result.code == 0
    assert Predictions.load(tmp_path / "p.parquet").classes == ("negative", "positive")


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


def test_predict_without_labels_prints_no_scores(run, world, tmp_path):
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": "the cat"}, {"text": "warm rain"}])
    result = run("predict", world.model, texts, "--out", tmp_path / "p.parquet", "--quiet")
    assert "2 rows, 0 of them labelled" in result.out
    assert "NLL" not in result.out
    assert Predictions.load(tmp_path / "p.parquet").labels is None


def test_unknown_labels_can_be_kept(run, refused, world, tmp_path):
    rows = [{"text": "the cat", "label": "animals"}, {"text": "red", "label": "colours"}]
    data = write_rows(tmp_path / "data.jsonl", rows)
    predict = ["predict", world.model, data, "--out", tmp_path / "p.parquet", "--quiet"]
    message = refused(*predict)
    for part in ("data.jsonl", "row 2", "'label'", "'colours'", "'animals'", "--unknown-labels"):
        assert part in message
    calibrate = ["calibrate", world.model, data, "--out", tmp_path / "m", "--quiet"]
    assert "--unknown-labels" not in refused(*calibrate)
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
    assert run(*calibrate, "--backbone", world.llama, "--out", again).code == 0
    assert run("predict", again, world.test, "--out", tmp_path / "q.parquet", "--quiet").code == 0
    export = ["export", moved, "--out", tmp_path / "peft"]
    assert "gone" in refused(*export)
    assert run(*export, "--backbone", world.llama).code == 0


def test_only_a_model_of_ours_has_a_backbone_elsewhere(refused, world, tmp_path):
    message = refused(
        *["calibrate", world.bert, world.train, "--out", tmp_path / "m", "--backbone", world.llama]
    )
    assert f"--backbone requires a bayeslora model, but {world.bert} is not one" in message


def test_a_posterior_over_adapter_weights_by_its_name(run, world, tmp_path):
    fit = run(
        *["fit", world.train, "--out", tmp_path / "m", "--backbone", world.llama],
        *["--adapter", "lora:r=2", "--posterior", "swag:num_samples=3,num_snapshots=4"],
        *["--epochs", 2, "--quiet", "--json"],
    )
    assert fit.code == 0, fit.err
    assert json.loads(fit.out)["posterior"]["num_snapshots"] == 4
    for options, draws in (((), "3"), (("--num-samples", 5), "5"), (("--num-samples", 0), "0")):
        out = tmp_path / f"draws-{draws}.parquet"
        done = run("predict", tmp_path / "m", world.test, "--out", out, "--quiet", *options)
        assert done.code == 0, done.err
        predictions = Predictions.load(out)
        assert predictions.metadata["num_samples"] == draws
        assert bool(predictions.epistemic.any()) == (draws != "0")


def test_a_posterior_that_the_training_is_too_short_for_is_refused(refused, world, tmp_path):
    message = refused(
        *["fit", world.train, "--out", tmp_path / "m", "--backbone", world.llama],
        *["--posterior", "swag", "--epochs", 1, "--batch-size", 64],
    )
    assert "2 training steps allow only 1" in message


def test_columns_of_the_data_are_kept_in_the_predictions(run, refused, world, tmp_path):
    rows = tiny.toy_rows(6, seed=4)
    for k, row in enumerate(rows):
        row |= {"source": None if k == 1 else "ab"[k % 2], "n": k}
    data, out = write_rows(tmp_path / "d.jsonl", rows), tmp_path / "p.parquet"
    for name, part in (
        ("sauce", "did you mean 'source'"),
        ("label", "'label': the name is reserved"),
    ):
        command = ["predict", world.model, data, "--keep", name, "--out", out]
        assert part in refused(*command)
    keep = ["--keep", "source", "--keep", "n", "--keep", "text"]
    assert run("predict", world.model, data, *keep, "--out", out, "--quiet").code == 0
    predictions = Predictions.load(out, columns=["source", "n", "text"])
    assert list(predictions.columns["source"]) == ["a", None, "a", "b", "a", "b"]
    assert list(predictions.columns["n"]) == list("012345")
    assert list(predictions.columns["text"]) == [row["text"] for row in rows]


def test_what_launchers_tell_accelerate_changes_nothing(run, world, tmp_path):
    """Its precision would change the numbers without a trace in the record."""
    words = ["fit", world.train, "--backbone", world.bert, "--epochs", 1, *tiny.QUICK_VBLL_ARGS]
    words += ["--quiet", "--out"]
    assert run(*words, tmp_path / "plain").code == 0
    variables = {
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_USE_DEEPSPEED": "true",
        "LOCAL_RANK": "0",
        "RANK": "0",
        "WORLD_SIZE": "1",
        "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_COMM_WORLD_SIZE": "1",
        "PMI_RANK": "1",
        "PMI_SIZE": "",
    }
    done = forked.command(*words, tmp_path / "told", env=variables)
    _, err = done.communicate()
    assert done.returncode == 0, err
    assert "ACCELERATE_MIXED_PRECISION=bf16" in err  # has no effect
    expected, actual = (
        load_file(tmp_path / name / "adapter.safetensors") for name in ("plain", "told")
    )
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def test_a_model_keeps_its_tokenizer(run, world, tmp_path):
    """The fingerprint of the weights says nothing about it."""
    backbone = shutil.copytree(world.bert, tmp_path / "bert")
    words = ["fit", world.train, "--backbone", backbone, "--epochs", 1, "--quiet"]
    words += tiny.QUICK_VBLL_ARGS
    assert run(*words, "--out", tmp_path / "m").code == 0
    predict = ["predict", tmp_path / "m", world.test, "--quiet", "--out"]
    assert run(*predict, tmp_path / "before.csv").code == 0
    file = backbone / "tokenizer.json"
    content = json.loads(file.read_text())
    words = content["model"]["vocab"]
    known = [word for word in words if not word.startswith("[")]
    content["model"]["vocab"] |= {
        word: words[other] for word, other in zip(known, known[::-1], strict=True)
    }
    file.write_text(json.dumps(content))
    assert run(*predict, tmp_path / "after.csv").code == 0
    assert (tmp_path / "after.csv").read_bytes() == (tmp_path / "before.csv").read_bytes()


def test_a_backbone_that_is_gone_is_asked_for(run, refused, world, tmp_path):
    backbone = shutil.copytree(world.llama, tmp_path / "llama")
    words = ["--backbone", backbone, "--epochs", 1, "--quiet", "--out", tmp_path / "m"]
    words += tiny.QUICK_VBLL_ARGS
    assert run("fit", world.train, *words).code == 0
    shutil.rmtree(backbone)
    message = refused("predict", tmp_path / "m", world.test, "--out", tmp_path / "p.csv")
    assert f"{tmp_path / 'm'}: its backbone cannot be loaded: {backbone}" in message
    assert "--backbone" in message


def test_a_moved_backbone_of_another_kind_is_named(refused, world, tmp_path):
    message = refused(
        *["predict", world.model, world.test, "--backbone", world.bert],
        *["--out", tmp_path / "p.csv"],
    )
    assert f"backbone '{world.bert}' differs" in message
    assert f"of '{world.llama}' when the model was made" in message


def test_a_file_is_no_backbone(refused, world, tmp_path):
    file = world.bert / "config.json"
    message = refused("fit", world.train, "--backbone", file, "--out", tmp_path / "m")
    assert f"{file} is a file; pass its directory, {world.bert}" in message


@pytest.mark.parametrize("verb", ["fit", "predict"])
def test_seeds_are_those_that_generators_take(refused, world, tmp_path, verb):
    words = [world.train] if verb == "fit" else [world.model, world.test]
    message = refused(verb, *words, "--out", tmp_path / "p.csv", "--seed", 2**32)
    assert "seed" in message
    assert "4294967296" in message


def test_an_output_that_is_an_input(run, refused, world, tmp_path):
    data = shutil.copy(world.test, tmp_path / "data.jsonl")
    assert "is an input" in refused(*["predict", world.model, data, "--out", data, "--overwrite"])
    first, second = tmp_path / "one.csv", tmp_path / "two.csv"
    for file in (first, second):
        assert run("predict", world.model, data, "--out", file, "--quiet").code == 0
    (tmp_path / "link.csv").symlink_to(first)
    for words in (
        ["recalibrate", "--fit", first, "--apply", second, "--out", tmp_path / "link.csv"],
        ["conformal", "--fit", second, "--apply", first, "--alpha", 0.1, "--out", first],
        ["compare", first, second, "--out", first],
        ["convert", first, "--out", first],
    ):
        assert "is an input" in refused(*words, "--overwrite")
    backbone = shutil.copytree(world.llama, tmp_path / "llama")
    words = ["--backbone", backbone, "--epochs", 1, "--quiet", "--out", tmp_path / "m"]
    words += tiny.QUICK_VBLL_ARGS
    assert run("fit", world.train, *words).code == 0
    words = ["export", tmp_path / "m", "--format", "merged", "--overwrite", "--out"]
    assert "is an input" in refused(*words, backbone)
    assert "is an input" in refused(*words, tmp_path / "m")
    moved = backbone.rename(tmp_path / "moved")
    assert "is an input" in refused(*words, moved, "--backbone", moved)
    moved.rename(backbone)
    assert run("predict", tmp_path / "m", data, "--out", tmp_path / "p.csv").code == 0


def test_an_output_never_replaces_a_directory_with_its_inputs(run, refused, world, tmp_path):
    out = shutil.copytree(world.model, tmp_path / "m")
    data = shutil.copy(world.train, out / "train.jsonl")
    backbone = shutil.copytree(world.llama, out / "llama")
    inner = shutil.copytree(world.classifier, out / "classifier")
    config = out / "fit.yaml"
    config.write_text("epochs: 1\n")
    file = tmp_path / "report" / "p.csv"
    assert run("predict", world.model, world.test, "--out", tmp_path / "p.csv").code == 0
    report = ["report", tmp_path / "p.csv", "--out", file.parent]
    assert run(*report).code == 0
    shutil.copy(tmp_path / "p.csv", file)
    for path, words in (
        (data, ["fit", data, "--out", out]),
        (data, ["fit", world.train, "--validation", data, "--out", out]),
        (backbone, ["fit", world.train, "--backbone", backbone, "--out", out]),
        (config, ["fit", world.train, "--config", config, "--out", out]),
        (data, ["fit", world.train, "--adapter", f"corda:mode=kpm,context={data}", "--out", out]),
        (data, ["calibrate", world.model, data, "--out", out]),
        (inner, ["calibrate", inner, world.train, "--out", out]),
        (file, [*report, "--model-card", file]),
        (file, ["report", file, "--out", file.parent]),
        (file, [*report, "--ood", f"far={file}"]),
    ):
        message = refused(*words, "--overwrite")
        # Whichever is found first: an input of the command, or a file that is not ours.
        assert f"contains {path}, an input" in message or "is not overwritten" in message
        assert Path(path).exists()
    with refusal.refused("input", data):
        BayesianClassifier(str(world.llama)).fit(data, out=out, overwrite=True)
    clf = BayesianClassifier(str(backbone), "lora:r=2", "mle", progress=False)
    clf.fit(tiny.toy_rows(20), epochs=1)
    with refusal.refused("exists", out):
        clf.save_pretrained(out, overwrite=True)
    assert "p.csv" in refused(*report, "--overwrite")
    file.unlink()
    assert run(*report, "--overwrite").code == 0


def test_a_short_name_is_no_directory(run, world, tmp_path, monkeypatch):
    """If a model of that name is embedded, nothing is read from the directory."""
    from bayeslora.backbones.embedded import directories

    monkeypatch.chdir(tmp_path)
    shutil.copytree(world.llama, tmp_path / "minilm")
    shutil.copytree(world.llama, tmp_path / "mine")
    assert directories("minilm", "mine", None, "a/b") == [Path("mine")]
    (tmp_path / "empty").mkdir()
    words = ["--out", tmp_path / "empty", "--overwrite"]
    assert run("export", world.model, *words).code == 0


def test_a_link_that_leads_to_itself(refused, world, tmp_path):
    link = tmp_path / "p.csv"
    link.symlink_to(link)
    message = refused("predict", world.model, world.test, "--out", link)
    assert f"{link} is a symbolic link that points back to itself" in message


def test_what_may_not_be_looked_at_is_said(run, world, tmp_path, monkeypatch):
    """Root may look anywhere, so the test raises the error itself."""

    def stat(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("bayeslora.io.files.real_path", stat)
    result = run("predict", world.model, world.test, "--out", tmp_path / "p.csv")
    assert result.code == 2
    assert result.err == f"bayeslora: error: permission denied: {tmp_path / 'p.csv'}\n"


def test_second_texts_for_a_model_of_single_ones(refused, world, tmp_path):
    rows = [row | {"other": "a cat"} for row in tiny.toy_rows(3)]
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    words = ["--text-pair-column", "other", "--out"]
    assert "the model was fitted to single texts" in refused(
        "predict", world.model, data, *words, tmp_path / "p.csv"
    )
    assert "the model was fitted to single texts" in refused(
        "calibrate", world.model, data, *words, tmp_path / "m"
    )
    clf = BayesianClassifier.from_pretrained(world.model, progress=False)
    with refusal.refused("input", "pair_column", "'other'"):
        clf.calibrate(data, pair_column="other")


@pytest.mark.parametrize(
    "words",
    [["--text-column", "label"], ["--text-pair-column", "text"], ["--label-column", "text"]],
)
def test_one_column_is_not_two_things(refused, world, tmp_path, words):
    message = refused("fit", world.train, *words, "--out", tmp_path / "m")
    assert f"{words[0]} {words[1]!r}" in message


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
        ["info", world.model, "--spectrum", "--figure", tmp_path / "s.svg"],
        ["compare", mine, mine, "--out", tmp_path / "c.md"],
        ["compare", mine, mine, "--out", tmp_path / "c"],
        ["report", mine, "--out", tmp_path / "r"],
    ):
        assert f"no permission to write to {tmp_path}" in refused(*words)
