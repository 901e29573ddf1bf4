"""Exit codes, and messages when something other than the input is wrong."""

import logging
import os
import subprocess
import sys

import pytest
from cli_files import fake

from bayeslora.cli import info
from bayeslora.cli.output import say, show
from bayeslora.errors import InputError


def raising(monkeypatch, error):
    """Make `bayeslora info` fail with an error."""

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
    assert result.err == "interrupted\n"


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


EVIL = "\x1b[31m\x07\r\x9b \u202e \u200b \x00 \u2028"


def test_nothing_from_outside_drives_the_terminal(run, monkeypatch):
    def noisy(args):
        show(f"result {EVIL}")
        say(f"hint {EVIL}\nforged")
        logging.getLogger("bayeslora.x").warning("note %s\nbayeslora: error: forged", EVIL)
        raise InputError(f"no {EVIL}\nnote: forged")

    monkeypatch.setattr(info, "run", noisy)
    for options in ([], ["--verbose"]):
        result = run("info", *options)
        for text in (result.out, result.err):
            assert text.replace("\n", "").isprintable()
        if not options:
            assert len(result.err.splitlines()) == 3  # a hint, a note, an error
    usage = run("info", EVIL.replace("\0", ""), "x").err
    assert usage.replace("\n", "").isprintable()
