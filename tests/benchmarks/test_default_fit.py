"""The study of the default fit: its tables and its rule."""

import pytest
from tiny import tiny_llama, toy_rows

from bayeslora.backbones.load import load_backbone
from bayeslora.data.columns import DataColumns
from bayeslora.data.read import read
from benchmarks.default_fit.__main__ import ABLATION, DEFAULT, METHODS, RIVAL, fit, write
from benchmarks.lib.pools import Pools


def row(task, seed, method, nll, **more):
    cell = {"backbone": "minilm", "task": task, "size": 640, "seed": seed, "method": method}
    return cell | {"nll": nll, "accuracy": 0.9, "ece": 0.02, "seconds": 12.3} | more


@pytest.mark.parametrize(("gap", "holds"), [(-0.02, "yes"), (0.015, "no"), (0.0, "no")])
def test_the_default_holds_if_no_set_is_behind_and_the_mean_is_ahead(tmp_path, gap, holds):
    rows = []
    for seed in (0, 1):
        for task, own in (("tweets", gap), ("ag_news_10k", min(gap, 0.0) - 0.001 * (gap < 0))):
            rows += [row(task, seed, DEFAULT, 0.3 + own), row(task, seed, RIVAL, 0.3)]
    write(tmp_path, rows)
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert f"| {holds} |" in text
    assert "0.300 / 0.900" in text


def test_fits_have_scores_and_what_they_should_beat(tmp_path):
    backbone = load_backbone(str(tiny_llama(tmp_path)), dtype="float32", device="cpu")
    train, test = (read(toy_rows(count, seed), DataColumns()) for count, seed in ((40, 0), (30, 1)))
    pools = Pools(train=train, score=test, ood={})
    rows = {
        name: fit(backbone, method, pools, 30, 0)
        for name, method in (METHODS | ABLATION).items()
        if name in {DEFAULT, RIVAL, "last layer from zero", "five epochs"}
    }
    for name, scores in rows.items():
        assert scores["nll"] > 0, name
        assert {"linear_probe", "bag_of_words"} - scores.keys() == (
            {"linear_probe"} if name == "last layer from zero" else set()
        )
    assert rows[DEFAULT]["nll"] != rows["last layer from zero"]["nll"]


def test_backbones_are_compared_on_the_draws_of_both_and_the_ablation_at_one_size(tmp_path):
    rows = [
        row("tweets", 0, DEFAULT, 0.2),
        row("tweets", 1, DEFAULT, 9.0),
        row("tweets", 0, DEFAULT, 0.4, backbone="smollm2-135m"),
        row("tweets", 0, "five epochs", 0.25),
        row("tweets", 0, DEFAULT, 5.0, size=128),
        row("tweets", 0, "five epochs", 7.0, size=128),
    ]
    write(tmp_path, rows)
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "| tweets | 640 | 1 | 0.200 / 0.900 | 0.400 / 0.900 |" in text
    assert "tweets +0.050" in text
