"""The benchmark of posteriors on a tiny backbone: every kind of fit ends in complete rows."""

import math
from dataclasses import replace
from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import tiny

from bayeslora import options
from bayeslora.adapters.registry import ADAPTERS
from bayeslora.backbones.load import load_backbone
from bayeslora.data.read import read
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.registry import build_head, resolve_posterior
from bayeslora.testing.last_layer import toy
from benchmarks.ablations import __main__ as ablations
from benchmarks.adapter_grid import __main__ as adapter_grid
from benchmarks.adapter_grid import summary as adapter_grid_summary
from benchmarks.existing_classifier import __main__ as existing_classifier
from benchmarks.lib import detection, fits
from benchmarks.lib.experiment_data import ExperimentData
from benchmarks.lib.fits import SCORES
from benchmarks.lib.results import Results
from benchmarks.posteriors import __main__ as posteriors
from benchmarks.posteriors import distances as posteriors_distances
from benchmarks.posteriors import pareto as posteriors_pareto
from benchmarks.posteriors import summary as posteriors_summary

pytestmark = pytest.mark.usefixtures("beside_nothing")

SHORT_CHAINS = "nuts:kernel=hmc,num_chains=2,num_warmup=60,num_samples=20"
SAME_PRIOR = sorted(
    {name for names in posteriors_distances.APPROXIMATIONS.values() for name in names}
)
RECIPES = sorted(
    {
        *posteriors.FITS,
        *set().union(*posteriors.FITS.values()),
        *posteriors.WIDER.values(),
        posteriors_distances.EXACT,
        *SAME_PRIOR,
        *(posterior for _, posterior in ablations.FITS.values()),
        *ablations.POLISHES.values(),
        *existing_classifier.POSTERIORS,
    }
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_a_posterior(recipe):
    """With all its options: a renamed option would stop a benchmark of days half-way."""
    assert resolve_posterior(recipe).name == recipe.split(":")[0]


def test_every_fit_has_its_adapter():
    assert set(posteriors.LEARNING_RATES) <= set(ADAPTERS)
    assert set(posteriors.TRAINED_AS) | set(posteriors.TRAINED_AS.values()) <= set(posteriors.FITS)
    assert posteriors.LORA_ONLY | set(posteriors_distances.APPROXIMATIONS) <= set(posteriors.FITS)
    for adapter, _ in ablations.FITS.values():
        options.resolve("adapter", adapter, ADAPTERS)


@pytest.mark.parametrize("recipe", SAME_PRIOR)
def test_what_is_measured_from_the_chains_has_their_prior(recipe):
    exact = resolve_posterior(posteriors_distances.EXACT)
    head = build_head(resolve_posterior(recipe), 4, 3)
    features, labels = toy(rows=30)
    head.fit(Features(features, labels), Features(*toy(rows=30, seed=1)))
    assert head.report()["prior_scale"] == pytest.approx(exact.prior_scale, rel=1e-12)


PASSES = {"clora": 10, "mc_dropout": 10, "laplace_lora": 2}


@pytest.fixture
def cell(tmp_path, monkeypatch):
    monkeypatch.setattr(posteriors, "EPOCHS", 2)
    monkeypatch.setitem(posteriors.FITS, "map", ("laplace:structure=diag", SHORT_CHAINS))
    for module in (posteriors, posteriors_distances):
        monkeypatch.setattr(module, "EXACT", SHORT_CHAINS)
    measured = {"map": SAME_PRIOR[:1], "vbll": SAME_PRIOR[-1:]}
    monkeypatch.setattr(posteriors_distances, "APPROXIMATIONS", measured)
    backbone = load_backbone(str(tiny.tiny_llama(tmp_path / "llama")), dtype="float32")
    rows = [read(tiny.toy_rows(size, seed)) for seed, size in enumerate((48, 24, 24, 12))]
    # Labels of out-of-distribution rows are not classes.
    far = replace(rows[3], labels=("elsewhere",) * len(rows[3]))
    data = ExperimentData("toy", *rows[:3], {"far": far}, {"far": "b"})
    return fits.Cell(backbone, data, "lora", 0, tmp_path / "out")


@pytest.mark.parametrize("fit", ["map", "vbll", "clora", "mc_dropout"])
def test_a_fit_and_what_is_calibrated_on_it(cell, fit, monkeypatch):
    monkeypatch.setitem(posteriors.LEARNING_RATES, "lora", (1e-3,))
    posteriors.run(cell, fit)
    results = Results(cell.out, posteriors.KEY)
    content = results.get(kind="fit")
    assert [row["method"] for row in content["rows"]] == [fit, *posteriors.FITS[fit]]
    for row in content["rows"]:
        assert row["passes"] == PASSES.get(row["method"], 1)
        assert row["bytes"] > 0
        assert row["nll"] > 0
        for score in fits.OOD_SCORES:
            assert 0 <= row[f"far {score}"] <= 1
    first, *others = content["rows"]
    for score in detection.FEATURE_DISTANCES:
        assert (f"far {score}" in first) == bool(others)
    assert ("distances" in content) == (fit in {"map", "vbll"})
    # The time of every calibration includes that of the fit.
    assert all(row["fit_seconds"] > first["fit_seconds"] for row in others)
    # Stored rows are not computed again.
    before = results.path.read_bytes()
    posteriors.run(cell, fit)
    assert results.path.read_bytes() == before


def test_the_frozen_layers_run_before_anything_is_timed(cell, monkeypatch):
    small = {name: partial(ADAPTERS[name], num_layers=1) for name in ("lora", "polar")}
    monkeypatch.setattr(fits, "ADAPTERS", small)
    monkeypatch.setattr(fits, "LoRA", small["lora"])
    polar = replace(cell, adapter="polar")
    place = {"kind": "fit", **posteriors.place_of(cell, "mle"), "seed": cell.seed}
    Results(cell.out, posteriors.KEY).append(place)
    ((polar_cell, fit),) = fits.warmed([(cell, "mle"), (polar, "mle")], posteriors.is_stored)
    assert (polar_cell.adapter, fit) == ("polar", "mle")
    assert polar_cell.frozen_seconds > 0
    known = set(cell.backbone.prefix_states)
    # The second fit is not cheaper than the first.
    (again, _), _ = fits.warmed([(cell, "vbll"), (polar, "vbll")], posteriors.is_stored)
    assert again.frozen_seconds > 0
    assert set(cell.backbone.prefix_states) == known
    assert len(known) == 4
    clf, _ = posteriors.fitted(polar_cell, fit, 1e-3)
    row = fits.scored(polar_cell, clf, fit, 1.0)
    assert set(cell.backbone.prefix_states) == known
    assert row["predict_seconds"] > polar_cell.frozen_seconds
    assert fits.warmed([(cell, "mle")], posteriors.is_stored) == []


@pytest.mark.parametrize("fit", ["map", "vbll"])
def test_distances_are_from_chains_on_the_same_features_under_the_same_prior(cell, fit):
    clf, _ = posteriors.fitted(cell, fit, 1e-3)
    clf.save_pretrained(cell.out / "fit")

    def load():
        return type(clf).from_pretrained(cell.out / "fit", backbone=cell.backbone, progress=False)

    rows = posteriors_distances.distance_rows(cell.data, fit, load)
    chains, *others = rows
    assert (chains["method"], chains["tv"], chains["epistemic_ratio"]) == (SHORT_CHAINS, 0, 1)
    assert chains["chosen"]["max_rhat"] > 0
    point = ["map"] if fit == "map" else []
    measured = posteriors_distances.APPROXIMATIONS[fit]
    assert [row["method"] for row in others] == [*point, *measured]
    for row in others:
        assert 0 < row["tv"] < 1
        # A point estimate has no epistemic uncertainty.
        assert (row["epistemic_ratio"] == 0) == (row["method"] == "map")
    # Known predictions are not computed again: here the chains are compared with themselves.
    twin = load().calibrate(cell.data.train, posterior=SHORT_CHAINS)
    known = ({"max_rhat": 7.0}, twin.predict(cell.data.test))
    again = posteriors_distances.distance_rows(cell.data, fit, load, known)
    assert again[0]["chosen"] == {"max_rhat": 7.0}
    assert again[1:] == others


@pytest.fixture
def quick_ablations(monkeypatch):
    """Use fits without a learnt prior scale and with the closed-form bound."""
    quick = tiny.QUICK_VBLL.partition(":")[2]
    default, tight = f"vbll:{quick}", f"vbll:bound=knowles_minka,{quick}"
    monkeypatch.setitem(ablations.FITS, "default", ("polar", default))
    monkeypatch.setitem(ablations.FITS, "bound knowles_minka", ("polar", tight))
    return {
        "covariance diagonal": f"vbll:covariance=diagonal,{quick}",
        "means refit": f"vbll:polish_mean=refit,{quick}",
    }


def test_ablations_fill_their_table(cell, quick_ablations, monkeypatch):
    diagonal = {"covariance diagonal": quick_ablations["covariance diagonal"]}
    monkeypatch.setattr(ablations, "POLISHES", diagonal)
    for seed, fit in product((0, 1), ("default", "bound knowles_minka")):
        ablations.run(replace(cell, adapter="variants", seed=seed), fit)
    ablations.write_summary(cell.out)
    lines = (cell.out / "summary.md").read_text(encoding="utf-8").splitlines()
    table = {line.split(" | ")[0][2:]: line.split(" | ") for line in lines if line.startswith("| ")}
    assert list(table)[1:] == ["default", "bound knowles_minka", "covariance diagonal"]
    assert all(row[1] == "2" for name, row in table.items() if name != "variant")
    columns = table["variant"]
    change, prior, taken = map(columns.index, ("Δ NLL", "prior scale", "calibration |"))
    assert "±" in table["bound knowles_minka"][change]
    assert not table["default"][change]
    assert all(float(row[prior]) > 0 for name, row in table.items() if name != "variant")
    assert [name for name, row in table.items() if row[taken].strip("| ")] == [
        "variant",
        "covariance diagonal",
    ]


def test_ablations_add_final_fits_to_a_stored_fit(cell, quick_ablations, monkeypatch):
    """By fitting again, so the new row is the same as in a single run."""
    at = replace(cell, adapter="variants")
    both = quick_ablations
    first = "covariance diagonal"
    monkeypatch.setattr(ablations, "POLISHES", both)
    ablations.run(at, "default")
    results = Results(at.out, ablations.KEY)
    whole = results.get()["rows"]
    results.path.unlink()
    for polishes in ({first: both[first]}, both):
        monkeypatch.setattr(ablations, "POLISHES", polishes)
        ablations.run(at, "default")
    rows = results.get()["rows"]
    assert [row["method"] for row in rows] == ["default", *both]
    assert [row["nll"] for row in rows] == [row["nll"] for row in whole]
    rows[0]["nll"] += 1
    results.append({**results.get(), "rows": rows[:2]})
    with pytest.raises(RuntimeError, match=r"delete .*default"):
        ablations.run(at, "default")


def test_the_learning_rate_is_chosen_once_with_the_first_seed(cell, monkeypatch):
    tried = []

    def fitted(at, fit, lr):
        tried.append((at.seed, fit, lr))
        return SimpleNamespace(lr=lr, predict=lambda _: lr), 1.0

    monkeypatch.setattr(posteriors, "fitted", fitted)
    monkeypatch.setattr(posteriors, "nll_of", lambda lr: abs(lr - 3e-3))
    # Its adapter is trained like that of "mle", at the same rate.
    assert posteriors.at_best(cell, "ensemble")[0].lr == 3e-3
    assert posteriors.at_best(replace(cell, seed=5), "mle")[0].lr == 3e-3
    assert posteriors.at_best(cell, "vbll")[0].lr == 3e-3
    low, high = posteriors.LEARNING_RATES["lora"]
    expected = [(0, "mle", low), (0, "mle", high), (0, "ensemble", high), (5, "mle", high)]
    assert tried == [*expected, (0, "vbll", low), (0, "vbll", high)]
    assert Results(cell.out, posteriors.KEY).get(kind="rate", fit="mle")["seed"] == 0


def test_the_width_is_chosen_once_at_the_better_rate(cell, monkeypatch):
    tried = []

    def fitted(at, fit, lr):
        tried.append((at.seed, fit, lr))
        return SimpleNamespace(predict=lambda _: (fit, lr), fit=fit), 1.0

    monkeypatch.setattr(posteriors, "fitted", fitted)
    monkeypatch.setattr(posteriors, "nll_of", lambda made: (made[0] == "blob") + made[1])
    wider = posteriors.WIDER["blob"]
    assert posteriors.at_best(cell, "blob")[0].fit == wider
    assert posteriors.at_best(replace(cell, seed=1), "blob")[0].fit == wider
    low, high = posteriors.LEARNING_RATES["lora"]
    assert tried == [(0, "blob", low), (0, "blob", high), (0, wider, low), (1, wider, low)]


SMALL = {
    "lora": "lora:r=2",
    "pissa": "pissa:r=2",
    "corda": "corda:r=2",
    "s2ft": "s2ft:o_ratio=0.5,d_ratio=0.1",
    "lisa": "lisa:num_active=1",
    adapter_grid_summary.FIXED: "lisa:num_active=1,mode=fixed",
    "polar": "polar:r=2",
}


def test_the_grid_of_adapters_fills_its_table(cell, monkeypatch):
    assert (
        set(SMALL)
        == set(adapter_grid.LEARNING_RATES)
        == ({*ADAPTERS, adapter_grid_summary.FIXED} - {"none", "amt", "emtal", "ilora"})
    )
    monkeypatch.setattr(adapter_grid, "EPOCHS", 1)
    for module in (adapter_grid, adapter_grid_summary):
        monkeypatch.setattr(module, "MOST_RATES", 2)
    recipes = {name: f"{text},num_layers=2" for name, text in SMALL.items()}
    monkeypatch.setattr(adapter_grid, "RECIPES", recipes)
    seeds = {name: (0, 1) if name == "lora" else (0,) for name in SMALL}
    for adapter, seed in [(name, seed) for name, numbers in seeds.items() for seed in numbers]:
        adapter_grid.run(replace(cell, adapter=adapter, seed=seed), "mle")
    adapter_grid_summary.write_summary(cell.out)
    text = (cell.out / "summary.md").read_text(encoding="utf-8")
    of_task = text.split("\n## ")[1]
    scores = of_task.split("\n### ")[0].splitlines()
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in scores if "|" in line]
    head, _, *rows = rows
    assert [row[:2] for row in rows] == [[m, a] for m in ("laplace", "mle") for a in sorted(SMALL)]
    assert all(row[2] == str(len(seeds[row[1]])) for row in rows)
    ranks = {row[1]: float(row[head.index("stable rank")]) for row in rows}
    assert all(rank >= 1 for rank in ranks.values())
    # A change of rank 2 has a stable rank of at most 2, unlike those of layers and columns.
    assert max(ranks["lora"], ranks["polar"]) <= 2 < ranks["lisa"]
    gains = of_task.split("### Last layers on toy")[1].splitlines()
    assert [line.split(" | ")[1] for line in gains if line.startswith("| laplace")] == sorted(SMALL)
    assert "| toy | lora | mle | 0.001: " in text.split("## Learning rates")[1]
    claims = {claim.text.split("(")[1]: claim for claim in adapter_grid_summary.claims(cell.out)}
    assert len(claims["toy, mle)"].gains) == 1


