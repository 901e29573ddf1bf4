"""How often does `monitor` alarm without cause, and after how many labels with cause?

A row has Gaussian logits z and the confidence max softmax(z). Its answer is right with this
probability, less the drop in accuracy of the scenario. Every run is a stream of labelled rows, and
its delay is the number of rows until the first alarm.

MAPIE's `RiskMonitoring` (Podkopaev and Ramdas 2022) gets the same rows and the true accuracy as its
threshold, without tolerance: its reference rows, which cost it power, are left out. It bounds the
mean and sees no confidences. Its bound is slow, so that it gets fewer and shorter runs; it is left
out where MAPIE is not installed.

    python -m benchmarks.monitor
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.decisions.monitor import BETS, wagers
from bayeslora.io import atomic_file, write_json
from bayeslora.metrics.intervals import wilson
from benchmarks.lib.arguments import study_parser

CLASSES = 5
WIDTH = 2.5
LEVEL = 0.05
DROPS = (0.0, 0.05, 0.1, 0.2)
MAPIE_ROWS = 2_000
MAPIE_RUNS = 50

Array = NDArray[np.float64]


def main() -> None:
    """Simulate every drop, and write the results and the table."""
    parser = study_parser(__doc__, "reports/monitor", data_dir=False, threads=None)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10_000)
    args = parser.parse_args()
    scenarios = []
    for drop in DROPS:
        scenario = {"drop": drop, "monitor": summary(ours(drop, args.runs, args.rows))}
        if drop and (delays := mapie(drop)) is not None:
            scenario["mapie"] = summary(delays)
        scenarios.append(scenario)
        print(scenario, flush=True)
    content = {"runs": args.runs, "rows": args.rows, "level": LEVEL, "scenarios": scenarios}
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "results.json", content)
    with atomic_file(args.out / "summary.md") as temporary:
        temporary.write_text(table(content), encoding="utf-8")


def stream(drop: float, seed: int, rows: int) -> tuple[Array, Array, NDArray[np.int64]]:
    """Return confidence, whether the answer is right, and the predicted class, [rows] each."""
    generator = np.random.default_rng([seed, round(100 * drop)])
    logits = generator.normal(scale=WIDTH, size=(rows, CLASSES))
    confidence = 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1)
    right = (generator.random(rows) < confidence - drop).astype(np.float64)
    return confidence, right, logits.argmax(1)


def ours(drop: float, runs: int, rows: int) -> list[float]:
    """Return the delay of `monitor` in each run, infinite without an alarm."""
    delays = []
    start = np.zeros((1 + CLASSES, len(BETS)))
    for seed in range(runs):
        confidence, right, predicted = stream(drop, seed, rows)
        total = wagers(start, right - confidence, predicted)[1]
        delays.append(first(total >= np.log(2 / LEVEL)))
    return delays


def mapie(drop: float) -> list[float] | None:
    """Return the delay of MAPIE in each run, or None without MAPIE."""
    try:
        from mapie.exchangeability_testing import RiskMonitoring  # noqa: PLC0415 - optional
    except ImportError:
        return None
    truth = float(np.mean(stream(0.0, 0, 1_000_000)[0]))
    delays = []
    for seed in range(MAPIE_RUNS):
        right = stream(drop, seed, MAPIE_ROWS)[1].astype(int)
        watch = RiskMonitoring("accuracy", LEVEL, threshold=1 - truth, warn=False)
        watch.update(np.ones_like(right), right)
        bounds = watch.online_risk_lower_bound_sequence_history
        delays.append(1 + first(bounds > watch.threshold))
    return delays


def first(alarms: NDArray[np.bool_]) -> float:
    """Return the first place of an alarm, infinite without one."""
    return float(alarms.argmax()) if alarms.any() else np.inf


def summary(delays: list[float]) -> dict[str, Any]:
    """Return the number of alarms, its interval as a share, and quartiles of the delay."""
    alarms = int(np.isfinite(delays).sum())
    low, high = wilson(alarms, len(delays))
    quartiles = np.quantile(delays, (0.25, 0.5, 0.75), method="inverted_cdf")
    finite = [float(value) if np.isfinite(value) else None for value in quartiles]
    return {"runs": len(delays), "alarms": alarms, "low": low, "high": high, "delay": finite}


def table(content: dict[str, Any]) -> str:
    """Return the report."""
    lines = [
        "# False alarms and delays of `monitor`",
        "",
        f"{content['runs']:,} simulated streams of {content['rows']:,} labelled rows, {CLASSES} "
        f"classes, level {LEVEL:g}, of which the labels get half; made by `python -m "
        "benchmarks.monitor`. The share of streams with an alarm has a 95 % interval (Wilson). The "
        "delay is the number of labelled rows until the alarm: median [quartiles], – without an "
        f"alarm. MAPIE's `RiskMonitoring` gets {MAPIE_RUNS} streams of {MAPIE_ROWS:,} rows and the "
        "true accuracy as its threshold.",
        "",
        "| accuracy below confidence | alarms | delay | alarms, MAPIE | delay, MAPIE |",
        "|---:|---:|---:|---:|---:|",
    ]
    for scenario in content["scenarios"]:
        cells = [f"{100 * scenario['drop']:.0f} points"]
        for name in ("monitor", "mapie"):
            cells += shown(scenario[name]) if name in scenario else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def shown(row: dict[str, Any]) -> list[str]:
    """Return the cells of one method."""
    share, low, high = (100 * x for x in (row["alarms"] / row["runs"], row["low"], row["high"]))
    q1, median, q3 = ("–" if value is None else f"{value:,.0f}" for value in row["delay"])
    return [f"{share:.1f} % [{low:.1f}, {high:.1f}]", f"{median} [{q1}, {q3}]"]


if __name__ == "__main__":
    main()
