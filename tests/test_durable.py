"""A kill at any file operation leaves the old or the new state."""

import errno
import os
import stat
from pathlib import Path

import pytest
from crashes import survivors

from bayeslora import durable
from bayeslora.io.directories import Layout, atomic_directory
from bayeslora.io.files import atomic_file

LAYOUT = Layout("a thing", "a.json", 1, files=("b", "c/d"))
EXCHANGES = [True, False]


def state(path):
    if not path.is_dir():
        return path.read_text() if path.exists() else None
    return {
        file.relative_to(path).as_posix(): file.read_text()
        for file in path.rglob("*")
        if file.is_file()
    }


def directory(version):
    return {"a.json": '{"format_version": 1}', "b": version, "c/d": version}


def fill(folder, version):
    (folder / "c").mkdir(parents=True)
    for name, text in directory(version).items():
        (folder / name).write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def quick(monkeypatch):
    """Patch syncs to do nothing: a killed process loses nothing that it wrote."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(params=EXCHANGES, ids=["exchange", "two renames"])
def way(request, monkeypatch):
    """Select one of the two ways of replacing a directory."""
    if not request.param:
        monkeypatch.setattr(durable, "_exchange", lambda first, second: False)
    return request.param


def test_this_system_exchanges_directories(tmp_path):
    """Otherwise the tests of the exchange would test the two renames."""
    first, second = tmp_path / "one", tmp_path / "other"
    first.mkdir()
    (second / "inside").mkdir(parents=True)
    if not durable._exchange(first, second):
        pytest.skip("no renameat2 here")
    assert names(first) == ["inside"]
    assert names(second) == []
    assert not durable._exchange(first, tmp_path / "missing")


def test_a_file_killed_at_any_point(tmp_path, quick):
    target = tmp_path / "file"
    target.write_text("old")
    target.chmod(0o600)

    def write(version="new"):
        with atomic_file(target) as temporary:
            temporary.write_text(version)

    seen = set()
    for _ in survivors(write):
        seen.add(state(target))
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        write("old")
        assert names(tmp_path) == ["file"]
    assert seen == {"old", "new"}


@pytest.mark.parametrize("before", ["old", None])
def test_a_directory_killed_at_any_point(tmp_path, way, before, quick):
    target = tmp_path / "out"
    old = directory("old") if before else None
    if before:
        fill(target, "old")

    def write(version="new"):
        with atomic_directory(target, LAYOUT, overwrite=True) as temporary:
            fill(temporary, version)

    seen = []
    for _ in survivors(write):
        current = state(target)
        if current is None and before:
            # Between the two renames: the next writer restores the old directory.
            assert not way
            durable.sweep(target)
            current = state(target)
        assert current in (old, directory("new"))
        seen.append(current)
        write("old")
        assert state(target) == directory("old")
        assert names(tmp_path) == ["out"]
        if not before:
            durable.remove(target)
    assert old in seen
    assert directory("new") in seen


def test_everything_is_synced_before_it_is_named(tmp_path, monkeypatch, way):
    target = tmp_path / "out"
    fill(target, "old")
    synced = []
    fsync = os.fsync

    def note(handle):
        path = Path(f"/proc/self/fd/{handle}").readlink()
        inside = any(part.endswith(".part") for part in path.parts)
        synced.append((path.name if inside else str(path), state(target).get("b")))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    with atomic_directory(target, LAYOUT, overwrite=True) as temporary:
        fill(temporary, "new")
    before = {name for name, version in synced if version == "old"}
    assert {"a.json", "b", "d", "c"} <= before
    assert synced[-1] == (str(tmp_path), "new")


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_what_does_not_reach_the_disk_is_not_named(tmp_path, monkeypatch, way, code):
    target = tmp_path / "out"
    fill(target, "old")

    def fail(handle):
        raise OSError(code, os.strerror(code))

    def write():
        with atomic_directory(target, LAYOUT, overwrite=True) as temporary:
            fill(temporary, "new")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(code)):
        write()
    assert state(target) == directory("old")
    assert names(tmp_path) == ["out"]


def test_file_systems_that_cannot_sync_directories(tmp_path, monkeypatch):
    fsync = os.fsync

    def refuse(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    with atomic_directory(tmp_path / "out") as temporary:
        fill(temporary, "new")
    assert state(tmp_path / "out") == directory("new")


def test_only_what_belongs_to_the_target_is_swept(tmp_path):
    others = (".out2.abcd_123.part", ".out.txt", ".out.abcd_123.part.txt", "out.abcd_123.part")
    # The replaced directory may contain somebody's files.
    remaining = ["out", ".out.efgh_456.gone", ".out.parts", *others]
    for name in (".out.abcd_123.part", ".out.ijkl_789.old", *remaining):
        (tmp_path / name).touch()
    durable.sweep(tmp_path / "out")
    assert names(tmp_path) == sorted([".out.ijkl_789.gone", *remaining])


def test_read_only_leftovers_are_removed_and_links_not_followed(tmp_path):
    far = tmp_path / "far"
    far.mkdir(mode=0o500)
    inside = tmp_path / ".out.abcd_123.part" / "inside"
    inside.mkdir(parents=True)
    (inside / "file").touch()
    (inside / "link").symlink_to(far)
    inside.chmod(0o500)
    inside.parent.chmod(0o500)
    durable.sweep(tmp_path / "out")
    assert names(tmp_path) == ["far"]
    assert stat.S_IMODE(far.stat().st_mode) == 0o500