def test_the_grid_tries_rates_until_the_best_is_inside(cell, monkeypatch):
    monkeypatch.setitem(adapter_grid.LEARNING_RATES, "lora", (1e-3, 3e-3))

    def tried(best_at):
        scores = {}
        while (lr := adapter_grid.next_rate("lora", scores)) is not None:
            scores[lr] = abs(math.log(lr / best_at))
        return [*scores]

    assert tried(3e-3) == [1e-3, 3e-3, 9e-3]
    assert tried(1e-3) == [1e-3, 3e-3, 3.3e-4]
    assert tried(1.0) == [1e-3, 3e-3, 9e-3, 2.7e-2, 8.1e-2]


def test_the_grid_fits_again_where_a_better_rate_was_found(cell, monkeypatch):
    made = []

    def fitted(at, fit, lr):
        made.append((at.seed, lr))
        return SimpleNamespace(predict=lambda _: lr, fit=fit), 1.0

    monkeypatch.setattr(adapter_grid, "fitted", fitted)
    monkeypatch.setattr(adapter_grid, "nll_of", lambda lr: abs(math.log(lr / 3e-3)))
    monkeypatch.setattr(adapter_grid, "changes", lambda _: {})
    monkeypatch.setattr(adapter_grid, "scored", lambda *_: {})
    cell, other = replace(cell, seed=1), replace(cell, seed=0)
    adapter_grid.run(cell, "vbll")
    assert made == [(0, 1e-3), (0, 3e-3), (0, 9e-3), (1, 3e-3)]
    assert adapter_grid.is_stored(cell, "vbll")
    adapter_grid.run(cell, "vbll")
    adapter_grid.run(other, "vbll")
    assert made[4:] == [(0, 3e-3)]
    # The choice from two rates is fitted again only if the third rate is better.
    rate = {"kind": "rate", **adapter_grid.place_of(cell, "vbll"), "seed": 0, "lr": 1e-3}
    rate["validation_nll"] = [(1e-3, 2.0), (3.3e-4, 3.0)]
    Results(cell.out, adapter_grid.KEY).append(rate)
    assert not adapter_grid.is_stored(cell, "vbll")
    adapter_grid.run(other, "vbll")
    assert made[5:] == [(0, 3e-3), (0, 9e-3)]
    adapter_grid.run(cell, "vbll")
    assert len(made) == 7


