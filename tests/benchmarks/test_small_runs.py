"""Studies that take hours, on toy data: they end in complete rows."""

import pytest
from tiny import tiny_llama, toy_rows

from bayeslora.backbones.load import load_backbone
from bayeslora.data.read import read
from benchmarks.interval_coverage import __main__ as interval_coverage
from benchmarks.lib.pools import Pools
from benchmarks.unfamiliarity_weight import __main__ as unfamiliarity_weight


def test_every_score_of_detection_has_an_area(tmp_path):
    backbone = load_backbone(str(tiny_llama(tmp_path)), dtype="float32", device="cpu")
    train, score, far = (read(toy_rows(count, seed)) for seed, count in enumerate((40, 20, 10)))
    areas = unfamiliarity_weight.areas(backbone, Pools(train, score, {"far": far}), 24, 0)
    names = {unfamiliarity_weight.BEFORE, unfamiliarity_weight.TAKEN, *unfamiliarity_weight.OTHERS}
    assert {f"far {name}" for name in names} < areas.keys()
    assert all(0 <= area <= 1 for area in areas.values())


def test_every_interval_of_a_score_is_counted(monkeypatch):
    monkeypatch.setattr(interval_coverage, "POPULATION", 3000)
    scores = interval_coverage.simulated(1.0, 60, 2, 1)
    assert {*interval_coverage.FIRST, *interval_coverage.FURTHER} < scores.keys()
    assert all(0 <= row["printed"] <= 1 for row in scores.values())
    assert scores["accuracy"]["mean"] == pytest.approx(scores["accuracy"]["truth"], abs=0.2)
