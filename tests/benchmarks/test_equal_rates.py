"""The study `equal_rates`: which rates a method takes, and that its table has them."""

import pytest
from tiny import tiny_llama, toy_rows

from bayeslora.adapters.optimizers import build_optimizer
from bayeslora.backbones.load import load_backbone
from bayeslora.engine.data import read_rows
from bayeslora.tasks.columns import DataColumns
from benchmarks.equal_rates.__main__ import (
    CHOOSING,
    EPOCHS,
    JUDGING,
    KEY,
    METHODS,
    SIZE,
    chosen,
    defaults,
    named,
    options_of,
    write_summary,
)
from benchmarks.lib.results import Results
from benchmarks.parts.__main__ import fit


@pytest.mark.parametrize("method", METHODS)
def test_the_rates_reach_the_optimiser(method, tmp_path, monkeypatch):
    rates = []

    def build(sites, head, adapter, head_lr, **options):
        rates.append((adapter.lr, head_lr))
        return build_optimizer(sites, head, adapter, head_lr, **options)

    monkeypatch.setattr("bayeslora.engine.training.loop.build_optimizer", build)
    backbone = load_backbone(str(tiny_llama(tmp_path)), dtype="float32", device="cpu")
    train = read_rows(toy_rows(24), DataColumns())
    adapter, posterior, options = options_of(method, named("three times", 0.006))
    fit(backbone, adapter, posterior, train, 0, epochs=1, **options)
    assert rates == [(pytest.approx(3 * adapter.default_lr), 0.006)]


@pytest.mark.parametrize("method", METHODS)
def test_the_defaults_are_a_pair_of_the_grid(method, tmp_path):
    backbone = load_backbone(str(tiny_llama(tmp_path)), dtype="float32", device="cpu")
    train = read_rows(toy_rows(SIZE), DataColumns())
    adapter, posterior, options = options_of(method, defaults())
    named_rates = fit(backbone, adapter, posterior, train, 0, epochs=EPOCHS, **options)
    own = fit(backbone, *(kind() for kind in METHODS[method]), train, 0, epochs=EPOCHS)
    rows = toy_rows(9, seed=1)
    assert (named_rates.predict(rows).probs == own.predict(rows).probs).all()


def test_rates_are_chosen_on_the_draws_that_do_not_judge(tmp_path):
    good, bad = named("a third", 0.05), named("default", 0.05)
    results = Results(tmp_path, KEY)
    row = {"task": "newsgroups", "method": "LoRA"}
    for seed in (*CHOOSING, *JUDGING):
        is_judging = seed in JUDGING
        for rates, nll in ((good, 0.4), (bad, 0.5)):
            # The judging draws say the opposite.
            value = 0.9 - nll if is_judging else nll
            results.append({**row, "rates": rates, "seed": seed, "nll_scaled": value})
        if is_judging:
            default = {**row, "rates": defaults(), "seed": seed, "nll_scaled": 0.3}
            results.append(default)
    assert chosen(results, "LoRA") == good
    write_summary(tmp_path)
    lines = (tmp_path / "summary.md").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith(f"| LoRA | {good} (chosen) | 0.500 |") for line in lines)
    default = f"| LoRA | {defaults()} (defaults) | 0.300 |"
    assert any(line.startswith(default) for line in lines)