def store_fits(out, task, fits):
    """Store fits of two seeds, given as NLLs of both seeds and seconds by adapter and method."""
    for seed in (0, 1):
        for (adapter, method), (nlls, seconds) in fits.items():
            scores = dict.fromkeys(SCORES, 0.5) | {"nll": nlls[seed]}
            costs = {"passes": 1, "bytes": 2_000_000, "fit_seconds": 9.0}
            row = {"method": method, "validation_nll": 0.7, "predict_seconds": seconds}
            content = {"kind": "fit", "task": task, "adapter": adapter, "fit": method}
            rows = [{**row, **scores, **costs}]
            Results(out, posteriors.KEY).append({**content, "seed": seed, "rows": rows})


def table_below(out, title):
    """Return the cells of the rows below a title of the summary, by their first cell."""
    text = (out / "summary.md").read_text(encoding="utf-8")
    (part,) = (part for part in text.split("\n## ") if part.startswith(title))
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line[:2] == "| "]
    return {row[0]: row for row in rows[1:]}


def test_the_summary_names_the_front_and_the_gaps(tmp_path):
    fits = {
        ("polar", "vbll"): ((0.40, 0.42), 1.0),
        ("lora", "mle"): ((0.50, 0.52), 0.9),
        ("lora", "blob"): ((0.45, 0.45), 10.0),
    }
    store_fits(tmp_path, "toy", fits)
    posteriors_summary.write_summary(tmp_path)
    table = table_below(tmp_path, "toy")
    assert [*table] == ["polar vbll ★", "lora blob", "lora mle"]
    assert "0.100 ± 0.000" in table["lora mle"]
    figure = (tmp_path / "figures" / "toy.svg").read_text()
    assert "polar vbll ★" in figure
    assert "lora blob" not in figure


