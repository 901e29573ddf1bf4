"""The verb `cache`: listing and removing cached files."""

import json

import pytest

from bayeslora.cli.app import main
from bayeslora.io.cache import FROZEN_STATES, KINDS, kept_file, make_room


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("BAYESLORA_CACHE", str(tmp_path / "cache"))
    path = kept_file(FROZEN_STATES, "a")
    make_room(path)
    path.write_bytes(b"x" * 10)
    return tmp_path / "cache"


def run(capsys, *args):
    code = main(["cache", *args])
    return code, capsys.readouterr()


def test_kinds_are_listed_with_their_sizes(capsys, home):
    code, shown = run(capsys, "--json")
    result = json.loads(shown.out)
    assert code == 0
    assert result["directory"] == str(home)
    assert result["kinds"] == {
        kind: {"count": int(kind == FROZEN_STATES), "bytes": 10 * (kind == FROZEN_STATES)}
        for kind in KINDS
    }
    code, shown = run(capsys)
    assert code == 0
    assert all(kind in shown.out for kind in KINDS)


@pytest.mark.parametrize("args", [(), ("--clear", "all")])
def test_a_file_in_place_of_the_directory_is_refused(capsys, home, monkeypatch, args):
    file = home.parent / "file"
    file.touch()
    monkeypatch.setenv("BAYESLORA_CACHE", str(file))
    code, shown = run(capsys, *args)
    assert code == 2
    assert str(file) in shown.err


@pytest.mark.parametrize(("kind", "left"), [(FROZEN_STATES, 0), ("second-moments", 1), ("all", 0)])
def test_one_kind_or_all_are_cleared(capsys, kind, left):
    code, shown = run(capsys, "--clear", kind, "--json")
    assert code == 0
    assert json.loads(shown.out)["cleared"] is True
    assert kept_file(FROZEN_STATES, "a").exists() == bool(left)


def test_an_unknown_kind_or_limit_is_refused(capsys, monkeypatch):
    assert run(capsys, "--clear", "everything")[0] == 2
    monkeypatch.setenv("BAYESLORA_CACHE_GIB", "much")
    code, shown = run(capsys)
    assert code == 2
    assert "'much'" in shown.err
    assert kept_file(FROZEN_STATES, "a").exists()
