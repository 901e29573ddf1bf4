"""Files and directories appear whole or not at all."""

import json
import os
import stat
from pathlib import Path

import pytest

from bayeslora.errors import InputError
from bayeslora.files import atomic_directory, atomic_file, read_json, real_path, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "deep" / "file.txt"
    with atomic_file(target) as aside:
        aside.write_text("whole")
        assert aside.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "whole"
    assert names(target.parent) == ["file.txt"]


def test_a_failed_writer_leaves_the_old_file(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")

    def write():
        with atomic_file(target) as aside:
            aside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_modes_follow_the_umask_not_the_temporary_file(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "file") as aside:
            aside.write_text("")
        with atomic_directory(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_modes_inside_a_directory_follow_the_umask_whoever_wrote_the_files(tmp_path, mask, mode):
    """As safetensors does, which moves a private temporary file into place."""
    before = os.umask(mask)
    try:
        with atomic_directory(tmp_path / "folder") as aside:
            (aside / "sub").mkdir()
            for path in (aside / "a", aside / "sub" / "b"):
                path.write_text("")
                path.chmod(0o600)
            (aside / "link").symlink_to("a")
    finally:
        os.umask(before)
    for name in ("a", "sub/b"):
        assert stat.S_IMODE((tmp_path / "folder" / name).stat().st_mode) == mode
    assert (tmp_path / "folder" / "link").is_symlink()


def test_a_directory_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "folder"
    with atomic_directory(target) as aside:
        (aside / "inside").write_text("whole")
        assert not target.exists()
    assert names(target) == ["inside"]
    assert names(target.parent) == ["folder"]


def test_a_failed_writer_leaves_the_old_directory(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("old")

    def write():
        with atomic_directory(target, overwrite=True) as aside:
            (aside / "half").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_an_existing_directory_is_refused_before_anything_is_done(tmp_path):
    with pytest.raises(InputError, match=r"exists; .*overwrite"), atomic_directory(tmp_path):
        pytest.fail("the block ran")


@pytest.mark.parametrize("old", ["directory", "file", "link"])
def test_overwriting_replaces_whatever_is_there(tmp_path, old):
    target = tmp_path / "folder"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("")
    if old == "directory":
        target.mkdir()
        (target / "old").write_text("")
    elif old == "file":
        target.write_text("")
    else:
        target.symlink_to(elsewhere)
    with atomic_directory(target, overwrite=True) as aside:
        (aside / "new").write_text("")
    assert names(target) == ["new"]
    assert names(elsewhere) == (["new"] if old == "link" else ["kept"])
    assert names(tmp_path) == ["elsewhere", "folder"]


def test_the_old_directory_survives_a_rename_that_fails(tmp_path, monkeypatch):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("")
    rename = Path.rename

    def fail(path, to):
        if (path / "new").exists():
            raise OSError("disk is full")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", fail)

    def write():
        with atomic_directory(target, overwrite=True) as aside:
            (aside / "new").write_text("")

    with pytest.raises(OSError, match="disk is full"):
        write()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_json_round_trip(tmp_path):
    content = {"größe": [1, 2.5, None, True], "nested": {"a": "ß"}}
    write_json(tmp_path / "file.json", content)
    assert read_json(tmp_path / "file.json") == content
    assert "größe" in (tmp_path / "file.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_outside_json_are_refused_and_nothing_is_written(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"value": value})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "cannot be read as JSON"), (b"\xff\xfe", "cannot be read as JSON")],
)
def test_unreadable_json_is_named(tmp_path, content, message):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_missing_json_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json does not exist"):
        read_json(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_json(tmp_path)


def test_written_json_is_plain_json(tmp_path):
    write_json(tmp_path / "file.json", [1])
    assert json.loads((tmp_path / "file.json").read_text()) == [1]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    for name in ("file", "missing"):
        (tmp_path / name).symlink_to(tmp_path / "far" / name)
    (tmp_path / "far" / "file").write_text("old")
    for name in ("file", "missing"):
        with atomic_file(tmp_path / name) as aside:
            aside.write_text("new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "far" / name).read_text() == "new"
    (tmp_path / "far" / "folder").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path / "far" / "folder")
    with atomic_directory(tmp_path / "folder", overwrite=True) as aside:
        (aside / "new").touch()
    assert (tmp_path / "folder").is_symlink()
    assert names(tmp_path / "far" / "folder") == ["new"]
    assert names(tmp_path / "far") == ["file", "folder", "missing"]


@pytest.mark.parametrize("path", [".", "..", "inside/.."])
def test_the_working_directory_is_not_replaced(tmp_path, monkeypatch, path):
    """The process, and the shell that it was started from, would stand in a deleted one."""
    (tmp_path / "here" / "inside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")

    def write():
        with atomic_directory(path, overwrite=True):
            pass

    with pytest.raises(InputError, match="working directory"):
        write()
    assert names(tmp_path) == ["here"]


def test_links_in_a_circle_are_said_whatever_python_makes_of_them(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    first.symlink_to(second)
    second.symlink_to(first)
    monkeypatch.setattr(Path, "resolve", Path.absolute)
    with pytest.raises(InputError, match="first is a link that leads back to itself"):
        real_path(first)
    assert real_path(tmp_path / "none" / ".." / "new") == tmp_path / "new"