def test_the_summary_averages_over_data_sets(tmp_path):
    fits = {
        ("polar", "vbll"): ((0.40, 0.42), 1.0),
        ("lora", "mle"): ((0.50, 0.52), 1.0),
        ("lora", "map"): ((0.30, 0.32), 1.0),
        ("lora", "blob"): ((0.39, 0.47), 3.0),
    }
    store_fits(tmp_path, "one", fits)
    fits["lora", "map"] = ((0.90, 0.88), 1.0)
    del fits["lora", "blob"]
    store_fits(tmp_path, "two", fits)
    posteriors_summary.write_summary(tmp_path)
    # A method that is missing from some data sets has no mean over them.
    assert [row[:4] for row in table_below(tmp_path, "In short").values()] == [
        ["polar vbll ★", "0.410", "0.410", "0.410"],
        ["lora mle", "0.510 >", "0.510 >", "0.510"],
        ["lora map", "0.310 <", "0.890 >", "0.600"],
    ]
    assert "lora blob" in table_below(tmp_path, "one")


def test_the_summary_has_scores_of_features_and_distances(tmp_path):
    costs = {"passes": 1, "bytes": 2_000_000, "fit_seconds": 9.0, "predict_seconds": 1.0}
    for seed, tv in ((0, 0.1), (1, 0.3)):
        scores = {"accuracy": 0.5, "nll": 1.0, "ece": 0.1, "validation_nll": 1.0}
        of_features = {"near mahalanobis": 0.75, "far mahalanobis": 0.8, "far energy": 0.6}
        rows = [
            {"method": "map", **scores, **costs, **of_features},
            {"method": "laplace", **scores, **costs, "far energy": 0.6},
        ]
        distances = [
            {
                "method": posteriors_distances.EXACT,
                "chosen": {"max_rhat": 1.009 + seed / 100, "min_ess": 500.0 + seed},
            },
            {"method": "map", "chosen": {}, "tv": tv},
            {"method": "vbll", "chosen": {}, "tv": tv / 2, "epistemic_ratio": 1.5},
        ]
        content = {"kind": "fit", "task": "toy", "adapter": "polar", "fit": "map", "seed": seed}
        content |= {"rows": rows, "distances": distances}
        Results(tmp_path, posteriors.KEY).append(content)
    posteriors_summary.write_summary(tmp_path)
    text = (tmp_path / "summary.md").read_text()
    assert "τ = 2" in text
    assert "R-hat is above 1.01, the usual limit, in 1 of 2 (1.019 at worst)" in text
    assert "the smallest effective sample size 500." in text
    _, detection, far = text.split("\n### ")
    lines = [line for line in detection.splitlines() if line.startswith("| polar")]
    # A last layer's energy stands beside the score of its features, without a row of its own.
    assert lines == [
        "| polar map | energy | 2 |  | 0.600 ± 0.000 |",
        "| polar map | mahalanobis | 2 | 0.750 ± 0.000 | 0.800 ± 0.000 |",
    ]
    lines = [line for line in far.splitlines() if line.startswith("| polar")]
    assert lines == [
        "| polar map | map | 2 | 0.200 ± 1.271 |  |",
        "| polar map | vbll | 2 | 0.100 ± 0.635 | 1.500 ± 0.000 |",
    ]


