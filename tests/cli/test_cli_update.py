"""update: more labelled rows for a model of ours."""

import json


def test_more_rows(run, refused, world, tmp_path):
    out = tmp_path / "m"
    update = ["update", world.model, world.valid, "--out", out, "--quiet"]
    content = json.loads(run(*update, "--json").out)
    assert content["rows"] == 45
    assert content["nll"] <= content["nll_before"]
    assert run("predict", out, world.test, "--out", tmp_path / "p.parquet", "--quiet").code == 0
    assert "exists" in refused(*update)
    # In place, and not twice.
    assert "fitted to these rows" in refused("update", out, world.valid)
    assert run("update", out, world.test).code == 0


def test_bad_input_writes_nothing(refused, world, tmp_path):
    out = tmp_path / "m"
    refused("update", world.classifier, world.valid, "--out", out)
    refused("update", world.model, tmp_path / "none.jsonl", "--out", out)
    (tmp_path / "few.jsonl").write_text('{"text": "x", "label": "y"}\n')
    refused("update", world.model, tmp_path / "few.jsonl", "--out", out)
    assert not out.exists()
