"""The benchmark of regimes on a tiny backbone: complete tables, and features of the right state."""

import pytest
import tiny

from bayeslora.backbones.load import load_backbone
from bayeslora.data.read import read
from benchmarks.lib.experiment_data import ExperimentData
from benchmarks.lib.results import Results
from benchmarks.regimes import __main__ as regimes


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(regimes, "LONG", 2)
    monkeypatch.setattr(regimes, "SHORT", 1)
    monkeypatch.setattr(regimes, "EPOCHS", (1, 2))
    backbone = load_backbone(str(tiny.tiny_llama(tmp_path / "llama")), dtype="float32")
    return regimes.Bench(backbone, tmp_path / "runs", tmp_path / "out")


@pytest.fixture
def data():
    rows = [read(tiny.toy_rows(size, seed)) for seed, size in enumerate((48, 24, 24, 12))]
    return ExperimentData("toy", *rows[:3], {"far": rows[3]}, {"far": "b"})


def test_features_belong_to_the_state_that_is_asked_for(bench, data):
    fits = regimes.Fits(bench, data, "lora-mle", 0)
    seen = {}
    for lr in fits.rates:
        for epoch in (1, 2):
            state = dict(fits.states(2, lr)[epoch])  # a new object, as a reload would give
            values = fits._features(state, [regimes.TRAIN])[regimes.TRAIN].values
            direct = fits.lab.features(state, [regimes.TRAIN])[regimes.TRAIN].values
            assert (values == direct).all()
            seen[lr, epoch] = values.sum().item()
    assert len(set(seen.values())) == 4


def test_a_family_fills_all_regimes_and_the_summary(bench, data):
    for family in ("lora-mle", "polar-vbll"):
        regimes.run_family(bench, data, family, 0)
    rows = Results(bench.out, regimes.KEY).get(family="polar-vbll", kind="fit")["rows"]
    assert {(row["regime"], row["method"]) for row in rows} >= {
        (regime, "polar-vbll") for regime in ("fixed", "tuned", "none")
    }
    assert all(0 <= row["far logit_variance"] <= 1 for row in rows)
    regimes.write_summary(bench.out)
    text = (bench.out / "summary.md").read_text(encoding="utf-8")
    assert "lora-temperature" in text
    assert "polar-vbll" in text


def test_rows_of_another_rate_are_made_anew_and_all_others_kept(bench, data, monkeypatch):
    regimes.run_family(bench, data, "lora-mle", 0)
    results = Results(bench.out, regimes.KEY)
    before = results.get(kind="fit")
    rate = before["rows"][2]["lr"]
    stale = [{**row, "nll": -1.0} for row in before["rows"]]
    for row in stale:
        row["lr"] = 2 * rate if row["regime"] == "none" else row["lr"]
    results.append({**before, "rows": stale})
    regimes.run_family(bench, data, "lora-mle", 0)
    after = results.get(kind="fit")["rows"]
    assert [row["nll"] == -1.0 for row in after] == [row["regime"] != "none" for row in after]
    assert [row for row in after if row["regime"] == "none"] == [
        row for row in before["rows"] if row["regime"] == "none"
    ]
    monkeypatch.setattr(regimes, "run_row", pytest.fail)
    regimes.run_family(bench, data, "lora-mle", 0)
