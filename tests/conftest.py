"""Settings shared by all tests."""

import gc
import os
import sys
from pathlib import Path

import hypothesis
import pytest
from _pytest.capture import CaptureIO

TESTS = Path(__file__).parent
FROZEN = pytest.StashKey[int]()  # number of modules when garbage collection last forgot them

# Before numpy, scipy and torch start their pools: workers would fight for the cores, on matrices
# that are too small to share. The processes that tests start inherit it.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
# Before huggingface_hub is imported: no test needs the network, and none waits for it.
os.environ["HF_HUB_OFFLINE"] = "1"

# The same examples in every run: a change is judged by what it changes.
# `pytest --hypothesis-profile=default` looks for new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")


# Rooms whose tests fit models or write reports; `world` holds a model that a command has fitted.
SLOW_ROOMS = frozenset({"benchmarks", "classifier", "engine", "faults", "plugins", "reporting"})
# Files that take more than a second and a half together, whatever their single tests take.
SLOW_FILES = frozenset(
    {
        "test_blob.py",
        "test_bootstrap.py",
        "test_cli_exits.py",
        "test_cli_hostile_options.py",
        "test_cli_scoring.py",
        "test_coverage.py",
        "test_demo.py",
        "test_durable.py",
        "test_gvbll.py",
        "test_hostile_models.py",
        "test_kept_columns.py",
        "test_output.py",
        "test_sequence.py",
        "test_sequence_architectures.py",
        "test_vbll_low_rank.py",
    }
)


def pytest_collection_modifyitems(items):
    """Mark as slow what measurement found to be so as a whole; single tests carry the mark."""
    for item in items:
        room = item.path.relative_to(TESTS).parts[0]
        is_slow = room in SLOW_ROOMS or item.path.name in SLOW_FILES
        if is_slow or "world" in item.fixturenames:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """One thread: results are then bit-equal from run to run."""
    import torch

    torch.set_num_threads(1)


def pytest_runtest_setup(item):
    """Spare every training a garbage collection that looks through all modules, 0.3 s each."""
    if len(sys.modules) > item.config.stash.get(FROZEN, 0):
        gc.freeze()
        item.config.stash[FROZEN] = len(sys.modules)


@pytest.fixture(scope="module")
def few_resamples():
    """Let scores have 60 resamples where none are asked for, an eighth of the work."""
    from bayeslora import compare, evaluate, report

    with pytest.MonkeyPatch.context() as patch:
        for function in (compare, evaluate, report):
            patch.setitem(function.__kwdefaults__, "num_resamples", 60)
        yield


@pytest.fixture
def terminal(monkeypatch):
    """Let what `capsys` captures be a terminal, which shows bars."""
    # The stream itself is another one after the fixtures' setup.
    monkeypatch.setattr(CaptureIO, "isatty", lambda stream: True, raising=False)
