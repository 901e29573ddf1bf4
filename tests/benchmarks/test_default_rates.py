"""The benchmark of default learning rates: every available adapter has its rows."""

from dataclasses import replace

from bayeslora.adapters.registry import ADAPTERS
from benchmarks.default_rates import __main__ as default_rates
from benchmarks.lib.results import Results

SMALL = {
    "lora": {"r": 2},
    "polar": {"r": 2},
    "pissa": {"r": 2},
    "corda": {"r": 2},
    "s2ft": {"o_ratio": 0.5, "d_ratio": 0.1},
    "lisa": {"num_active": 1},
}


def test_every_adapter_gets_a_default(backbone, data, tmp_path, monkeypatch):
    # The other adapters take LoRA's rate, or have episodes in place of epochs.
    others = {"none", "amt", "emtal", "ilora"}
    assert {arm.adapter.name for arm in default_rates.ARMS.values()} == set(ADAPTERS) - others
    small = {
        name: replace(arm, adapter=replace(arm.adapter, num_layers=2, **SMALL[arm.adapter.name]))
        for name, arm in default_rates.ARMS.items()
    }
    monkeypatch.setattr(default_rates, "ARMS", small)
    monkeypatch.setattr(default_rates, "DEFAULT_EPOCHS", 1)
    bench = default_rates.Bench(backbone, data, tmp_path / "runs", tmp_path / "out")
    places = [
        (name, arm.rates[0], arm.head_rates[0])
        for name, arm in small.items()
        if name in {"pissa-mle", "corda-mle", "s2ft-mle", "lisa-mle", "polar-vbll"}
    ]
    for name, *rates in places:
        default_rates.run(bench, name, tuple(rates), 0)
    default_rates.write_table(bench.out)
    text = (bench.out / "summary.md").read_text(encoding="utf-8")
    table = [
        line.split(" | ") for line in text.splitlines() if "-mle | " in line or "-vbll" in line
    ]
    assert {row[0].strip("| ") for row in table} == {name for name, *_ in places}
    rows = Results(bench.out, default_rates.KEY).rows()
    stored = {row["arm"]: row["nll"] for row in rows}
    for row in table:
        assert row[-1].rstrip(" |") == f"{stored[row[0].strip('| ')]:.4f}"
