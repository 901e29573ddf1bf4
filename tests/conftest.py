"""Settings shared by all tests."""

import gc
import os
import sys
from html import escape
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


# Files, functions and cases that take long: `make slow` measures them (measure.py).
SLOW = frozenset((TESTS / "slow.txt").read_text(encoding="utf-8").splitlines())


def pytest_ignore_collect(collection_path, config):
    """Import no file for its slow tests where they are left out."""
    if config.option.markexpr == "not slow" and collection_path.is_file():
        return collection_path.relative_to(TESTS).as_posix() in SLOW or None
    return None


def pytest_collection_modifyitems(items):
    """Mark what is listed as slow: a file, a function or one of its cases."""
    for item in items:
        case = item.nodeid.removeprefix("tests/")
        if not SLOW.isdisjoint({case, case.partition("[")[0], case.partition("::")[0]}):
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


@pytest.fixture(scope="module")
def blank_figures():
    """Let reports have every figure by name and in words, but none drawn: most of their work."""
    from bayeslora.reporting.figures import drawings
    from bayeslora.reporting.figures.rendering import Drawing

    def blank(panel, formats):
        title = f'<title id="{panel.name}-title">{escape(panel.title)}</title>'
        words = f'<desc id="{panel.name}-desc">{escape(panel.description)}</desc>'
        svg = f"<svg>{title}{words}</svg>"
        return Drawing(panel.name, panel.title, svg, svg, dict.fromkeys(formats, svg.encode()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawings, "render_files", blank)
        yield


@pytest.fixture(scope="module")
def beside_nothing():
    """Spare calibrations the comparison with other posteriors, which is most of their work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bayeslora.engine.calibrate.beside_others", lambda *_: None)
        yield


@pytest.fixture
def terminal(monkeypatch):
    """Let what `capsys` captures be a terminal, which shows bars."""
    # The stream itself is another one after the fixtures' setup.
    monkeypatch.setattr(CaptureIO, "isatty", lambda stream: True, raising=False)
