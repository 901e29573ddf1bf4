"""The benchmark of a million rows, with forty of them and without a separate process."""

import hashlib
import threading

import pytest

from bayeslora.cli import main
from benchmarks.lib.results import Results
from benchmarks.million_rows import __main__ as million_rows


@pytest.fixture
def in_process(monkeypatch):
    """Run predictions in this process; return the points at which they would have been killed."""
    points = []
    # transformers sets a process-wide default dtype while it builds models.
    one_at_a_time = threading.Lock()

    def predict(model, data, out, *, kill_at=()):
        points.extend(kill_at)
        with one_at_a_time:
            assert main(["predict", str(model), str(data), "--out", str(out), "--quiet"]) == 0
        return million_rows.Run(1.0, 500.0, hashlib.sha256(out.read_bytes()).hexdigest())

    monkeypatch.setattr(million_rows, "predict", predict)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # outside of the main thread
    monkeypatch.setattr(million_rows, "PIECE", 8)
    monkeypatch.setattr("bayeslora.data.examples.PIECE", 8)
    return points


def test_it_says_whether_memory_and_bytes_are_the_same(in_process, tmp_path, monkeypatch):
    words = ["--rows", "40", "--few", "16", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["million_rows.py", *words])
    million_rows.main()
    (row,) = Results(tmp_path, ()).rows()
    assert (row["equal"], row["memory_ratio"]) == (True, 1.0)
    assert len(set(in_process)) == 2
    assert all(1 <= point < 5 for point in in_process)
    assert "the same in every byte" in (tmp_path / "summary.md").read_text()
