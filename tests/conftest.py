"""Settings shared by all tests."""

import gc
import os
import sys
from pathlib import Path

import hypothesis
import pytest
from _pytest.capture import CaptureIO

TESTS = Path(__file__).parent
LONG_FITS = dict.fromkeys(
    ("FULL_ROWS", "DEFAULT_EPOCHS_LONG", "DEFAULT_EPOCHS_FOLDS")
)  # their values outside of tests
FROZEN = pytest.StashKey[int]()  # number of modules at the last `gc.freeze`

# Set before numpy, scipy and torch start their thread pools: workers would compete for the cores
# on matrices too small to share. Processes started by tests inherit it.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
# Set before huggingface_hub is imported: no test needs the network or waits for it.
os.environ["HF_HUB_OFFLINE"] = "1"

# Loading a tiny model in a pool of threads takes longer than in this one.
os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"

# A killed process loses nothing that it wrote, only a machine without power does, and no test is
# about that. Waiting for the disk would take a twentieth of the suite's time.
os.fsync = lambda handle: None

# Use the same examples in every run, so that results change only with the code.
# `pytest --hypothesis-profile=default` searches for new ones.
# A deadline would fail on a busy machine.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


# Slow files, functions and cases, as measured by `make slow` (measure.py).
SLOW = frozenset((TESTS / "slow.txt").read_text(encoding="utf-8").splitlines())
# What `make test` leaves to `make test-all`: studies, and the larger part of some matrices.
NIGHTLY = frozenset((TESTS / "nightly.txt").read_text(encoding="utf-8").splitlines())


def pytest_ignore_collect(collection_path, config):
    """Do not import files of slow or nightly tests when these are deselected."""
    lists = {"not slow": SLOW | NIGHTLY, "not nightly": NIGHTLY}
    listed = lists.get(config.option.markexpr, frozenset())
    if listed and collection_path.is_file():
        return collection_path.relative_to(TESTS).as_posix() in listed or None
    return None


def pytest_collection_modifyitems(items):
    """Mark listed files, functions and cases, and begin with the one that waits most.

    At the end of a run, a worker would wait for it alone.
    """
    items.sort(key=lambda item: "test_ray.py" not in item.nodeid)
    for item in items:
        case = item.nodeid.removeprefix("tests/")
        names = {case, case.partition("[")[0], case.partition("::")[0]}
        if not (SLOW | NIGHTLY).isdisjoint(names):
            item.add_marker(pytest.mark.slow)
        if not NIGHTLY.isdisjoint(names):
            item.add_marker(pytest.mark.nightly)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Use a single thread, so that results are bit-equal between runs."""
    import torch

    torch.set_num_threads(1)


def pytest_runtest_setup(item):
    """Exclude modules from the garbage collection after each training, which takes 0.3 s."""
    if len(sys.modules) > item.config.stash.get(FROZEN, 0):
        gc.freeze()
        item.config.stash[FROZEN] = len(sys.modules)


@pytest.fixture(autouse=True, scope="session")
def _short_fits():
    """Fit toys for five epochs by default, as if they had as many rows as real data."""
    from bayeslora.engine import training_options

    with pytest.MonkeyPatch.context() as patch:
        for name in LONG_FITS:
            LONG_FITS[name] = getattr(training_options, name)
        patch.setattr(training_options, "FULL_ROWS", 1)
        for name in ("DEFAULT_EPOCHS_LONG", "DEFAULT_EPOCHS_FOLDS"):
            patch.setattr(training_options, name, training_options.DEFAULT_EPOCHS)
        yield


@pytest.fixture
def default_epochs(monkeypatch):
    """Use the default number of epochs, as other processes do."""
    from bayeslora.engine import training_options

    for name, value in LONG_FITS.items():
        monkeypatch.setattr(training_options, name, value)


@pytest.fixture(scope="module")
def few_resamples():
    """Set the default number of resamples of scores to 60, an eighth of the work."""
    from bayeslora.metrics.intervals import Resampling

    with pytest.MonkeyPatch.context() as patch:
        defaults = Resampling.__init__.__defaults__
        few = tuple(60 if value == Resampling.num_resamples else value for value in defaults)
        patch.setattr(Resampling.__init__, "__defaults__", few)
        yield


@pytest.fixture(scope="module")
def blank_figures():
    """Leave the figures of reports, most of their work, empty."""
    from bayeslora.reporting.panel import Panel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Panel, "saved", lambda panel, kind: b"")
        yield


@pytest.fixture
def terminal(monkeypatch):
    """Make the stream captured by `capsys` a terminal, which shows progress bars."""
    # Patch the class: the stream is replaced after the fixtures' setup.
    monkeypatch.setattr(CaptureIO, "isatty", lambda stream: True, raising=False)
