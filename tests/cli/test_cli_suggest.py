"""suggest: rows of a pool, by a fitted model."""

import json

from bayeslora.predictions.record import Predictions


def test_suggest_chooses_rows_of_a_pool(run, refused, world, tmp_path):
    out = tmp_path / "chosen.parquet"
    result = run("suggest", world.model, world.test, "-n", 7, "--out", out)
    assert result.code == 0, result.err
    assert len(Predictions.read(out, columns=["text"])) == 7
    out.unlink()
    rows = json.loads(run("suggest", world.model, world.test, "-n", 7, "--json").out)["rows"]
    assert len({row["id"] for row in rows}) == 7
    assert "-n must" in refused("suggest", world.model, world.test, "-n", 10_000)
    refused("suggest", world.model, tmp_path / "missing.jsonl", "-n", 3)
    refused("suggest", tmp_path, world.test, "-n", 3)
