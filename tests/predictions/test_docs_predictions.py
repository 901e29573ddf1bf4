"""The snippets of docs/predictions.md run unchanged."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import bayeslora as bl

PAGE = Path(__file__).parents[2] / "docs" / "predictions.md"


def test_the_snippets_run_one_after_another(tmp_path, monkeypatch, capsys):
    if not PAGE.is_file():
        pytest.skip("docs/ is not beside tests/")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    output = SimpleNamespace(predictions=np.eye(3), label_ids=np.arange(3))
    names = {
        "trainer": SimpleNamespace(predict=lambda data: output),
        "test_data": None,
        "model": SimpleNamespace(config=SimpleNamespace(id2label={0: "a", 1: "b", 2: "c"})),
    }
    monkeypatch.chdir(tmp_path)
    mixed_rows().save("mixed.parquet")
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    nll, low, high = map(float, capsys.readouterr().out.split())
    assert 0 < nll < 0.5
    assert 0 <= low < high <= 1
    assert bl.evaluate("logistic.parquet", num_resamples=2).name == "logistic regression"
    assert bl.Predictions.load("bert.jsonl").classes == ("a", "b", "c")
    assert names["scores"].n == 3
    assert names["scores"].ood["unknown"].auroc.value == 1


def mixed_rows():
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.5, 0.5]])
    rows = bl.Predictions.from_arrays(probs, [0, 1, 0, -1], kind="probs")
    return replace(rows, columns={"unknown_label": (None, None, None, "sport")})
