"""Commands killed at a file operation: they leave the old result or the new, and repeat."""

import shutil

import pytest
from crashes import killed

from bayeslora.cli import main
from bayeslora.io import OLD, hidden

POINTS = (1, 2, 3, 4, 6, 9, 14, 20, 30, 45, 70, 110)
"""Numbers of the file operations before which the command is killed."""


@pytest.fixture(scope="module")
def room(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("room")
    for name in ("valid", "test"):
        words = ["predict", world.model, getattr(world, name), "--out", folder / f"{name}.parquet"]
        assert main(list(map(str, [*words, "--num-samples", 20, "--quiet"]))) == 0
    return folder


def words_of(verb, world, room):
    both = ("--fit", room / "valid.parquet", "--apply", room / "test.parquet")
    return {
        "recalibrate": ("recalibrate", *both, "--out", "out.parquet"),
        "export": ("export", world.model, "--out", "out"),
        "calibrate": ("calibrate", world.classifier, world.train, "--out", "out", "--quiet"),
        "report": ("report", room / "test.parquet", "--out", "out"),
    }[verb]


def state(path):
    if path.is_file():
        return path.read_bytes()
    files = (file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


@pytest.mark.parametrize("verb", ["recalibrate", "export", "calibrate", "report"])
def test_a_killed_command_leaves_the_old_or_the_new(world, room, tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    words = [str(word) for word in words_of(verb, world, room)]
    out = tmp_path / words[words.index("--out") + 1]
    run = [*words, "--overwrite"]
    assert main(run) == 0
    new, names = state(out), sorted(path.name for path in tmp_path.iterdir())
    for point in POINTS:
        if not killed(lambda: main(run), point):
            break
        aside = hidden(out, OLD)
        assert state(out if out.exists() else aside) == new
    assert main(run) == 0
    assert state(out) == new
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    if killed(lambda: main(run), 3):
        assert not out.exists()
    assert main(run) == 0
    assert state(out) == new