def test_the_front_holds_what_nothing_beats():
    points = [
        posteriors_pareto.Point(name, cost, nll)
        for name, cost, nll in [("a", 1, 0.5), ("b", 1.1, 0.4), ("c", 2, 0.41), ("d", 3, 0.3)]
    ]
    assert posteriors_pareto.pareto_front(points) == ["b", "d"]


def test_a_classifier_before_and_after(tmp_path):
    def rows(seed):
        before = {"accuracy": 0.8, "nll": 0.9 + seed, "ece": 0.2, "far logit_variance": 0.5}
        after = before | {"nll": 0.5 + seed, "ece": 0.1 + seed / 10, "far logit_variance": 0.7}
        methods = {"before": before, "laplace": after}
        return [{"method": name, "far max_probability": 0.6} | row for name, row in methods.items()]

    for seed in (0, 1):
        row = {"task": "newsgroups", "seed": seed, "rows": rows(seed)}
        Results(tmp_path, existing_classifier.KEY).append(row)
    existing_classifier.write_summary(tmp_path)
    lines = (tmp_path / "summary.md").read_text(encoding="utf-8").splitlines()
    before, after = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[-2:])
    assert before[:3] == ["newsgroups", "before", "2"]
    assert after[-2].startswith("-0.400 ± 0.000")
    # Half a t interval of -0.1 and 0: 12.706 · 0.0707 / √2.
    assert after[-1] == "-0.050 ± 0.635"
    assert before[7] == ""
    assert after[7] == "0.700 ± 0.000"


