"""`--overwrite` never deletes a file that bayeslora did not write."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import refusal
from cli_files import fake
from tiny import QUICK_VBLL_ARGS

from bayeslora.cli import main


@pytest.fixture(scope="module")
def outputs(world, tmp_path_factory):
    """Write a directory with each verb that writes one; return the commands that replace them."""
    folder = tmp_path_factory.mktemp("outputs")
    file = fake(folder / "file.parquet")
    export = ("export", world.model, "--format")
    made = {
        "fit": (
            "fit",
            world.train,
            "--backbone",
            world.llama,
            "--epochs",
            1,
            *QUICK_VBLL_ARGS,
            "--quiet",
        ),
        "calibrate": ("calibrate", world.classifier, world.train, "--quiet"),
        "peft": (*export, "peft"),
        "merged": (*export, "merged"),
        "report": ("report", file, "--figures", "svg", "pdf"),
    }
    for name, command in made.items():
        assert main([str(word) for word in (*command, "--out", folder / name)]) == 0
    made["resume"] = made["fit"]
    shutil.copytree(folder / "fit", folder / "resume")
    mark = {"format_version": 1, "seed": 0}
    (folder / "resume" / "interrupted-fit.json").write_text(json.dumps(mark))
    return folder, made


VERBS = ("fit", "resume", "calibrate", "peft", "merged", "report")


@pytest.mark.parametrize("verb", VERBS)
def test_a_stranger_is_named_and_nothing_is_touched(refused, outputs, tmp_path, verb):
    folder, commands = outputs
    out = tmp_path / "out"
    shutil.copytree(folder / verb, out)
    (out / "thesis.tex").write_text("years of work")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert "thesis.tex" in refused(*commands[verb], "--out", out, "--overwrite")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_an_edited_figure_in_a_report_is_kept(refused, outputs, tmp_path):
    folder, commands = outputs
    out = shutil.copytree(folder / "report", tmp_path / "out")
    (out / "figures" / "reliability-1-edited.svg").write_text("mine")
    assert "edited" in refused(*commands["report"], "--out", out, "--overwrite")


@pytest.mark.parametrize("words", [(), ("--overwrite",)])
@pytest.mark.parametrize("mark", ["not JSON", '{"format_version": 1}'])
def test_a_mark_alone_does_not_make_other_files_ours(refused, outputs, tmp_path, words, mark):
    _, commands = outputs
    (tmp_path / "out" / "checkpoints").mkdir(parents=True)
    (tmp_path / "out" / "interrupted-fit.json").write_text(mark)
    (tmp_path / "out" / "README.md").write_text("years of work")
    refused(*commands["fit"], "--out", tmp_path / "out", *words)


@pytest.mark.parametrize(
    ("verb", "marker"),
    [
        ("fit", "bayeslora.json"),
        ("fit", "interrupted-fit.json"),
        ("calibrate", "bayeslora.json"),
        ("peft", "adapter_config.json"),
        ("peft", "bayeslora-export.json"),
        ("merged", "config.json"),
        ("merged", "bayeslora-export.json"),
        ("report", "scores.json"),
    ],
)
@pytest.mark.parametrize("beside", ["thesis.tex", None])
def test_a_marker_of_another_program_protects_a_directory(
    refused, outputs, tmp_path, verb, marker, beside
):
    _, commands = outputs
    out = tmp_path / "out"
    out.mkdir()
    (out / marker).write_text("{}")
    if beside is not None:
        (out / beside).write_text("years of work")
    assert "json" in refused(*commands[verb], "--out", out, "--overwrite")


@pytest.mark.parametrize("verb", ["calibrate", "peft", "merged", "report"])
def test_an_output_of_ours_is_replaced(run, outputs, tmp_path, verb):
    folder, commands = outputs
    out = tmp_path / "out"
    shutil.copytree(folder / verb, out)
    out.chmod(0o700)
    assert run(*commands[verb], "--out", out, "--overwrite").code == 0
    assert out.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("metadata", [None, {"bayeslora": "{}"}, {"bayeslora": "["}])
def test_tensors_of_another_program_are_kept(refused, world, tmp_path, metadata):
    import torch
    from safetensors.torch import save_file

    out = tmp_path / "mine.safetensors"
    save_file({"x": torch.ones(2)}, out, metadata)
    before = out.read_bytes()
    export = ("export", world.model, "--format", "safetensors", "--out", out, "--overwrite")
    assert "mine.safetensors" in refused(*export)
    assert out.read_bytes() == before


def test_a_private_predictions_file_stays_private(run, world, tmp_path):
    out = tmp_path / "p.parquet"
    out.touch(0o600)
    assert run("predict", world.model, world.test, "--out", out, "--overwrite", "--quiet").code == 0
    assert out.stat().st_mode & 0o777 == 0o600


def test_a_second_writer_is_refused_at_the_start(refused, outputs, world, tmp_path):
    """Whatever the first one writes there: the lock belongs to the path."""
    folder, commands = outputs
    out = tmp_path / "out.parquet"
    program = (
        "from bayeslora.io.files import lock\n"
        f"with lock({str(out)!r}): print('begun', flush=True); input()"
    )
    file = folder / "file.parquet"
    apart = ("--fit", file, "--apply", file)
    more = {
        "predict": ("predict", world.model, world.test),
        "recalibrate": ("recalibrate", *apart),
        "conformal": ("conformal", *apart),
        "compare": ("compare", file, file),
        "demo": ("demo",),
        "tensors": ("export", world.model, "--format", "safetensors"),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "begun\n"
        for command in (commands | more).values():
            assert "another process is writing to" in refused(*command, "--out", out)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_file_is_never_replaced(refused, outputs, world, tmp_path, kind, monkeypatch):
    """Every verb that writes refuses it before its work, even with --overwrite."""
    folder, commands = outputs
    monkeypatch.chdir(tmp_path)
    file = folder / "file.parquet"
    apart = ("--fit", file, "--apply", file)
    more = {
        "out.csv": [
            ("predict", world.model, world.test),
            ("recalibrate", *apart),
            ("conformal", *apart),
            ("convert", file),
            ("compare", file, file),
        ],
        "out": [*(commands[verb] for verb in VERBS), ("demo",)],
        "out.safetensors": [("export", world.model, "--format", "safetensors")],
    }
    for name, calls in more.items():
        if kind == "pipe":
            os.mkfifo(name)
        else:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(name)
        before = os.lstat(name)
        for command in calls:
            assert name in refused(*command, "--out", name, "--overwrite")
            assert os.lstat(name) == before


def test_a_pipe_is_not_replaced_from_python_either(tmp_path):
    from bayeslora.io.files import refuse_existing
    from bayeslora.predictions.record import Predictions

    os.mkfifo(tmp_path / "p.csv")
    with refusal.refused("input", "p.csv"):
        Predictions.load(fake(tmp_path / "q.csv")).save(tmp_path / "p.csv")
    # Only the check: a wrong writer would replace the device of this machine.
    with refusal.refused("input", "/dev/zero"):
        refuse_existing("/dev/zero", overwrite=True)
