"""From arguments to an exit code.

0 done; 2 wrong usage or input, said in one or two lines; 1 failed; 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from bayeslora.cli.messages import say, third_parties_quiet
from bayeslora.cli.parser import build_parser
from bayeslora.errors import InputError

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: The arguments after the program's name; None takes the process's own.
    """
    if sys.stdout is None:  # closed, as by >&-
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        _never_fail(stream)
    words = list(sys.argv[1:] if argv is None else argv)
    if (garbled := _garbled(words)) is not None:
        say(f"bayeslora: error: {garbled!a} is not UTF-8; rename the path, or set PYTHONUTF8=1")
        return WRONG_INPUT
    try:
        args = build_parser().parse_args(words)
    except SystemExit as stop:  # argparse has printed the help, or what is wrong
        return int(stop.code or 0)
    args.command = shlex.join(["bayeslora", *words])
    with third_parties_quiet(verbose=args.verbose), _terminated_like_interrupted():
        return _exit_code(args)


def _exit_code(args: argparse.Namespace) -> int:
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
    except KeyboardInterrupt:
        say(f"interrupted; {_kept(args)}")
        return INTERRUPTED
    except InputError as error:
        _trace(args)
        say(f"bayeslora: error: {error}")
        return WRONG_INPUT
    except PermissionError as error:
        _trace(args)
        say(f"bayeslora: error: no permission for {error.filename or error}")
        return WRONG_INPUT
    except Exception as error:
        _trace(args)
        say(f"bayeslora: error: {_one_line(error)} (--verbose shows where)")
        return FAILED
    return DONE


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let a request to terminate, as a job scheduler sends it, end a command as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _garbled(words: Sequence[str]) -> str | None:
    """Return the first argument that is not UTF-8; the libraries below would fail at its file."""
    return next((word for word in words if any("\udc80" <= c <= "\udcff" for c in word)), None)


def _never_fail(stream: TextIO) -> None:
    """Replace what a terminal's encoding lacks, so that an arrow in a table is no error there."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")


def _trace(args: argparse.Namespace) -> None:
    if args.verbose:
        traceback.print_exc()


def _one_line(error: Exception) -> str:
    reason = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {reason[:300]}" if reason else name


def _kept(args: argparse.Namespace) -> str:
    """Say what an interrupted command leaves behind."""
    from bayeslora.training.resume import is_interrupted

    out = getattr(args, "out", None)
    if args.verb == "fit" and out is not None and is_interrupted(out):
        return f"the epochs finished so far are kept in {out}: the same command goes on from there"
    return "nothing was written"


def _drop_stdout() -> None:
    """Let the interpreter's last flush go nowhere: the reader, such as `head`, has had enough."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
