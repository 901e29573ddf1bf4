"""The cache between runs: its limit, its order, and that nothing else is ever deleted."""

import os

import pytest

from bayeslora.io import FROZEN_STATES, cache_directory, kept_file, make_room, mark_used, may_keep


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BAYESLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BAYESLORA_CACHE_GIB", raising=False)


def put(key, size=100, *, age=0.0, kind=FROZEN_STATES):
    path = kept_file(kind, key)
    make_room(path)
    path.write_bytes(b"x" * size)
    stamp = 1_000_000 - age
    os.utime(path, (stamp, stamp))
    return path


def limit(monkeypatch, count):
    monkeypatch.setenv("BAYESLORA_CACHE_GIB", repr(count / (1 << 30)))


def test_the_least_recently_used_goes_first(monkeypatch):
    limit(monkeypatch, 250)
    old, older, new = put("old", age=1), put("older", age=2), put("new")
    other_kind = put("other", age=9, kind="another")
    mark_used(new)
    assert (old.exists(), older.exists(), new.exists()) == (True, False, True)
    assert other_kind.exists()


def test_what_was_read_counts_as_used(monkeypatch):
    limit(monkeypatch, 250)
    read, unread = put("read", age=2), put("unread", age=1)
    mark_used(read)
    mark_used(put("new"))
    assert (read.exists(), unread.exists()) == (True, False)


def test_the_newest_stays_whatever_its_size(monkeypatch):
    limit(monkeypatch, 50)
    new = put("new")
    mark_used(new)
    assert new.exists()


@pytest.mark.parametrize(("size", "fits"), [(0, False), (50, True), (51, False)])
def test_one_file_takes_half_of_the_limit_at_most(monkeypatch, size, fits):
    limit(monkeypatch, 100)
    assert may_keep(size) is fits


def test_only_what_is_ours_is_deleted(monkeypatch):
    limit(monkeypatch, 100)
    old = put("old", age=2)
    left = old.with_name(".key.safetensors.part")
    stranger = old.with_name("notes.txt")
    for path in (left, stranger):
        path.write_bytes(b"x" * 50)
        os.utime(path, (0, 0))
    mark_used(put("new"))
    assert (old.exists(), left.exists(), stranger.exists()) == (False, False, True)


def test_where_derived_files_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("BAYESLORA_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("BAYESLORA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "bayeslora"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory() == tmp_path / "home" / ".cache" / "bayeslora"
