"""The benchmark of posteriors on a tiny backbone: every kind of fit ends in complete rows."""

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import tiny

from bayeslora.backbones.load import load_backbone
from bayeslora.experiments.data import ExperimentData
from bayeslora.files import read_json, write_json
from bayeslora.tasks.readers import load_examples

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
posteriors = pytest.importorskip("posteriors", reason="benchmarks/ is not beside tests/")
posteriors_summary = pytest.importorskip("posteriors_summary")
ablations = pytest.importorskip("ablations", reason="benchmarks/ is not beside tests/")


@pytest.fixture
def cell(tmp_path, monkeypatch):
    monkeypatch.setattr(posteriors, "EPOCHS", 2)
    monkeypatch.setitem(
        posteriors.FITS,
        "map",
        ("laplace:structure=diag", "nuts:kernel=hmc,num_chains=1,num_warmup=5,num_samples=4"),
    )
    backbone = load_backbone(str(tiny.tiny_llama(tmp_path / "llama")), dtype="float32")
    rows = [load_examples(tiny.toy_rows(size, seed)) for seed, size in enumerate((48, 24, 24, 12))]
    # Out of the distribution labels are no classes.
    far = replace(rows[3], labels=("elsewhere",) * len(rows[3]))
    data = ExperimentData("toy", *rows[:3], {"far": far}, {"far": "b"})
    return posteriors.Cell(backbone, data, "lora", 0, tmp_path / "out")


@pytest.mark.parametrize("fit", ["mle", "map", "vbll", "clora", "mc_dropout"])
def test_a_fit_and_what_is_calibrated_on_it(cell, fit):
    posteriors.run(cell, fit)
    content = read_json(cell.file(fit))
    assert [row["method"] for row in content["rows"]] == [fit, *posteriors.FITS[fit]]
    for row in content["rows"]:
        assert row["passes"] == (10 if fit in {"clora", "mc_dropout"} else 1)
        assert row["bytes"] > 0
        assert row["nll"] > 0
        assert 0 <= row["far logit_variance"] <= 1
    first, *others = content["rows"]
    # The time of the fit is part of every calibration's.
    assert all(row["fit_seconds"] > first["fit_seconds"] for row in others)
    # What is stored is not made again.
    before = cell.file(fit).read_bytes()
    posteriors.run(cell, fit)
    assert cell.file(fit).read_bytes() == before


def test_ablations_fill_their_table(cell, monkeypatch):
    monkeypatch.setattr(ablations, "EPOCHS", 2)
    monkeypatch.setattr(ablations, "POLISHES", {"covariance diagonal": "vbll:covariance=diagonal"})
    for seed, fit in product((0, 1), ("default", "head step joint")):
        ablations.run(replace(cell, adapter="variants", seed=seed), fit)
    ablations.write_summary(cell.out)
    lines = (cell.out / "summary.md").read_text(encoding="utf-8").splitlines()
    table = {line.split(" | ")[0][2:]: line.split(" | ") for line in lines if line.startswith("| ")}
    assert list(table)[1:] == ["default", "head step joint", "covariance diagonal"]
    assert all(row[1] == "2" for name, row in table.items() if name != "variant")
    assert "±" in table["head step joint"][-3]
    assert not table["default"][-3]


def test_the_learning_rate_is_chosen_once_with_the_first_seed(cell):
    rate = posteriors.best_rate(cell, "mle")
    file = cell.out / "learning-rates" / "toy" / "lora-mle.json"
    stored = dict(map(tuple, read_json(file)["validation_nll"]))
    assert stored[rate] == min(stored.values())
    other = posteriors.Cell(cell.backbone, cell.data, "lora", 5, cell.out)
    assert posteriors.best_rate(other, "mle") == rate
    assert read_json(file)["seed"] == 0


def test_the_summary_names_the_front_and_the_gaps(tmp_path):
    def row(method, nll, seconds):
        scores = dict.fromkeys(posteriors_summary.SCORES, 0.5) | {"nll": nll}
        costs = {"passes": 1, "bytes": 2_000_000, "fit_seconds": 9.0, "predict_seconds": seconds}
        return {"method": method, **scores, **costs}

    for seed, shift in ((0, 0.0), (1, 0.02)):
        for adapter, rows in {
            "polar": [row("vbll", 0.40 + shift, 1.0)],
            "lora": [row("mle", 0.50 + shift, 0.9), row("blob", 0.45, 10.0)],
        }.items():
            head = {"task": "toy", "adapter": adapter, "seed": seed, "fit": adapter}
            file = tmp_path / "scores" / "toy" / adapter / f"fit-seed-{seed}.json"
            write_json(file, {**head, "rows": rows})
    posteriors_summary.write_summary(tmp_path)
    lines = (tmp_path / "summary.md").read_text().splitlines()
    table = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    assert list(table)[1:] == ["polar vbll ★", "lora blob", "lora mle"]
    assert "| 0.100 ± 0.000 |" in table["lora mle"]
    figure = (tmp_path / "figures" / "toy.svg").read_text()
    assert "lora blob" in figure


def test_the_front_holds_what_nothing_beats():
    points = [
        posteriors_summary.Point(name, cost, nll)
        for name, cost, nll in [("a", 1, 0.5), ("b", 1.1, 0.4), ("c", 2, 0.41), ("d", 3, 0.3)]
    ]
    assert posteriors_summary.pareto_front(points) == ["b", "d"]
