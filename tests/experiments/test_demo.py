"""The demo's own code, from fits to predictions, on a tiny backbone and few rows."""

import pytest
import tiny

from bayeslora.backbones.load import load_backbone
from bayeslora.experiments import demo
from bayeslora.experiments.data import ExperimentData
from bayeslora.tasks.readers import load_examples

METHODS = [
    "lora-mle",
    "lora-temperature",
    "lora-laplace",
    "lora-mc-dropout",
    "lora-ensemble",
    "polar-vbll",
]


@pytest.fixture
def found(tmp_path, monkeypatch):
    backbone = load_backbone(str(tiny.tiny_llama(tmp_path / "llama")), dtype="float32")
    rows = [load_examples(tiny.toy_rows(size, seed)) for seed, size in enumerate((60, 30, 30, 12))]
    data = ExperimentData(
        "toy", *rows[:3], {"near": rows[3], "far": rows[3]}, {"near": "a", "far": "b"}
    )
    monkeypatch.setattr(demo, "load_backbone", lambda _: backbone)
    monkeypatch.setattr(demo, "newsgroups", lambda **_: data)
    return demo.run_demo(progress=False)


def test_every_method_predicts_every_set(found):
    assert [item.name for item in found.test] == METHODS
    assert {len(item) for item in found.test} == {30}
    for name in METHODS:
        assert {split: len(item) for split, item in found.ood[name].items()} == {
            "near": 12,
            "far": 12,
        }
        assert found.ood[name]["near"].labels is None


def test_methods_differ_where_they_should(found):
    by_name = {item.name: item for item in found.test}
    mle = by_name["lora-mle"]
    assert not mle.epistemic.any()
    for name in ("lora-laplace", "lora-mc-dropout", "lora-ensemble", "polar-vbll"):
        assert by_name[name].epistemic.max() > 0, name
    assert (by_name["lora-temperature"].prediction == mle.prediction).all()


def test_what_was_run_names_data_settings_and_versions(found):
    assert found.provenance["data"]["training rows"] == "60"
    assert "temperature" in found.provenance["chosen by the posteriors"]["lora-temperature"]
    assert "torch" in found.provenance["versions"]
    assert "learning rates" in found.provenance["model"]
