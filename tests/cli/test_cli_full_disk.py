"""On a full disk a command names the output without room, and keeps the old output."""

import resource
import subprocess
import sys

import numpy as np
import pytest

from bayeslora import files
from bayeslora.predictions.record import Predictions

FULL = "/dev/full"  # every write to it fails, as on a full disk


@pytest.fixture
def full(tmp_path, monkeypatch):
    """Write every output to a full disk."""

    def temporary(target):
        link = target.with_name(f".{target.name}.abcd_123.part")
        link.symlink_to(FULL)
        return link

    monkeypatch.setattr(files, "temporary_file", temporary)


@pytest.fixture
def predictions(tmp_path):
    path = tmp_path / "made.parquet"
    probs = np.random.default_rng(0).dirichlet(np.ones(3), size=4000)
    Predictions(probs, ["a", "b", "c"], labels=np.arange(4000) % 3).save(path)
    return path


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("old", [True, False])
def test_the_file_is_named_and_the_old_one_stays(predictions, full, run, tmp_path, suffix, old):
    out = tmp_path / f"out.{suffix}"
    if old:
        out.write_text("old")
    before = sorted(tmp_path.iterdir())
    result = run("convert", predictions, "--out", out, "--overwrite", "--quiet")
    assert result.code == 1
    [line] = result.err.splitlines()
    assert "no space left" in line
    assert str(out) in line
    assert sorted(tmp_path.iterdir()) == before
    assert not old or out.read_text() == "old"


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_limit_on_the_size_of_files_is_named(predictions, tmp_path, suffix):
    out = tmp_path / f"out.{suffix}"
    command = [sys.executable, "-m", "bayeslora", "convert", str(predictions), "--out", str(out)]

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    result = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=limited
    )
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert "file size limit" in line
    assert str(out) in line
    assert sorted(tmp_path.iterdir()) == [predictions]
