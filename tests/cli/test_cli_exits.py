"""Exit codes, and what a person is shown when something other than the input is wrong."""

import logging
import os
import shlex
import subprocess
import sys
import warnings

import pytest
from cli_files import fake

from bayeslora.cli.verbs import info
from bayeslora.errors import InputError


def raising(monkeypatch, error):
    """Let `bayeslora info` fail with an error."""

    def fail(args):
        raise error

    monkeypatch.setattr(info, "run", fail)


def test_wrong_input_is_two(run, monkeypatch):
    raising(monkeypatch, InputError("train.csv, row 3: no"))
    result = run("info")
    assert (result.code, result.out) == (2, "")
    assert result.err == "bayeslora: error: train.csv, row 3: no\n"


def test_any_other_failure_is_one_in_one_line(run, monkeypatch):
    raising(monkeypatch, RuntimeError("shapes\n  do not match"))
    result = run("info")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "bayeslora: error: RuntimeError: shapes do not match (--verbose shows where)\n"
    )


@pytest.mark.parametrize("error", [InputError("no"), RuntimeError("no")])
def test_verbose_shows_the_traceback(run, monkeypatch, error):
    raising(monkeypatch, error)
    result = run("info", "--verbose")
    assert "Traceback" in result.err
    assert "in fail" in result.err


def test_interrupted_is_130(run, monkeypatch):
    raising(monkeypatch, KeyboardInterrupt())
    result = run("info")
    assert (result.code, result.out) == (130, "")
    assert result.err == "interrupted; nothing was written\n"


def test_only_our_notes_are_shown(run, monkeypatch):
    def noisy(args):
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        logging.getLogger("somebody.else").warning("their warning")
        logging.getLogger("bayeslora.x").warning("3 rows repeat")
        logging.getLogger("bayeslora.x").debug("details")

    monkeypatch.setattr(info, "run", noisy)
    assert run("info").err == "note: 3 rows repeat\n"


def test_verbose_shows_our_debug_messages_and_others_warnings(run, monkeypatch):
    def noisy(args):
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        logging.getLogger("bayeslora.x").debug("details")

    monkeypatch.setattr(info, "run", noisy)
    with pytest.warns(DeprecationWarning, match="deprecated"):
        result = run("info", "--verbose")
    assert result.err == "bayeslora.x: details\n"


def test_logging_is_left_as_it_was(run):
    ours, root = logging.getLogger("bayeslora"), logging.getLogger()
    before = list(ours.handlers), ours.level, ours.propagate, list(root.handlers)
    run("methods")
    assert (list(ours.handlers), ours.level, ours.propagate, list(root.handlers)) == before


def test_a_reader_that_stops_early_is_no_error(tmp_path):
    path = fake(tmp_path / "p.parquet")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "bayeslora", "evaluate", path, "--json"],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 0
    assert done.stderr == b""


def test_a_closed_output_is_no_error(tmp_path):
    file = fake(tmp_path / "p.csv")
    command = f"{shlex.quote(sys.executable)} -m bayeslora evaluate {shlex.quote(str(file))} >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_path_that_is_not_utf8_is_refused_before_the_work(tmp_path):
    """Arrow and safetensors take none; they would fail when the result is written."""
    out = os.fsencode(tmp_path) + b"/lat\xfcin.csv"
    file = fake(tmp_path / "p.csv")
    words = [sys.executable, "-m", "bayeslora", "convert", str(file), "--out", out]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not UTF-8" in done.stderr
    assert "lat\\udcfcin.csv" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]
