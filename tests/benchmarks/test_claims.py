"""The page of the paper's claims: its verdicts, and its equality with the stored page."""

from pathlib import Path

import pytest

from benchmarks.claims.__main__ import page
from benchmarks.claims.verdicts import (
    CONTRADICTED,
    IN_DIRECTION,
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    TOO_FEW,
    Claim,
    better,
    claims_table,
)

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_stored_numbers_give():
    """If it fails: `python -m benchmarks.claims`."""
    assert (ROOT / "docs/claims.md").read_text(encoding="utf-8") == page(ROOT / "reports")


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((0.1, 0.11, 0.12), REPRODUCED),
        ((0.1, -0.11, 0.12), IN_DIRECTION),
        ((0.1, 0.11, -0.3), NOT_REPRODUCED),
        ((-0.1, -0.11, -0.12), CONTRADICTED),
        ((0.1, 0.11), TOO_FEW),
        ((), NOT_RUN),
    ],
)
def test_the_verdict_follows_the_interval(gains, verdict):
    assert Claim("lower NLL", "nats", gains).verdict == verdict


def test_gains_are_paired_and_above_zero_where_ours_is_better():
    cells = {}
    for seed in range(3):
        cells["sst2", seed, "ours"] = {"accuracy": 0.8, "ece": 0.1, "nll": 0.5 + seed}
        rival = {"accuracy": 0.85 + 0.001 * seed, "ece": 0.1, "nll": 0.6 + seed + seed / 100}
        cells["sst2", seed, "rival"] = rival
    cells["ag_news", 0, "ours"] = cells["sst2", 0, "ours"]  # without a pair
    accuracy, nll, ece = better(cells, "ours", "rival", "LoRA")
    assert nll.gains == pytest.approx((0.1, 0.11, 0.12))
    assert (accuracy.verdict, ece.gains) == (CONTRADICTED, (0, 0, 0))
    lines = claims_table([nll, *better(cells, "ours", "another", "BLoB")]).splitlines()
    assert len(lines) == 3
    assert lines[2] == "| LoRA | ✓ 0.110 ± 0.025 | 3 pairs |"
