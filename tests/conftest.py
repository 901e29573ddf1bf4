"""Settings shared by all tests."""

import gc
import os

import hypothesis
import pytest
from _pytest.capture import CaptureIO

# Before numpy, scipy and torch start their pools: workers would fight for the cores, on matrices
# that are too small to share. The processes that tests start inherit it.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

# The same examples in every run: a change is judged by what it changes.
# `pytest --hypothesis-profile=default` looks for new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """One thread: results are then bit-equal from run to run."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _what_is_imported_stays():
    """Spare every training run of a full garbage collection of all modules, 0.25 s each."""
    gc.freeze()


@pytest.fixture
def terminal(monkeypatch):
    """Let what `capsys` captures be a terminal, which shows bars."""
    # The stream itself is another one after the fixtures' setup.
    monkeypatch.setattr(CaptureIO, "isatty", lambda stream: True, raising=False)
