"""`--overwrite` never deletes a file that bayeslora did not write."""

import json
import shutil

import pytest
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


@pytest.mark.parametrize("verb", ["calibrate", "peft", "merged", "report"])
def test_an_output_of_ours_is_replaced(run, outputs, tmp_path, verb):
    folder, commands = outputs
    out = tmp_path / "out"
    shutil.copytree(folder / verb, out)
    out.chmod(0o700)
    assert run(*commands[verb], "--out", out, "--overwrite").code == 0
    assert out.stat().st_mode & 0o777 == 0o700
