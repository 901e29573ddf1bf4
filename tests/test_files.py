"""Files appear whole or not at all."""

import json
import os
import stat
from pathlib import Path

import pytest
from refusal import refused

from bayeslora.errors import InputError
from bayeslora.io.files import atomic_file, read_json, real_path, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "deep" / "file.txt"
    with atomic_file(target) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "whole"
    assert names(target.parent) == ["file.txt"]


def test_a_failed_writer_leaves_the_old_file(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")

    def write():
        with atomic_file(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


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


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_unreadable_json_is_named(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with refused("input", "JSON") as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_missing_json_is_named(tmp_path):
    with refused("input", "nowhere.json"):
        read_json(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="regular file"):
        read_json(tmp_path)


def test_written_json_is_plain_json(tmp_path):
    write_json(tmp_path / "file.json", [1])
    assert json.loads((tmp_path / "file.json").read_text()) == [1]


def test_links_in_a_circle_are_said_whatever_python_makes_of_them(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    first.symlink_to(second)
    second.symlink_to(first)
    monkeypatch.setattr(Path, "resolve", Path.absolute)
    with refused("input", "first"):
        real_path(first)
    assert real_path(tmp_path / "none" / ".." / "new") == tmp_path / "new"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_a_replaced_file_keeps_its_mode(tmp_path, mode):
    target = tmp_path / "file"
    target.touch()
    target.chmod(mode)
    with atomic_file(target) as temporary:
        temporary.write_text("new")
    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert target.read_text() == "new"


def test_json_that_would_fill_the_memory_is_not_read(tmp_path):
    path = tmp_path / "file.json"
    path.touch()
    os.truncate(path, 1 << 36)
    with refused("input", "file.json"):
        read_json(path)