def test_the_summary_tells_what_was_chosen(tmp_path):
    fits = {("polar", "vbll"): ((0.4, 0.5), 1.0), ("lora", "mle"): ((0.4, 0.5), 1.0)}
    store_fits(tmp_path, "toy", fits)
    results = Results(tmp_path, posteriors.KEY)
    for seed, (epoch, prior) in enumerate(((6, 1.25), (3, 12345.0))):
        content = results.get(adapter="polar", seed=seed)
        content["rows"][0] |= {"epoch": epoch, "chosen": {"prior_precision": prior}}
        results.append(content)
    place = {"task": "toy", "adapter": "polar", "fit": "vbll", "seed": 0}
    rate = {"lr": 0.004, "validation_nll": [[0.004, 0.5], [0.01, 0.6]]}
    results.append({"kind": "rate", **place, **rate})
    for posterior in ("tfb", "tfb:tolerance=0.03"):
        adapter = "lora" if ":" in posterior else "polar"
        width = {"adapter": adapter, "fit": "tfb", "posterior": posterior}
        results.append({"kind": "width", **place, **width})
    posteriors_summary.write_summary(tmp_path)
    table = table_below(tmp_path, "What was chosen")
    assert table["polar vbll"] == ["polar vbll", "0.004 ↓"]
    assert table["lora tfb"][1] == "tolerance=0.03"
    assert "polar tfb" not in table
    assert table["polar"] == ["polar", "1 of 2"]
    assert table["polar vbll: prior_precision"][1] == "1.25, 12,345"
