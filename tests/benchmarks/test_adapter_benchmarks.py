"""The benchmarks of adapters on a tiny language model: complete, resumable, judged by one rule."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

from bayeslora import option_checks
from benchmarks.adapter_memory import __main__ as adapter_memory
from benchmarks.adapter_memory import summary as adapter_memory_summary
from benchmarks.adapter_speed import __main__ as adapter_speed
from benchmarks.adapter_speed import summary as adapter_speed_summary
from benchmarks.claims import adapters as claims_adapters
from benchmarks.dropped_components import __main__ as dropped_components
from benchmarks.dropped_components import summary as dropped_components_summary
from benchmarks.lib import adapter_arms, adapter_training, causal_lm, tables, verdicts
from benchmarks.lib.results import Results
from benchmarks.quantisation_error import __main__ as quantisation_error
from benchmarks.quantisation_error import methods as quantisation_error_methods
from benchmarks.quantisation_error import summary as quantisation_error_summary
from benchmarks.stable_rank import __main__ as stable_rank
from benchmarks.stable_rank import summary as stable_rank_summary

STEPS, MARKS = 6, (3, 6)
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


def small(arm):
    """Return an otherwise equal arm with rank 4, if it has a rank, and one learning rate."""
    adapter = replace(arm.adapter, r=4, alpha=4.0) if hasattr(arm.adapter, "r") else arm.adapter
    return replace(arm, adapter=adapter, rates=arm.rates[-1:])


@pytest.fixture
def data_dir(tmp_path):
    for name, seed in (("openbookqa", 0), ("boolq_passage_val", 10)):
        for split in ("train", "test"):
            rows = tiny.toy_rows(60, seed + (split == "test"))
            records = [
                {"question": r["text"], "choices": ["cat", "rain"], "answer_index": 1}
                | {"passage": r["text"]}
                for r in rows
            ]
            file = tmp_path / "data" / name / f"{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return tmp_path / "data"


@pytest.fixture
def setting(tmp_path, data_dir, monkeypatch):
    for name, value in {"BLOCK": 16, "NUM_POOL": 12, "NUM_CONTEXT": 4, "NUM_TEST": 3}.items():
        monkeypatch.setattr(causal_lm, name, value)
    source = tiny.tiny_llama(tmp_path / "llama")
    texts = causal_lm.read_texts(data_dir, source)
    return adapter_arms.Setting(source, texts, tmp_path / "starts")


@pytest.fixture
def bench(setting, tmp_path):
    arms = {name: small(arm) for name, arm in adapter_arms.ARMS.items()}
    return adapter_training.Bench(setting, arms, tmp_path / "speed", STEPS, MARKS)


def results_of(bench):
    return Results(bench.out, adapter_training.KEY)


def runs_of(bench, **columns):
    return results_of(bench).rows(kind="run", **columns)


def run_all(bench, seeds=(0, 1)):
    adapter_training.base_losses(bench)
    for seed in seeds:
        for name, arm in bench.arms.items():
            for lr in arm.rates:
                adapter_training.run(bench, name, lr, seed)


def test_test_blocks_begin_all_over_the_texts(setting):
    read = []

    def tokenizer(text, **_):
        read.append(int(text))
        return {"input_ids": [int(text)] * 9}

    tokenizer.eos_token_id = 0
    blocks = causal_lm._spread(tokenizer, [str(n) for n in range(1, 22)], 4)
    assert blocks.shape == (4, causal_lm.BLOCK)
    assert blocks[:, 0].tolist() == [1, 6, 11, 16]
    assert set(read) == {1, 2, 6, 7, 11, 12, 16, 17}


def test_texts_do_not_meet(setting, data_dir):
    texts = setting.texts
    assert texts.pool.shape == (12, 16)
    assert texts.contexts["target"].equal(texts.pool[:4])
    assert {name: blocks.shape for name, blocks in texts.tests.items()} == {
        "target": (3, 16),
        "generic": (3, 16),
    }
    train, test = (
        (data_dir / "openbookqa" / f"{split}.jsonl").read_text() for split in ("train", "test")
    )
    (data_dir / "openbookqa" / "train.jsonl").write_text(test + "\n" + train, encoding="utf-8")
    again = causal_lm.read_texts(data_dir, setting.source)
    assert again.pool.equal(texts.pool)


def test_the_loss_is_that_of_transformers(setting):
    model = causal_lm.open_model(setting.source)
    ids = setting.texts.pool[:2]
    expected = model(input_ids=ids, labels=ids).loss
    # Both are float32 means of the same 30 terms.
    assert float(causal_lm.next_token_loss(model, ids)) == pytest.approx(float(expected), rel=1e-6)
    parts = causal_lm.test_losses(model, setting.texts)
    whole = causal_lm.next_token_loss(model, setting.texts.tests["target"])
    assert parts["target"] == pytest.approx(float(whole), rel=1e-6)


def test_every_arm_starts_as_the_model_and_learns(bench):
    run_all(bench)
    records = runs_of(bench)
    assert len(records) == 2 * len(bench.arms)
    for seed in (0, 1):
        of_seed = {r["arm"]: r for r in records if r["seed"] == seed}
        for record in of_seed.values():
            assert len(record["losses"]) == STEPS
            assert [mark["step"] for mark in record["marks"]] == list(MARKS)
            # No adapter changes anything at the start, and all see the same batch.
            expected = of_seed["lora"]["losses"][0]
            assert record["losses"][0] == pytest.approx(expected, abs=1e-5)
            assert record["losses"][-1] != pytest.approx(expected, abs=1e-5)
            if not hasattr(bench.arms[record["arm"]].adapter, "r"):
                continue
            ranks = record["marks"][-1]["stable_rank"]
            assert list(ranks) == ["q_proj", "k_proj", "v_proj", "o_proj", *FEED_FORWARD]
            assert all(1 <= mean <= 8 for mean in ranks.values())
            assert 1 <= adapter_training.mean_rank(record) <= 8


def test_runs_and_starts_are_not_made_again(bench, monkeypatch):
    run_all(bench, seeds=(0,))
    # PiSSA, and CorDA from two contexts.
    starts = {file: file.stat().st_mtime_ns for file in bench.setting.starts.iterdir()}
    assert len(starts) == 3
    run_all(bench, seeds=(1,))
    assert {file: file.stat().st_mtime_ns for file in bench.setting.starts.iterdir()} == starts
    # Another number of steps is another run.
    shorter = replace(bench, steps=3, marks=(3,))
    adapter_training.run(shorter, "lora", bench.arms["lora"].rates[0], 0)
    (record,) = runs_of(bench, arm="lora", seed=0)
    assert len(record["losses"]) == 3
    adapter_training.run(bench, "lora", bench.arms["lora"].rates[0], 0)
    monkeypatch.setattr(adapter_training, "train", None)
    run_all(bench)


def test_the_summary_names_every_arm_and_claim(bench, monkeypatch):
    monkeypatch.setattr(adapter_speed_summary, "MARKS", MARKS)
    run_all(bench)
    adapter_speed_summary.write_summary(bench.out)
    text = (bench.out / "summary.md").read_text(encoding="utf-8")
    for name in bench.arms:
        assert f"| {name} ★ |" in text
    claims = adapter_speed_summary.claims(bench.out)
    assert all(len(claim.gains) == 2 for claim in claims if "each at its best" in claim.text)
    assert {claim.method for claim in claims} == {"PiSSA", "CorDA", "PoLAR", "S²FT", "LISA"}


def test_a_run_that_diverges_ends_early(bench, monkeypatch):
    # No rate that is allowed diverges here.
    monkeypatch.setattr(option_checks, "_accepted", lambda _, values: dict(values))
    bench.arms["lora"] = replace(bench.arms["lora"], rates=(1e30,))
    adapter_training.run(bench, "lora", 1e30, 0)
    (record,) = runs_of(bench)
    assert not record["finished"]
    assert 1 <= len(record["losses"]) < STEPS


def test_a_run_that_diverged_is_counted_and_left_out(bench, monkeypatch):
    monkeypatch.setattr(adapter_speed_summary, "MARKS", MARKS)
    run_all(bench)
    (lr,) = bench.arms["lora"].rates
    (record,) = runs_of(bench, arm="lora", seed=1)
    results_of(bench).append(record | {"losses": [3.0], "marks": [], "finished": False})
    assert list(adapter_training.Runs(bench.out, MARKS).finished("lora", lr)) == [0]
    adapter_speed_summary.write_summary(bench.out)
    assert "1, 1 diverged" in (bench.out / "summary.md").read_text(encoding="utf-8")
    claims = {claim.text: claim for claim in adapter_speed_summary.claims(bench.out)}
    best = "each at its best rate"
    for text in (
        f"pissa learns faster than lora, {best}",
        f"s2ft forgets less than lora at equal loss, {best}",
    ):
        claim = claims[text]
        assert claim.notes == "lora diverged with seed 1"
        assert len(claim.gains) == 1


def test_forgetting_is_compared_at_one_rate_and_at_every_rate_of_the_rival(bench, monkeypatch):
    monkeypatch.setattr(adapter_speed_summary, "MARKS", MARKS)
    bench.arms["lora"] = replace(bench.arms["lora"], rates=(1e-3, 1e-2))
    bench.arms["corda-kpm"] = replace(bench.arms["corda-kpm"], rates=(1e-3,))
    bench.arms["s2ft"] = replace(bench.arms["s2ft"], rates=(3e-3,))
    run_all(bench)
    adapter_speed_summary.write_summary(bench.out)
    text = (bench.out / "summary.md").read_text(encoding="utf-8").split("## Forgetting by")[1]
    rows = [line.split(" | ") for line in text.split("\n## ")[0].splitlines() if "| lora |" in line]
    assert [row[1:3] for row in rows] == [["0.001", "2"], ["0.01", "2"]]
    claims = {claim.text: claim.gains for claim in adapter_speed_summary.claims(bench.out)}
    start = "corda-kpm forgets less than"
    same = claims[f"{start} lora at equal loss, both at the best rate of corda-kpm"]
    runs, base = adapter_training.Runs(bench.out, MARKS), adapter_training.stored_base(bench.out)
    pairs = (runs.finished(arm, 1e-3) for arm in ("corda-kpm", "lora"))
    assert same == adapter_training.gains(*pairs, partial(adapter_speed_summary.forgets_less, base))
    assert len(same) == 2
    assert claims[f"{start} s2ft at equal loss, both at the best rate of corda-kpm"] == ()


def curve(points, losses=()):
    marks = [{"target": target, "generic": generic} for target, generic in points]
    return {"marks": marks, "losses": list(losses), "finished": True}


def test_forgetting_is_compared_at_the_target_loss_that_both_reach():
    base = {"target": 4.0, "generic": 3.0}
    far, near = curve([(3.0, 3.4), (2.0, 4.0)]), curve([(3.0, 3.2)])
    assert adapter_speed_summary.generic_at(base, far, 2.5) == pytest.approx(3.7)
    # At 3.5, half-way to the end of the run that learned less.
    assert adapter_speed_summary.forgets_less(base, near, far) == pytest.approx(0.1)
    assert adapter_speed_summary.forgets_less(base, far, near) == pytest.approx(-0.1)
    # A run that never learns counts as having forgotten nothing.
    assert adapter_speed_summary.generic_at(base, curve([(4.5, 5.0)]), 4.0) == 3.0


@pytest.mark.parametrize("ends", [(2.0, 3.2), (3.2, 2.0)])
def test_how_far_a_run_went_is_not_taken_for_forgetting(ends):
    """Both forget along the same curve, which bends upwards as forgetting does."""

    def forgotten(target):
        return 3.7 + 0.05 * (4 - target) ** 3

    def marked(end):
        return curve([(t, forgotten(t)) for t in (4 - (4 - end) * k / 8 for k in range(1, 9))])

    base = {"target": 4.0, "generic": 3.7}
    ours, rival = map(marked, ends)
    # The shorter curve rises by 0.05 · 0.8³ = 0.026; chords of an eighth are off by far less.
    assert abs(adapter_speed_summary.forgets_less(base, ours, rival)) < 2e-3


def test_steps_to_a_loss_are_of_the_trailing_mean():
    record = curve([], [5, 5, 5, 5, 5, 0, 0])
    assert adapter_speed_summary.steps_to(record, 5.0) == 5
    assert adapter_speed_summary.steps_to(record, 4.0) == 6
    assert adapter_speed_summary.steps_to(record, 1.0) == 7
    assert adapter_speed_summary.final_loss(record) == 3.0


def test_the_best_rate_is_among_those_with_all_seeds(tmp_path):
    for lr, seed, loss in ((0.1, 0, 2.0), (0.1, 1, 3.0), (1.0, 0, 1.0), (0.01, 0, 3), (0.01, 1, 4)):
        record = {"arm": "a", "lr": lr, "seed": seed, "marked": [], **curve([], [loss])}
        Results(tmp_path, adapter_training.KEY).append({"kind": "run"} | record)
    runs = adapter_training.Runs(tmp_path, [])
    assert runs.best_rate("a") == 0.1
    assert runs.at_edge("a") == ""
    assert runs.best_rate("b") is None


def test_no_seed_has_a_say_in_its_own_rate(tmp_path):
    areas = {0.1: (1.0, 1.0, 9.0), 1.0: (2.0, 2.0, 0.0)}
    for lr, losses in areas.items():
        for seed, loss in enumerate(losses):
            record = {"arm": "a", "lr": lr, "seed": seed, "marked": [], **curve([], [loss])}
            Results(tmp_path, adapter_training.KEY).append({"kind": "run"} | record)
    runs = adapter_training.Runs(tmp_path, [])
    # Seed 2 is best at 1.0, but the other two seeds choose its rate.
    assert [record["lr"] for record in runs.at_best("a").values()] == [1.0, 1.0, 0.1]
    assert adapter_training.Runs(tmp_path, [3]).at_best("a") == {}
    # A missing run has not diverged.
    results = Results(tmp_path, adapter_training.KEY)
    others = [row for row in results.rows() if (row["lr"], row["seed"]) != (0.1, 2)]
    results.path.unlink()
    for row in others:
        results.append(row)
    assert adapter_training.Runs(tmp_path, []).at_best("a").keys() == {0, 1}
    assert adapter_training.Runs(tmp_path, []).lost("a") == ""


@pytest.mark.parametrize(
    ("gains", "exact", "expected"),
    [
        ((), False, verdicts.NOT_RUN),
        ((1.0,), False, verdicts.TOO_FEW),
        ((1.0, 1.1), False, verdicts.TOO_FEW),
        ((1.0,), True, verdicts.REPRODUCED),
        ((-1.0,), True, verdicts.CONTRADICTED),
        ((-1.0, -1.1, -1.2), False, verdicts.CONTRADICTED),
        ((1.0, 1.1, 1.2), False, verdicts.REPRODUCED),
        ((1.0, 0.1, 2.0), False, verdicts.IN_DIRECTION),
        ((1.0, -2.0, 0.5), False, verdicts.NOT_REPRODUCED),
        ((0.0, 0.0), True, verdicts.NOT_REPRODUCED),
    ],
)
def test_verdicts(gains, exact, expected):
    claim = verdicts.Claim("a", "b", "nats", gains, exact=exact)
    assert claim.verdict == expected
    shown = "Not run (1): b." if expected == verdicts.NOT_RUN else f"| {expected} |"
    assert shown in verdicts.claims_table([claim])


def test_claims_that_are_not_run_are_counted_in_a_line():
    texts = ("lower NLL than LoRA", "lower ECE than LoRA", "AUROC of .9")
    table = verdicts.claims_table([verdicts.Claim("a", text, "", ()) for text in texts])
    assert table == "Not run (3): lower NLL, lower ECE than LoRA; AUROC of .9."
    page = f"{table}\n\n{verdicts.claims_table([verdicts.Claim('a', 'b', '', ())])}\n"
    assert verdicts.num_not_run(page) == 4


def test_the_interval_is_students():
    # scipy's own ttest_1samp gives (0.0156, 3.9844) for these.
    mean, half = tables.mean_and_half([1.0, 2.0, 3.0, 2.0])
    assert mean == 2.0
    assert half == pytest.approx(3.182446 * (2 / 3) ** 0.5 / 2, rel=1e-6)


def test_stable_rank_fills_its_table(bench, monkeypatch, tmp_path):
    arms = {
        name: replace(arm, adapter=replace(arm.adapter, r=4))
        for name, arm in stable_rank_summary.ARMS.items()
    }
    ranks = adapter_training.Bench(bench.setting, arms, tmp_path / "ranks", STEPS, MARKS)
    monkeypatch.setattr(stable_rank_summary, "MARKS", MARKS)
    run_all(ranks)
    stable_rank_summary.write_summary(ranks.out)
    text = (ranks.out / "summary.md").read_text(encoding="utf-8")
    assert "| polar | 0.004 | 2 |" in text
    claims = stable_rank_summary.claims(ranks.out)
    assert all(len(claim.gains) == 2 for claim in claims)
    ends = [claim for claim in claims if "on other questions" in claim.text]
    assert len(ends) == 4
    assert not any(claim.notes for claim in ends)
    (record,) = runs_of(ranks, arm="lora", lr=0.004, seed=1)
    record["marks"][-1]["target"] = 99.0
    results_of(ranks).append(record)
    noted = [
        claim.text for claim in stable_rank_summary.claims(ranks.out) if "seed 1" in claim.notes
    ]
    assert noted == [claim.text for claim in ends if claim.text.endswith("the same rate")]


def test_bytes_are_counted_once_and_without_the_model():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(3, 4)
    with adapter_memory.counted(model) as saved:
        model(x).sum().backward()
    # The input, and the output of the activation, which the last layer saves again.
    assert sum(saved.values()) == 4 * (3 * 4 + 3 * 8)


@pytest.fixture
def memory(setting, tmp_path):
    arms = {name: small(arm) for name, arm in adapter_arms.MEMORY_ARMS.items()}
    adapter_memory.measure_bytes(setting, arms, 2, tmp_path / "adapter-memory")
    adapter_memory.measure_times(setting, arms, 2, tmp_path / "adapter-memory")
    return tmp_path / "adapter-memory"


def test_memory_by_adapter(memory):
    results = Results(memory, adapter_memory_summary.KEY)
    counted = results.rows(kind="bytes")
    by_arm = {item["arm"]: item for item in counted}
    full, lora = by_arm["full fine-tuning"], by_arm["lora"]
    for item in (full, lora):
        assert item["gradients"] == 4 * item["parameters"]
        # Two moments per parameter, and a step counter per tensor.
        assert 8 * item["parameters"] < item["optimiser"] < 9 * item["parameters"]
    assert lora["activations"] < full["activations"]
    drawn, worst = by_arm["lisa"], by_arm[adapter_arms.LOWEST]
    assert drawn["activations"] <= worst["activations"] < full["activations"]
    # All layers and the norm, in float32.
    assert drawn["beside"] == worst["beside"] > 4 * worst["parameters"]
    assert full["beside"] == 0
    assert lora["beside"] == 4 * lora["parameters"]
    # Its start, of equal size, is kept too.
    assert by_arm["pissa"]["beside"] == 8 * by_arm["pissa"]["parameters"]
    published = by_arm[adapter_arms.PUBLISHED]
    assert published["parameters"] > worst["parameters"]
    assert len([item for item in counted if item["arm"] == "lisa"]) == 2
    assert len(results.get(kind="times")["turns"]) == 2
    adapter_memory_summary.write_summary(memory)
    text = (memory / "summary.md").read_text(encoding="utf-8")
    for name in adapter_arms.MEMORY_ARMS:
        assert f"| {name} |" in text
    claims = {claim.text: claim for claim in adapter_memory_summary.claims(memory)}
    assert claims["lora keeps less than full fine-tuning in a step"].verdict == verdicts.REPRODUCED


def test_nf4_has_the_published_levels():
    # The table of Dettmers et al. 2023, appendix E, to its printed digits.
    published = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0]
    published += [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
    expected = torch.tensor(published, dtype=torch.float64)
    assert torch.allclose(quantisation_error_methods.nf4_levels(), expected, atol=2e-7, rtol=0)


@pytest.mark.parametrize("shape", [(16, 64), (64, 16)])
def test_algebra_of_quantisation(shape):
    W = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    best = U[:, :3] * S[:3] @ Vh[:3]
    assert torch.allclose(quantisation_error_methods.best_of_rank(W, 3), best, atol=1e-10)
    # The Gram matrix squares the condition number, which is small here.
    assert quantisation_error_methods.nuclear_norm(W) == pytest.approx(float(S.sum()), rel=1e-9)
    for Q in quantisation_error_methods.QUANTISERS.values():
        assert torch.allclose(Q(Q(W)), Q(W), atol=1e-12, rtol=0)
        assert torch.allclose(
            quantisation_error_methods.qpissa(W, Q, 3, 1), Q(W - best) + best, atol=1e-9
        )
        # Nothing remains to quantise in a weight of the adapter's own rank.
        assert torch.allclose(quantisation_error_methods.qpissa(best, Q, 3, 1), best, atol=1e-9)
        first = Q(W) + quantisation_error_methods.best_of_rank(W - Q(W), 3)
        assert torch.allclose(quantisation_error_methods.loftq(W, Q, 3, 1), first, atol=1e-9)


def test_quantisation_goes_on_where_it_was(setting, tmp_path):
    out = tmp_path / "quantisation"
    quantisation_error.run(str(setting.source), [2], out)
    results = Results(out, quantisation_error_summary.KEY)
    before = results.rows()
    assert len(before) == 21 * len(quantisation_error_methods.QUANTISERS)
    quantisation_error.run(str(setting.source), [2, 4], out)
    assert results.rows(r=2) == before
    for small, large in zip(
        results.rows(r=2, quantiser="nf4"), results.rows(r=4, quantiser="nf4"), strict=True
    ):
        assert small["layer"] == large["layer"]
        assert large["loftq-1"] > small["loftq-1"] > 0
    quantisation_error_summary.write_summary(out)
    assert "| mlp.down_proj | 3 |" in (out / "summary.md").read_text(encoding="utf-8")
    assert len(quantisation_error_summary.claims(out)) == 4 * len(
        quantisation_error_summary.COMPARISONS
    )


def test_dropped_components_are_the_smallest(setting, tmp_path, monkeypatch):
    for module in (dropped_components, dropped_components_summary):
        monkeypatch.setattr(module, "DROPPED", (2, 8))
    model = causal_lm.open_model(setting.source)
    moments = dropped_components.context_moments(model, setting.texts.contexts["generic"])
    weights = {name: model.get_submodule(name).weight for name in moments}
    name = "model.layers.0.mlp.up_proj"
    U, S, Vh = torch.linalg.svd(weights[name].double(), full_matrices=False)
    factors = dropped_components.smallest(weights, moments, 0.0)[name]
    expected = (U[:, -2:] * S[-2:] @ Vh[-2:]).float()
    # Components with close singular values mix in float32.
    assert torch.allclose(dropped_components.product(factors, 2), expected, atol=1e-6)
    # All components of the narrowest layers sum to their whole weights.
    narrow = "model.layers.0.self_attn.k_proj"
    for power in (0.0, 1.0):
        factors = dropped_components.smallest(weights, moments, power)[narrow]
        whole = dropped_components.product(factors, 8)
        assert torch.allclose(whole, weights[narrow], atol=1e-6)
    dropped_components.run(setting.source, setting.texts, tmp_path / "dropped")
    stored = dropped_components_summary.stored(tmp_path / "dropped")
    assert len(stored) == 1 + 2 * len(dropped_components_summary.POWERS)
    none = stored["none", 0]
    assert none == dropped_components.block_losses(model, setting.texts.tests["generic"])
    assert all(losses != none for place, losses in stored.items() if place != ("none", 0))
    monkeypatch.setattr(dropped_components, "open_model", None)
    dropped_components.run(setting.source, setting.texts, tmp_path / "dropped")


def test_all_claims_are_one_table(memory, tmp_path):
    text = claims_adapters.page(tmp_path)
    sections = {part.split("\n")[0]: part for part in text.split("\n## ")[1:]}
    assert len(sections) == len(claims_adapters.PARTS)
    # Nothing is reported for missing results.
    ran = {name for name, part in sections.items() if f"| {verdicts.REPRODUCED} |" in part}
    assert ran == {"Memory and time"}
    assert verdicts.num_not_run(sections["Stable rank"])


def command(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, options)])


def test_the_commands_run_from_start_to_end(setting, data_dir, tmp_path, monkeypatch):
    arms = {"lora": small(adapter_arms.ARMS["lora"])}
    for module in (adapter_speed, adapter_speed_summary, stable_rank, stable_rank_summary):
        monkeypatch.setattr(module, "ARMS", arms)
        monkeypatch.setattr(module, "STEPS", 3)
        monkeypatch.setattr(module, "MARKS", (1, 2, 3))
    for module in (dropped_components, dropped_components_summary):
        monkeypatch.setattr(module, "DROPPED", (2, 4))
    monkeypatch.setattr(dropped_components, "NUM_BLOCKS", 3)
    for module in (adapter_training, adapter_memory, dropped_components):
        monkeypatch.setattr(module, "embedded_directory", lambda _: setting.source)
    for module in (adapter_memory, adapter_memory_summary):
        monkeypatch.setattr(module, "MEMORY_ARMS", arms)
    trained = ["--data-dir", data_dir, "--seeds", 0, "--runs", tmp_path / "starts"]
    commands = {
        adapter_speed: trained,
        stable_rank: trained,
        dropped_components: ["--data-dir", data_dir],
        adapter_memory: ["--repeats", 2, "--runs", tmp_path / "starts"],
        quantisation_error: ["--ranks", 2, "--backbones", setting.source],
    }
    for module, options in commands.items():
        study = module.__name__.split(".")[1]
        out = tmp_path / "reports" / study.replace("_", "-")
        command(monkeypatch, *options, "--out", out, "--threads", 1)
        module.main()
        assert (out / "summary.md").is_file()
    text = claims_adapters.page(tmp_path / "reports")
    assert verdicts.num_not_run(text)
    assert "QPiSSA" in text


def test_training_needs_data(monkeypatch, capsys):
    monkeypatch.delenv("BAYESLORA_DATA", raising=False)
    command(monkeypatch)
    with pytest.raises(SystemExit):
        adapter_training.arguments("What it does.", Path("out"), adapter_arms.ARMS)
    assert "--data-dir" in capsys.readouterr().err
    command(monkeypatch, "--data-dir", "here", "--arms", "lora")
    args = adapter_training.arguments("What it does.", Path("out"), adapter_arms.ARMS)
    assert (args.arms, args.threads, args.seeds) == (["lora"], 1, [0, 1, 2])
