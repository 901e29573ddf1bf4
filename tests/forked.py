"""Separate processes without the imports of torch and transformers, five seconds of CPU.

A server without threads imports them once, and each process is a fork of the server.
"""

import gc
import os
import signal
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path
from subprocess import TimeoutExpired

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "pandas",  # Arrow imports it
        "peft",
        "transformers.models.bert.modeling_bert",
        "transformers.models.llama.modeling_llama",
        "bayeslora.classifier",
        "bayeslora.experiments.cells",
        "bayeslora.reporting.report",
    ]
)


class Forked:
    """A process with the interface of `subprocess.Popen` and captured output.

    Args:
        target: Importable function, called in the process with `arguments`.
        env: Additional environment variables.
    """

    def __init__(self, target, *arguments, env=None):
        self._files = [Path(tempfile.mkstemp(prefix="bayeslora-")[1]) for _ in range(2)]
        environment = {**os.environ, **(env or {})}
        self._process = CONTEXT.Process(
            target=_begin,
            args=(target, arguments, environment, Path.cwd(), self._files),
            daemon=True,
        )
        self._process.start()

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutExpired(self._process.name, timeout)
        return self.returncode

    def communicate(self, timeout=None):
        """Wait for the end of the process; return its stdout and stderr."""
        self.wait(timeout)
        texts = [file.read_text(encoding="utf-8") for file in self._files]
        for file in self._files:
            file.unlink()
        return tuple(texts)

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def command(*words, env=None):
    """Start `bayeslora` with these arguments."""
    return Forked(bayeslora, *map(str, words), env=env)


def bayeslora(*words):
    """Run `bayeslora` with these arguments and end the process, as `python -m bayeslora` does."""
    from bayeslora.cli import main

    sys.argv = ["bayeslora", *words]
    sys.exit(main())


def _begin(target, arguments, environment, folder, files):
    gc.freeze()  # collecting imported modules would take a quarter of a second after each training
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(files, start=1):
        opened = os.open(file, os.O_WRONLY)
        os.dup2(opened, number)
        os.close(opened)
    target(*arguments)
