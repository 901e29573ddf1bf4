"""The study of the next item: its positive control, its baselines and its tables."""

import numpy as np
import pytest
import torch
from tiny import TOPICS, tiny_bert

from bayeslora.backbones.load import load_backbone
from bayeslora.data.examples import Examples
from bayeslora.data.read import read
from benchmarks.lib.results import Results
from benchmarks.lib.verdicts import IN_DIRECTION, NOT_RUN
from benchmarks.next_item import bi_encoder, groups, summary
from benchmarks.next_item.rows import Items, hit_rate


def test_a_gate_helps_where_groups_exist_and_only_with_their_contexts(monkeypatch):
    monkeypatch.setattr(groups, "ROWS", 400)
    monkeypatch.setattr(groups, "STEPS", 500)
    errors = {arm: groups.test_error(arm, 0) for arm in summary.CONTROL_ARMS}
    assert errors["ilora"] < 0.2 * errors["lora"]
    assert errors["ilora-permuted"] > 0.7 * errors["lora"]


def test_a_permuted_arm_trains_and_predicts_with_the_contexts_of_other_rows(tmp_path, monkeypatch):
    prepared, prepare = [], bi_encoder._prepared

    def listed(*args):
        prepared.append(prepare(*args))
        return prepared[-1]

    monkeypatch.setattr(bi_encoder, "_prepared", listed)
    monkeypatch.setattr(bi_encoder, "MAX_LENGTH", 32)
    backbone = load_backbone(str(tiny_bert(tmp_path / "bert")), dtype="float32", device="cpu")
    words = [word for topic in TOPICS.values() for word in topic]
    study = bi_encoder.Study.of(backbone, Items(tuple(words), np.ones((1, 24))), lr=1e-3, epochs=1)
    rng = np.random.default_rng(0)
    drawn = [[str(word) for word in rng.permutation(words)] for _ in range(16)]
    rows = read([{"history": row[:4], "candidates": row[4:], "answer": row[5]} for row in drawn])
    for arm, is_permuted in (("ilora", False), ("ilora-permuted", True)):
        fitted = bi_encoder.fit(study, arm, rows, 3)
        fitted.predict(rows)
        own = fitted.vectors.encode(rows.history)
        assert len(prepared) == 2
        for texts, z in prepared:
            assert torch.equal(texts.contexts, z)
            # A permutation may leave a few rows in place.
            assert int((z != own).any(1).sum()) in (range(13, 17) if is_permuted else [0])
            assert sorted(z.tolist()) == sorted(own.tolist())
        prepared.clear()


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
