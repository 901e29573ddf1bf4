"""Without space for an output a command fails in one line, and leaves nothing."""

import resource
import subprocess
import sys

import numpy as np
import pytest

from bayeslora.predictions.record import Predictions


@pytest.fixture
def predictions(tmp_path):
    path = tmp_path / "made.parquet"
    probs = np.random.default_rng(0).dirichlet(np.ones(3), size=4000)
    Predictions(probs, ["a", "b", "c"], labels=np.arange(4000) % 3).save(path)
    return path


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_limit_on_the_size_of_files(predictions, tmp_path, suffix):
    out = tmp_path / f"out.{suffix}"
    command = [sys.executable, "-m", "bayeslora", "convert", str(predictions), "--out", str(out)]

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    result = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=limited
    )
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == [predictions]
