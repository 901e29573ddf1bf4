"""The demo's own code, from fits to predictions, on a tiny backbone and few rows."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from bayeslora import demo
from bayeslora.backbones.load import load_backbone
from bayeslora.data.newsgroups import NewsgroupsDemo
from bayeslora.data.read import read
from bayeslora.engine import data
from bayeslora.engine.progress import each_note_once

PARTS = ("test", "ood", "provenance")
METHODS = [
    "lora-mle",
    "lora-temperature",
    "lora-laplace",
    "lora-mc-dropout",
    "lora-ensemble",
    "polar-vbll",
    "bag-of-words",
]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = tiny.tiny_llama(tmp_path_factory.mktemp("demo") / "llama")
    backbone = load_backbone(str(path), dtype="float32")
    rows = [read(tiny.toy_rows(size, seed)) for seed, size in enumerate((36, 30, 12))]
    train, test, other = rows
    posts = NewsgroupsDemo(train, train.take([]), test, other, other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "load_backbone", lambda _: backbone)
        patch.setattr(demo, "load_newsgroups", lambda **_: posts)
        return SimpleNamespace(**dict(zip(PARTS, demo.run_demo(progress=False), strict=True)))


def test_every_method_predicts_every_set(result):
    assert [item.name for item in result.test] == METHODS
    assert {len(item) for item in result.test} == {30}
    for name in METHODS:
        assert {split: len(item) for split, item in result.ood[name].items()} == {
            "near": 12,
            "far": 12,
        }
        assert result.ood[name]["near"].labels is None


def test_methods_differ_where_they_should(result):
    by_name = {item.name: item for item in result.test}
    mle = by_name["lora-mle"]
    assert not mle.epistemic.any()
    for name in ("lora-laplace", "lora-mc-dropout", "lora-ensemble", "polar-vbll"):
        assert by_name[name].epistemic.max() > 0, name
    assert (by_name["lora-temperature"].probs != mle.probs).any()


def test_what_was_run_names_data_and_versions(result):
    assert result.provenance["data"]["training rows"] == "36"
    assert "torch" in result.provenance["versions"]


def test_the_bag_of_words_is_scikit_learns(result):
    (method,) = [item for item in result.test if item.name == "bag-of-words"]
    assert np.mean(method.labels == method.prediction) > 0.9  # words give the toy classes away
    assert method.ids == result.test[0].ids
    assert method.classes == result.test[0].classes


def test_notes_on_the_rows_are_made_once(caplog):
    reader = logging.getLogger(data.__name__)
    with each_note_once(data.__name__):
        for text in ("cut", "cut", "other"):
            reader.warning(text)
    reader.warning("cut")
    assert [record.getMessage() for record in caplog.records] == ["cut", "other", "cut"]
