"""The study `label_budget`: what its rows say of a fit, and how differences are averaged."""

import pytest
from tiny import tiny_llama, toy_rows

from bayeslora.backbones.load import load_backbone
from bayeslora.data.columns import DataColumns
from bayeslora.data.read import read
from benchmarks.label_budget.__main__ import fit
from benchmarks.label_budget.summary import differences
from benchmarks.lib.pools import Pools


def test_without_the_scale_it_is_the_same_fit(tmp_path):
    backbone = load_backbone(str(tiny_llama(tmp_path / "model")), dtype="float32", device="cpu")
    train, test = (read(toy_rows(count, seed), DataColumns()) for count, seed in ((24, 0), (30, 1)))
    scaled = fit(backbone, "polar-vbll, cv", train, Pools(train=train, score=test, ood={}), 0)
    assert scaled["polar-vbll, cv"]["factor"] != 1
    assert scaled["polar-vbll"]["nll"] != pytest.approx(scaled["polar-vbll, cv"]["nll"], rel=1e-6)


def test_differences_that_share_rows_are_averaged_first():
    def cell(method, size, seed, nll):
        return (size, method, "set"), {"seed": seed, "nll": nll}

    first, second = {}, {}
    for stored, cells in (
        (first, [("a", 32, 0, 3.0), ("b", 32, 0, 1.0), ("a", 32, 1, 5.0), ("b", 32, 1, 1.0)]),
        (second, [("a", 32, 0, 1.0), ("b", 32, 0, 1.0), ("a", 32, 2, 9.0)]),
    ):
        for parts in cells:
            key, row = cell(*parts)
            stored.setdefault(key, []).append(row)
    by_draw = differences([first, second], "a", "b", (32,), "nll")
    assert by_draw == {"set": {0: [2.0, 0.0], 1: [4.0]}}
