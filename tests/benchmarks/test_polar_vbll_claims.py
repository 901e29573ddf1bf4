"""The page of the paper's claims: its inputs, and its equality with the stored page."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bayeslora.experiments.grid import as_grid
from benchmarks.claims import adapters, multiple_choice, polar_vbll
from benchmarks.label_budget import methods as label_budget_methods
from benchmarks.lib.results import Results
from benchmarks.lib.verdicts import CONTRADICTED, NOT_RUN, REPRODUCED

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("file", "page"),
    [
        ("docs/claims.md", polar_vbll.page),
        ("reports/adapter-claims/summary.md", adapters.page),
    ],
    ids=["polar-vbll", "adapters"],
)
def test_a_page_is_what_the_stored_numbers_give(file, page):
    """If it fails: `python -m benchmarks.claims`."""
    assert (ROOT / file).read_text(encoding="utf-8") == page(ROOT / "reports")


def cell(folder, method, size, seed, **scores):
    place = {
        "backbone": "minilm",
        "task": "sst2_sentences",
        "size": size,
        "seed": seed,
        "method": method,
    }
    Results(folder, label_budget_methods.KEY).append(place | scores)


def test_gains_are_paired_and_small_files_say_nothing(tmp_path):
    ours, rival = label_budget_methods.OURS, "lora-mle, cv"
    for seed in range(3):
        scores = {"accuracy": 0.8, "ece": 0.1, "nll": 0.5 + seed}
        cell(tmp_path, ours, 128, seed, **scores)
        better = {"accuracy": 0.85 + 0.001 * seed, "nll": 0.6 + seed + seed / 100}
        cell(tmp_path, rival, 128, seed, **scores | better)
        cell(tmp_path, ours, 32, seed, **scores)
        cell(tmp_path, rival, 32, seed, **scores)
    claims = {
        claim.text: claim for claim in polar_vbll.ahead(polar_vbll.label_budget(tmp_path, "minilm"))
    }
    words = polar_vbll.RIVALS[rival]
    nll = claims[f"lower NLL than {words}"]
    assert nll.gains == pytest.approx((0.1, 0.11, 0.12))
    assert nll.verdict == REPRODUCED
    assert claims[f"higher accuracy than {words}"].verdict == CONTRADICTED
    assert claims[f"lower NLL than {polar_vbll.RIVALS['lora-laplace']}"].verdict == NOT_RUN


def test_the_long_budget_has_its_own_pairs(tmp_path):
    for seed in range(3):
        scores = {"accuracy": 0.8, "ece": 0.1}
        cell(tmp_path, polar_vbll.LONG, 640, seed, nll=0.4, **scores)
        cell(tmp_path, "lora-mle, long", 640, seed, nll=0.6 + seed / 100, **scores)
        cell(tmp_path, label_budget_methods.OURS, 640, seed, nll=0.3, **scores)
    lead = polar_vbll.far_ahead(polar_vbll.label_budget(tmp_path, "minilm"))
    assert lead.gains == pytest.approx((0.1, 0.11, 0.12))
    assert lead.verdict == REPRODUCED


def choice_rows(method, seed, *, task="openbookqa", seconds=1.0, **sets):
    cell = {"protocol": "label-budget", "task": task, "backbone": "tiny", "rows": 640}
    shared = {**cell, "method": method, "seed": seed, "split": "test", "by": None}
    for name, scores in sets.items():
        for score, value in scores.items():
            yield {**shared, "set": name.replace("_", "-"), "score": score, "value": value}
        detection = {"set": name, "score": "auroc", "by": "epistemic", "value": 0.9}
        yield {**shared, **detection}
    yield {**shared, "set": "cost", "score": "seconds_predict_per_1000", "value": seconds}


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_multiple_choice_is_read_from_results_of_the_grid(tmp_path, kind):
    rows = []
    for seed in range(3):
        ours = {"accuracy": 0.6, "nll": 0.9 - seed / 100, "ece": 0.10}
        theirs = {"accuracy": 0.7 + seed / 1000, "nll": 1.0, "ece": 0.10}
        far = {"mmlu_college_physics": {"accuracy": 0.3, "nll": 2.0, "ece": 0.2}}
        rows += choice_rows(multiple_choice.OURS, seed, test=ours, **far)
        rows += choice_rows("BLoB", seed, test=theirs, seconds=8.0 + seed, **far)
    folder = tmp_path / multiple_choice.FOLDER
    folder.mkdir()
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    else:
        (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    claims = {claim.text: claim for claim in multiple_choice.claims(multiple_choice.stored(folder))}
    nll = claims["lower NLL than BLoB"]
    assert nll.gains == pytest.approx((0.10, 0.11, 0.12))
    assert nll.verdict == REPRODUCED
    assert claims["higher accuracy than BLoB"].verdict == CONTRADICTED
    assert claims["lower NLL than LoRA MLE"].verdict == NOT_RUN
    shifted = "lower ECE than BLoB on mmlu-college-physics, fitted to openbookqa"
    assert claims[shifted].gains == (0.0, 0.0, 0.0)
    chemistry = "lower ECE than BLoB on mmlu-college-chemistry, fitted to openbookqa"
    assert claims[chemistry].verdict == NOT_RUN  # the grid had no such set
    assert claims["predictions faster than ten passes of BLoB"].gains == (7.0, 8.0, 9.0)
    assert "6 cells" in "\n".join(multiple_choice.section(tmp_path))


def test_methods_of_the_claims_are_those_of_the_grids():
    grids = [as_grid(ROOT / "benchmarks/grids" / f"{name}.yaml") for name in multiple_choice.GRIDS]
    core, more, whole, all_rows = [{method.name for method in grid.methods} for grid in grids]
    assert whole == all_rows >= core | more
    assert core >= {multiple_choice.OURS, *multiple_choice.RIVALS}
    *budgets, ours = [grid.protocol for grid in grids]
    assert (*budgets, ours) == (*["label-budget"] * 3, "bayeslora")
    for grid in grids:
        tasks = {task.name: task for task in grid.tasks}
        assert {*multiple_choice.LARGE_SHIFTS} <= {*tasks[multiple_choice.SHIFTED_FROM].ood}
