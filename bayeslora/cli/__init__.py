"""Entry point of the command line: from arguments to an exit code.

0 done; 2 wrong usage or input, with a one-line message; 1 failed; 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import gc
import io
import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from pathlib import Path

from bayeslora.cli.output import log_on_stderr, say, trace
from bayeslora.cli.parser import build_parser, settle
from bayeslora.errors import FailedError, InputError
from bayeslora.io.files import lock
from bayeslora.processes import current, is_repeated, launched, together

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

_WRITES_TO = ("out", "model_card")

# Imports create a million objects that live to the end. Python's default garbage collection of
# them, with a last one at exit, took 2.4 of the 6.2 seconds of a short prediction.
_RARELY = (100_000, 20, 20)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: The arguments after the program's name; None uses those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        # An arrow in a table must not fail if the terminal's encoding lacks it.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    owns_process = argv is None
    if owns_process:
        gc.set_threshold(*_RARELY)
    try:
        with _terminable():
            code = _exit_code(list(sys.argv[1:] if argv is None else argv))
        if owns_process and os.environ.get("WORLD_SIZE", "1") != "1":
            _leave(code)
        return code
    finally:
        if owns_process:
            gc.freeze()


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, which job schedulers send, end the command as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(code: int) -> None:
    """End one of several processes immediately.

    On a busy machine a communication thread may outlive its group, and the interpreter's shutdown
    then aborts the process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _exit_code(words: Sequence[str]) -> int:
    args = argparse.Namespace(verb=None, verbose=False)
    try:
        parser = build_parser(words)
        if not words:
            # The help is for people; a script without a verb gets the exit code.
            parser.print_help(sys.stderr)
            return WRONG_INPUT
        args = parser.parse_args(words)
        args.command = shlex.join(["bayeslora", *words])
        with log_on_stderr(verbose=args.verbose, quiet=args.quiet):
            settle(args)
            with _processes(args), _alone(args):
                args.run(args)
        sys.stdout.flush()
    except SystemExit as stop:  # argparse has printed the help or an error
        return int(stop.code or 0)
    except BrokenPipeError:  # the reader of stdout, such as `head`, has stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        finished = None if getattr(args, "dry_run", None) else _RESUMED.get(args.verb)
        saved = f"; finished {finished} are saved, and the same command continues"
        say(f"interrupted{saved if finished else ''}")
        return INTERRUPTED
    except Exception as error:
        if args.verbose:
            trace(error)
        if not is_repeated(error):
            say(f"bayeslora: error: {_reason(error, args)}")
        # A wrong path, unless the disk is full.
        wrong_path = isinstance(error, OSError) and error.filename and error.errno != errno.ENOSPC
        return WRONG_INPUT if isinstance(error, InputError) or wrong_path else FAILED
    return DONE


def _reason(error: Exception, args: argparse.Namespace) -> str:
    if isinstance(error, InputError | FailedError):
        name, _, rest = str(error).partition(" ")
        flags = {key: action.option_strings for key, action in getattr(args, "actions", {}).items()}
        is_typed = flags.get(name) and getattr(error, "code", "") == "option"
        return f"{flags[name][0]} {rest}" if is_typed else str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    reason = " ".join([f"{type(error).__name__}:", *str(error).split()])
    return f"{reason[:300].removesuffix(':')} (--verbose shows where)"


@contextmanager
def _processes(args: argparse.Namespace) -> Iterator[None]:
    """Run the command together with the other processes of a launcher.

    Only the first process prints; the others print only their own errors.
    """
    if launched()[1] == 1:
        yield
        return
    with together() as world, ExitStack() as stack:
        if not world.is_first:
            args.quiet = True
            logging.getLogger("bayeslora").setLevel(logging.ERROR)
            devnull = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(devnull))
        yield


@contextmanager
def _alone(args: argparse.Namespace) -> Iterator[None]:
    """Lock the outputs against other processes while the command runs."""
    paths = [getattr(args, name, None) for name in _WRITES_TO]
    with ExitStack() as stack:
        for path in filter(None, paths):
            stack.enter_context(current().first_holds(partial(lock, Path(path))))
        yield


_RESUMED = {"fit": "epochs", "predict": "rows", "experiment": "cells"}
"""What is kept of an interrupted command, which goes on when it is repeated."""
