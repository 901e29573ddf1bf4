"""Only a single process at a time writes to an output."""

import errno
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from refusal import refused

from bayeslora import locks
from bayeslora.errors import InputError
from bayeslora.io.directories import atomic_directory
from bayeslora.io.files import atomic_file, lock, recover


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def another_process(target):
    """Start another process that writes to `target`; kill it at the end."""
    program = (
        "from bayeslora.locks import lock\n"
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
    out = tmp_path / "out"
    live = tmp_path / ".out.abcd_123.part"
    with another_process(out):
        live.touch()
        before = names(tmp_path)
        with refused("busy"):  # noqa: SIM117
            with lock(out):
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


def test_contexts_of_one_process_are_nested(tmp_path):
    out = tmp_path / "new" / "deep" / "out"
    with lock(out):
        with lock(tmp_path / "new" / "." / "deep" / "out"):
            assert names(out.parent) == [".out.lock"]
        assert names(out.parent) == [".out.lock"]
    assert names(tmp_path) == [], "parents that were made are removed"
    with lock(out):
        out.touch()
    assert names(out.parent) == ["out"]


def test_a_lock_that_its_holder_removes_meanwhile_is_none(tmp_path, monkeypatch):
    """Two writers that open the same lock file must not both hold the lock."""
    out = tmp_path / "out"
    lock = locks._lock
    removed = []

    def removed_first(handle):
        if not removed:
            removed.append((tmp_path / ".out.lock").unlink())
        return lock(handle)

    monkeypatch.setattr(locks, "_lock", removed_first)
    with lock(out, wait=5):
        assert names(tmp_path) == [".out.lock"]


def test_a_reader_brings_the_old_directory_back(tmp_path):
    """The writer was killed between two renames."""
    old = tmp_path / ".out.abcd_123.old"
    (old / "inside").mkdir(parents=True)
    recover(tmp_path / "out")
    assert names(tmp_path / "out") == ["inside"]
    assert names(tmp_path) == ["out"]
    recover(tmp_path / "out")
    recover(tmp_path / "nowhere" / "out")
    assert names(tmp_path) == ["out"]


def test_a_directory_that_is_not_ours(tmp_path, monkeypatch):
    """Without a lock file no writer is excluded; the write itself fails."""
    opened = os.open

    def denied(path, flags, *mode):
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", denied)
    with lock(tmp_path / "out") as alone:
        assert not alone
        assert names(tmp_path) == []
    (tmp_path / ".out.lock").write_text("")
    with lock(tmp_path / "out") as alone:
        assert alone, "the lock file of another user is enough"


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_lock", lambda handle: False)
    (tmp_path / ".out.abcd_123.part").touch()
    with lock(tmp_path / "out"), lock(tmp_path / "out"):
        assert names(tmp_path) == [".out.abcd_123.part"], "it may be a living process's"


@pytest.mark.parametrize("name", ["x" * 250, "ü" * 120])
def test_names_as_long_as_the_file_system_allows(tmp_path, name):
    with atomic_file(tmp_path / name) as temporary:
        temporary.write_text("new")
    with atomic_directory(tmp_path / ("d" + name[1:])):
        pass
    assert (tmp_path / name).read_text() == "new"


def test_what_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"), lock(tmp_path / "file" / "x"):
        pytest.fail("the block ran")
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here")
def test_a_directory_that_takes_no_files_is_a_clear_error():
    with pytest.raises(InputError, match="cannot be written"), lock("/proc/self/card"):
        pytest.fail("the block ran")
