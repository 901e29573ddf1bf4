"""`recalibrate` and `conformal` keep the additional columns of the rows they are applied to."""

import numpy as np
import pytest

import bayeslora as bl
from bayeslora.cli import main


@pytest.fixture(params=["parquet", "csv", "jsonl"])
def files(request, tmp_path):
    generator = np.random.default_rng(0)
    for name in ("fit", "apply"):
        predictions = bl.Predictions(
            generator.dirichlet(np.ones(3), 40),
            ("a", "b", "c"),
            generator.integers(0, 3, 40),
            ids=[f"{name} {k}" for k in range(40)],
            columns={"source": ["web", "news"] * 20, "text": [f"=text {k}" for k in range(40)]},
        )
        predictions.save(tmp_path / f"{name}.{request.param}")
    return [str(tmp_path / f"{name}.{request.param}") for name in ("fit", "apply")]


@pytest.mark.parametrize("verb", ["recalibrate", "conformal"])
def test_further_columns_stay(files, tmp_path, verb):
    fit, apply = files
    out = str(tmp_path / f"out.{apply.rpartition('.')[2]}")
    assert main([verb, "--fit", fit, "--apply", apply, "--out", out]) == 0
    before, after = (bl.Predictions.load(path, columns=["source", "text"]) for path in (apply, out))
    assert after.ids == before.ids
    for name in ("source", "text"):
        assert list(after.columns[name]) == list(before.columns[name])
