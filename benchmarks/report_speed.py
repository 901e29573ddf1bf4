"""How long a report on many rows takes, and which step takes it.

Simulated predictions of one method, with an out-of-distribution set of a tenth of the rows. Printed
are the processor seconds of each step, which other work on the machine disturbs less than those of
the clock, and the sizes of the page and of its largest figure, which must not grow with the rows.

    python benchmarks/report_speed.py --rows 1000000 --classes 4
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import bayeslora.reporting.report as module
from bayeslora.predictions.record import Predictions

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = ("gather", "assess", "pair", "compose", "draw", "write_figures", "render_page", "write_csv")
"""Functions that `report` calls, in order; what they take together is nearly all of it."""


def main() -> None:
    """Simulate, report, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--methods", type=int, default=1)
    parser.add_argument("--resamples", type=int, default=1000)
    args = parser.parse_args()
    methods = [simulated(f"method {i}", args.rows, args.classes, i) for i in range(args.methods)]
    outside = {
        one.name: {"far": simulated("far", args.rows // 10, args.classes, 100 + i, signal=0.5)}
        for i, one in enumerate(methods)
    }
    seconds = timed()
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        page = module.report(
            methods, ood=outside, out=Path(folder) / "report", num_resamples=args.resamples
        )
        total = time.process_time() - start
        largest = max(page.parent.glob("figures/*"), key=lambda path: path.stat().st_size)
        for step in STEPS:
            print(f"{step:>14}  {seconds[step]:7.2f} s")
        print(f"{'all':>14}  {total:7.2f} s")
        print(f"{'page':>14}  {page.stat().st_size / 1e3:7.0f} kB")
        print(f"{'largest figure':>14}  {largest.stat().st_size / 1e3:7.0f} kB  {largest.name}")


def timed() -> dict[str, float]:
    """Make each step of `report` add its time to the mapping that is returned."""
    seconds: dict[str, float] = defaultdict(float)

    def wrap(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **options)
            finally:
                seconds[step] += time.process_time() - start

        return measured

    for step in STEPS:
        setattr(module, step, wrap(step, getattr(module, step)))
    return seconds


def simulated(name: str, rows: int, classes: int, seed: int, signal: float = 2.0) -> Predictions:
    """Return predictions of which none tie; lower `signal` means harder rows."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    logits = generator.normal(0, 1, (rows, classes))
    logits[np.arange(rows), labels] += signal
    odds = np.exp(2 * logits)
    probs = odds / odds.sum(1, keepdims=True)
    names = tuple(f"class {index}" for index in range(classes))
    return Predictions(probs=probs, classes=names, labels=labels, name=name)


if __name__ == "__main__":
    main()
