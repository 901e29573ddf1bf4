"""update: more labelled rows for a model of ours."""

import json


def test_more_rows(run, refused, world, tmp_path):
    out, lines = tmp_path / "m", world.test.read_text().splitlines(keepends=True)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text("".join(lines[:22]))
    second.write_text("".join(lines[22:]))
    update = ["update", world.model, first, "--out", out, "--quiet"]
    result = run(*update, "--json")
    assert result.code == 0, result.err
    content = json.loads(result.out)
    assert content["rows"] == 22
    assert content["nll"] <= content["nll_before"]
    assert run("predict", out, world.test, "--out", tmp_path / "p.parquet", "--quiet").code == 0
    assert "exists" in refused(*update)
    # In place, and not twice.
    assert "fitted to" in refused("update", out, first)
    assert run("update", out, second).code == 0
    assert "fitted to" in refused("update", out, first)
    assert "fitted to" in refused("update", world.model, world.valid)


def test_bad_input_writes_nothing(refused, world, tmp_path):
    out = tmp_path / "m"
    refused("update", world.classifier, world.valid, "--out", out)
    refused("update", world.model, tmp_path / "none.jsonl", "--out", out)
    (tmp_path / "few.jsonl").write_text('{"text": "x", "label": "y"}\n')
    refused("update", world.model, tmp_path / "few.jsonl", "--out", out)
    assert not out.exists()
