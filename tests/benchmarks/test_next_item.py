"""The study of the next item: its positive control, its baselines and its tables."""

import numpy as np
import pytest

from bayeslora.tasks.examples import Examples
from benchmarks.lib.results import Results
from benchmarks.lib.verdicts import IN_DIRECTION, NOT_RUN
from benchmarks.next_item import groups, summary
from benchmarks.next_item.rows import Items, hit_rate


def test_a_gate_helps_where_groups_exist_and_only_with_their_contexts(monkeypatch):
    monkeypatch.setattr(groups, "ROWS", 400)
    monkeypatch.setattr(groups, "STEPS", 500)
    errors = {arm: groups.test_error(arm, 0) for arm in summary.CONTROL_ARMS}
    assert errors["ilora"] < 0.2 * errors["lora"]
    assert errors["ilora-permuted"] > 0.7 * errors["lora"]


def questions():
    """Return two questions whose answer is the second candidate."""
    return Examples(
        ids=("1", "2"),
        texts=("a", "b"),
        pairs=None,
        labels=("B", "B"),
        rows=(1, 2),
        source="<list>",
        choices=(("c", "d"), ("d", "a")),
        history=(("a", "b"), ("b", "c")),
    )


def test_baselines_are_those_of_counts_by_hand():
    """Users like {a, b}, {a, b, d} and {c}; S_ij = C_ij / √((n_i + 5)(n_j + 5))."""
    liked = np.array([[1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 1, 0]], dtype=float)
    items, rows = Items(("a", "b", "c", "d"), liked), questions()
    np.testing.assert_array_equal(items.popularity(rows), [[1, 1], [1, 2]])
    expected = [[0, 2 / (7 * 6) ** 0.5], [1 / (7 * 6) ** 0.5, 2 / 7]]
    np.testing.assert_allclose(items.co_occurrence(rows), expected)
    assert hit_rate(items.co_occurrence(rows), rows) == 1.0
    assert hit_rate(items.popularity(rows), rows) == 0.5


def test_claims_pair_the_seeds_that_both_arms_have(tmp_path):
    results = Results(tmp_path, summary.KEY)
    results.append({"part": summary.BASELINES, "arm": "co-occurrence", "accuracy": 0.3})
    for arm, rates in {"lora": (0.1, 0.2, 0.3), "ilora": (0.2, 0.1, 0.4, 0.9)}.items():
        for seed, rate in enumerate(rates):
            scores = dict.fromkeys(("nll", "ece", "risk_at_50", "gate_information", "seconds"), 1.0)
            row = {"part": summary.ARM, "arm": arm, "lr": 1e-3, "seed": seed, "accuracy": rate}
            results.append({**row, **scores, "num_train": 10, "epochs": 1})
    first, permuted, *_ = summary.claims(tmp_path)
    assert first.gains == pytest.approx((0.1, -0.1, 0.1))
    assert first.verdict == IN_DIRECTION
    assert permuted.verdict == NOT_RUN
    summary.write_summary(tmp_path)
    assert "0.300" in (tmp_path / "summary.md").read_text(encoding="utf-8")
