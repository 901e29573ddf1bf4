"""The page of the paper's claims: what it is computed from, and that it is the stored one."""

from pathlib import Path

import pytest

from benchmarks.claims import polar_vbll
from benchmarks.label_budget import methods as label_budget_methods
from benchmarks.lib.results import Results
from benchmarks.lib.verdicts import CONTRADICTED, NOT_RUN, REPRODUCED

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_stored_numbers_give():
    assert (ROOT / "docs" / "claims.md").read_text(encoding="utf-8") == polar_vbll.page(
        ROOT / "reports"
    )


def cell(folder, method, size, seed, **scores):
    place = {"backbone": "minilm", "task": "sst2", "size": size, "seed": seed, "method": method}
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
        one.text: one for one in polar_vbll.ahead(polar_vbll.label_budget(tmp_path, "minilm"))
    }
    words = polar_vbll.RIVALS[rival]
    nll = claims[f"lower NLL than {words}"]
    assert nll.gains == pytest.approx((0.1, 0.11, 0.12))
    assert nll.verdict == REPRODUCED
    assert claims[f"higher accuracy than {words}"].verdict == CONTRADICTED
    assert claims[f"lower NLL than {polar_vbll.RIVALS['lora-laplace']}"].verdict == NOT_RUN
