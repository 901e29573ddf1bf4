"""Files and directories appear whole or not at all, and replace only what is ours."""

import json
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from crashes import survivors
from refusal import refused

from bayeslora.errors import InputError
from bayeslora.io import (
    Layout,
    atomic_directory,
    atomic_file,
    load_yaml,
    lock,
    read_json,
    refuse_foreign,
    write_json,
)

THING = Layout("thing.json", ("data-*.bin", "figures/*.svg"))
DRAFT = Layout("scores.json", ("work/step-*/state",))
OURS = {"format_version": 2, "name": "x"}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def make(folder, files, marker=OURS):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")
    if marker is not None:
        folder.mkdir(exist_ok=True)
        (folder / "thing.json").write_text(
            marker if isinstance(marker, str) else json.dumps(marker)
        )
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def state(path):
    if not path.is_dir():
        return path.read_text() if path.exists() else None
    return {
        file.relative_to(path).as_posix(): file.read_text()
        for file in path.rglob("*")
        if file.is_file()
    }


@contextmanager
def another_process(target):
    """Start another process that writes to `target`; kill it at the end."""
    program = (
        "from bayeslora.io import lock\n"
        f"with lock({str(target)!r}): print('begun', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "begun\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_second_writer_is_refused_until_the_first_is_killed(tmp_path):
    out, live = tmp_path / "out", tmp_path / ".out.part"
    with another_process(out):
        live.touch()
        before = names(tmp_path)
        with refused("busy"), lock(out):
            pytest.fail("the block ran")
        with refused("busy"), atomic_directory(out):
            pytest.fail("the block ran")
        assert names(tmp_path) == before
    with lock(out):
        assert not live.exists(), "what the dead process left is cleaned up"
    assert names(tmp_path) == []


def test_a_waiting_writer_goes_on_when_the_first_ends(tmp_path):
    out = tmp_path / "out"
    with another_process(out) as process:
        threading.Timer(0.2, process.kill).start()
        with atomic_file(out) as temporary:
            temporary.write_text("new")
    assert names(tmp_path) == ["out"]


def test_a_file_killed_at_any_point(tmp_path):
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
def test_a_directory_killed_at_any_point(tmp_path, before):
    """Between the two renames it is missing; the next writer restores it first."""
    target = tmp_path / "out"

    def write(version="new"):
        with atomic_directory(target, THING, overwrite=True) as temporary:
            make(temporary, ["data-1.bin"], {**OURS, "version": version})

    def version():
        return json.loads(state(target)["thing.json"])["version"] if target.exists() else None

    if before:
        write("old")
    seen = set()
    for _ in survivors(write):
        with lock(target):
            seen.add(version())
        write("old")
        assert version() == "old"
        assert names(tmp_path) == ["out"]
        if not before:
            for file in (*target.iterdir(), target):
                file.rmdir() if file.is_dir() else file.unlink()
    assert seen == {before, "new"}


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
    write_json(tmp_path / "deep" / "file.json", content)
    assert read_json(tmp_path / "deep" / "file.json") == content
    assert "größe" in (tmp_path / "deep" / "file.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_outside_json_are_refused_and_nothing_is_written(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"value": value})
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_unreadable_json_is_named(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with refused("damaged", str(path)):
        read_json(path)


@pytest.mark.parametrize("text", ["a: [", "!!python/object:os.system {}"])
def test_yaml_that_is_not_plain_is_refused(text):
    with refused("input"):
        load_yaml(text)


@pytest.mark.parametrize(
    "files",
    [
        (),
        ("data-1.bin", "figures/a.svg"),
        # Leftovers of killed writers.
        (".adapter.safetensors.part", ".scores.json.lock"),
        ("listed.txt", "deep/listed.txt", "[x].txt"),
    ],
)
def test_what_is_ours_is_replaced(tmp_path, files):
    marker = {**OURS, "files": ["listed.txt", "deep/listed.txt", "[x].txt"]}
    folder = make(tmp_path / "out", files, marker)
    with atomic_directory(folder, THING, overwrite=True) as temporary:
        (temporary / "thing.json").write_text("new")
    assert names(folder) == ["thing.json"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("thesis.tex", "thesis.tex"),
        ("figures/thesis.tex", "figures/thesis.tex"),
        ("deep/data-1.bin", "deep/data-1.bin"),
        ("data-1.bin/thesis.tex", "data-1.bin/thesis.tex"),
        (".hidden", ".hidden"),
        ("data-1.bin.part", "data-1.bin.part"),
        ("x.txt", "x.txt"),
    ],
)
def test_the_first_foreign_file_is_named_and_nothing_is_touched(tmp_path, foreign, shown):
    folder = make(tmp_path / "out", ["data-0.bin", foreign], {**OURS, "files": ["[x].txt"]})
    before = contents(tmp_path)
    with pytest.raises(InputError) as caught, atomic_directory(folder, THING, overwrite=True):
        pytest.fail("the block ran")
    assert repr(shown) in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("marker", [None, "[]", "{", {"name": "x"}])
def test_a_marker_that_is_not_ours_protects_the_directory(tmp_path, marker):
    folder = make(tmp_path / "out", ["data-1.bin"], marker)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"data-1\.bin"):
        refuse_foreign(folder, THING, DRAFT)
    assert contents(tmp_path) == before


def test_a_directory_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "folder"
    with atomic_directory(target) as temporary:
        (temporary / "inside").write_text("whole")
        assert not target.exists()
    assert names(target) == ["inside"]
    assert names(target.parent) == ["folder"]


def test_an_existing_directory_is_refused_before_anything_is_done(tmp_path):
    (tmp_path / "old").touch()
    with refused("exists"), atomic_directory(tmp_path):
        pytest.fail("the block ran")


@pytest.mark.parametrize("old", ["directory", "file"])
def test_overwriting_replaces_whatever_is_there(tmp_path, old):
    target = tmp_path / "folder"
    if old == "directory":
        target.mkdir()
        (target / "old").write_text("")
    else:
        target.write_text("")
    with atomic_directory(target, overwrite=True) as temporary:
        (temporary / "new").write_text("")
    assert names(target) == ["new"]
    assert names(tmp_path) == ["folder"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    for name in ("file", "missing"):
        (tmp_path / name).symlink_to(tmp_path / "far" / name)
    (tmp_path / "far" / "file").write_text("old")
    for name in ("file", "missing"):
        with atomic_file(tmp_path / name) as temporary:
            temporary.write_text("new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "far" / name).read_text() == "new"
    (tmp_path / "far" / "folder").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path / "far" / "folder")
    with atomic_directory(tmp_path / "folder", overwrite=True) as temporary:
        (temporary / "new").touch()
    assert (tmp_path / "folder").is_symlink()
    assert names(tmp_path / "far" / "folder") == ["new"]
    assert names(tmp_path / "far") == ["file", "folder", "missing"]
