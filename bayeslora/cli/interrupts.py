"""Handling of Ctrl-C and termination signals, whatever code is running."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

REPEAT = 1.0
"""Seconds after which an interrupt swallowed by other code is raised again."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 130
_AT_ONCE = 3  # signals, in case a command hangs while cleaning up


class Interrupt:
    """A signal handler that raises `KeyboardInterrupt` until the command has received it.

    Callbacks of C libraries, destructors and a bare `except` swallow exceptions, so the command
    would continue. While the exception unwinds, it is not raised again, since that would interrupt
    the clean-up, as two quick presses of Ctrl-C do otherwise.
    """

    def __init__(self) -> None:
        self._signals = 0
        self._heard = False

    @property
    def came(self) -> bool:
        """Whether a signal came."""
        return self._signals > 0

    def hear(self) -> None:
        """Stop raising, because the command is ending."""
        self._heard = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal or the alarm that repeats it."""
        self._signals += number in SIGNALS
        if self._signals >= _AT_ONCE:
            os._exit(INTERRUPTED)
        if self._heard:
            return
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, self)
            signal.setitimer(signal.ITIMER_REAL, REPEAT)
        if not _unwinding(sys.exception()):
            raise KeyboardInterrupt


@contextmanager
def interruptible(*, ending: bool) -> Iterator[Interrupt]:
    """Handle SIGINT and SIGTERM, which job schedulers send, and yield the handler.

    Signals that the process ignores, as under nohup, stay ignored.

    Args:
        ending: Whether the process ends after an interrupted command. Another signal then ends it
            immediately, without a traceback, while the interpreter shuts down.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    alarm = [signal.SIGALRM] if hasattr(signal, "setitimer") else []
    handlers = {number: signal.getsignal(number) for number in (*SIGNALS, *alarm)}
    for number in SIGNALS:
        if handlers[number] is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield interrupt
    finally:
        interrupt.hear()
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            if ending and interrupt.came and handler is not signal.SIG_IGN:
                signal.signal(number, _end_at_once)
            else:
                signal.signal(number, handler)


def _end_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _unwinding(error: BaseException | None) -> bool:
    """Return whether an interrupt is being propagated, through a `finally` or an `except`."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False
