"""Exit codes, and messages when something other than the input is wrong."""

import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from cli_files import fake

from bayeslora.cli import interrupts
from bayeslora.cli.messages import say, show
from bayeslora.cli.verbs import convert, info
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


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("leave keep (--keep) out", "leave --keep out"),
        ("with pair_column (--text-pair-column)", "with --text-pair-column"),
        ("give probability_columns (--probability-column)", "give --probability-column"),
        ("say which: member=1 to 3 (--member)", "say which: member=1 to 3 (--member)"),
        ("unknown_labels='ood' (--unknown-labels ood)", "--unknown-labels ood"),
        ("choose a text model (--backbone)", "choose a text model (--backbone)"),
    ],
)
def test_the_command_line_names_its_options_alone(run, monkeypatch, message, shown):
    raising(monkeypatch, InputError(message))
    assert run("info").err == f"bayeslora: error: {shown}\n"


def test_a_refused_value_is_that_of_the_option(run, monkeypatch):
    raising(monkeypatch, InputError("scores must be known, got 'x'"))
    assert "error: scores must" in run("info").err  # `info` has no such option

    def fail(args):
        args.device = 3.0
        raise InputError("device must be a name, got 3.0")

    monkeypatch.setattr(info, "run", fail)
    assert "error: --device must" in run("info").err


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


def test_who_stops_reading_stderr_stops_no_work(tmp_path, monkeypatch, run):
    """`2>&1 | head` would end a fit at its first progress bar, with exit code 0."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", stream)
    done = []

    def noisy(args):
        say("first")
        print("second", file=sys.stderr, flush=True)
        done.append(True)

    monkeypatch.setattr(info, "run", noisy)
    assert run("info").code == 0
    assert done == [True]
    stream.close()


def interrupted_by(monkeypatch, work):
    """Make `bayeslora info` call `work`, with signals as in a terminal."""
    monkeypatch.setattr(interrupts, "REPEAT", 0.02)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(info, "run", lambda args: work())
    return before


def swallowed():
    try:
        signal.raise_signal(signal.SIGINT)
    except BaseException:
        return


def test_an_interrupt_that_other_code_swallows_comes_again(run, monkeypatch):
    def work():
        swallowed()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            time.sleep(0.001)

    before = interrupted_by(monkeypatch, work)
    started = time.monotonic()
    assert run("info").code == 130
    assert time.monotonic() - started < 15
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("ending", ["done", "other error"])
def test_an_interrupt_that_is_swallowed_last_is_an_interrupt(run, monkeypatch, ending):
    def work():
        swallowed()
        if ending == "other error":
            raise RuntimeError("callback failed")

    before = interrupted_by(monkeypatch, work)
    result = run("info")
    assert (result.code, result.err) == (130, "interrupted; nothing was written\n")
    signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_does_not_cut_off_the_cleaning_up(run, monkeypatch):
    cleaned = []

    def work():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.05)  # the alarm arrives as well
            cleaned.append(True)

    before = interrupted_by(monkeypatch, work)
    assert run("info").code == 130
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_what_was_written_before_an_interrupt_is_named(run, monkeypatch, tmp_path):
    out = tmp_path / "o.csv"

    def write(args):
        Path(args.out).write_text("done")
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "run", write)
    result = run("convert", "p.csv", "--out", out)
    assert result.code == 130
    assert str(out) in result.err
    assert "nothing" not in result.err

    def keep(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "run", keep)
    assert "nothing was written" in run("convert", "p.csv", "--out", out, "--overwrite").err


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


def test_a_message_is_never_endless(run, monkeypatch):
    raising(monkeypatch, InputError(f"train.csv, row 3: {'x' * 100_000} is no class of 'a', 'b'"))
    message = run("info").err
    assert "row 3" in message
    assert "'b'" in message
    assert len(message) < 3000


def test_a_path_that_is_not_utf8_is_refused_before_the_work(tmp_path):
    """Arrow and safetensors accept no such path; they would fail when the result is written."""
    out = os.fsencode(tmp_path) + b"/lat\xfcin.csv"
    file = fake(tmp_path / "p.csv")
    words = [sys.executable, "-m", "bayeslora", "convert", str(file), "--out", out]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not UTF-8" in done.stderr
    assert "lat\\udcfcin.csv" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


@pytest.mark.parametrize("name", ["a" * 300 + ".csv", "nul\0.csv", "sur\ud800.csv"])
def test_a_path_that_cannot_be_is_refused(refused, tmp_path, name):
    file = fake(tmp_path / "p.csv")
    assert str(tmp_path) in refused("convert", file, "--out", tmp_path / name)
    assert str(tmp_path) in refused("evaluate", tmp_path / name)


def test_the_root_is_no_output(refused, tmp_path):
    message = refused("report", fake(tmp_path / "p.csv"), "--out", "/")
    assert message.startswith("bayeslora: error: / ")


OWN_PROCESS = """
import gc, sys
from bayeslora.cli import main
sys.argv = ["bayeslora", "tasks"]
usual = gc.get_threshold()
main({argv})
print("rarely", gc.get_threshold() > usual, "frozen", gc.get_freeze_count() > 0)
"""


@pytest.mark.parametrize(("argv", "changed"), [("", True), ("['tasks']", False)])
def test_garbage_is_collected_rarely_in_a_process_of_our_own_alone(argv, changed):
    code = OWN_PROCESS.format(argv=argv)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"rarely {changed} frozen {changed}"
