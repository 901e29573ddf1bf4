"""The verb `demo` around its fits, which are tested elsewhere."""

import pytest
from cli_files import fake

from bayeslora import demo
from bayeslora.predictions.record import Predictions


@pytest.fixture
def fitted(monkeypatch, tmp_path):
    """Replace the fits; return the arguments of their calls."""
    calls = []

    def load(name, **options):
        return Predictions.load(fake(tmp_path / f"{name}.parquet", **options))

    run = (
        [load("lora-mle", seed=1), load("polar-vbll", seed=2)],
        {
            "lora-mle": {"near": load("near-1", seed=3, outside=True)},
            "polar-vbll": {"near": load("near-2", seed=4, outside=True)},
        },
        {"data": {"train": "640 posts"}},
    )
    monkeypatch.setattr(demo, "run_demo", lambda **options: calls.append(options) or run)
    return calls


def test_the_demo_prints_a_table_and_writes_a_report(run, refused, fitted, tmp_path):
    out = tmp_path / "reports" / "demo"
    result = run("demo", "--out", out, "--seed", 3, "--quiet")
    assert result.code == 0, result.err
    assert fitted == [{"progress": False, "seed": 3}]
    for part in ("lora-mle", "polar-vbll", "AUROC", "near", f"report: {out / 'index.html'}"):
        assert part in result.out
    page = (out / "index.html").read_text()
    assert "640 posts" in page
    assert f"bayeslora demo --out {out} --seed 3 --quiet" in page
    assert "exists" in refused("demo", "--out", out)
    assert len(fitted) == 1, "it was refused before anything was fitted"
    assert run("demo", "--out", out, "--overwrite").code == 0


def test_the_demo_never_overwrites_something_else(refused, fitted, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    assert "chapter.txt" in refused("demo", "--out", tmp_path / "thesis", "--overwrite")
    assert fitted == []
