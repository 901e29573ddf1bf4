"""Does the promise of `decide` hold, and how often does it find a threshold?

*Simulated sets*: logits of three classes, labels drawn from their softmax, probabilities stated
with another sharpness; the true risk of a threshold is that of 400,000 further rows. *Real sets*:
the probabilities of a frozen MiniLM head for the scoring rows of four sets, two of which decided
no default. Held-out sets are drawn from these rows with replacement, so that the true risk
is known: that of all of them.

A promise is broken if the true risk at the threshold is above the promised one. That may happen in
at most 5 % of sets; the interval of the share is that of Clopper and Pearson. Beside it stand the
thresholds of MAPIE (`pip install mapie`): control of precision, with its default of Bonferroni and
Holm, and with a fixed sequence from .99 down.

    python -m benchmarks.automation --data-dir DIR
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binomtest

from bayeslora.backbones.load import load_backbone
from bayeslora.decisions.threshold import promise
from bayeslora.experiments.rows import drawn
from bayeslora.io import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.pools import new_classifier, pools_of
from benchmarks.lib.results import Results, Row
from benchmarks.lib.tables import table

SETS = ("tweets", "newsgroups", "reuters_r8", "boolq_question_only")
SHARPNESS = (1.0, 1.6)
SIZES, RISKS = (500, 2000), (0.02, 0.05, 0.1)
CONFIDENCE = 0.95
KEY = ("rows", "size", "risk", "method")
REPEATS = 2000

Array = NDArray[np.float64]
Rows = tuple[Array, NDArray[np.bool_]]


def ours(scores: Array, wrong: NDArray[np.bool_], risk: float) -> float | None:
    """Return the threshold of `decide`."""
    return promise(scores, wrong, risk, CONFIDENCE).threshold


def mapie(correction: str) -> Callable[[Array, NDArray[np.bool_], float], float | None]:
    """Return MAPIE's choice of a threshold, under a correction for the number of tests."""

    def chosen(scores: Array, wrong: NDArray[np.bool_], risk: float) -> float | None:
        from mapie.risk_control import BinaryClassificationController  # noqa: PLC0415

        controller = BinaryClassificationController(
            lambda x: np.column_stack([1 - x, x]),
            "precision",
            1 - risk,
            CONFIDENCE,
            list_predict_params=np.linspace(0.99, 0, 100),
            fwer_method=correction,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            controller.calibrate(scores, (~wrong).astype(int))
        return controller.best_predict_param

    return chosen


METHODS = {
    "decide": ours,
    "MAPIE": mapie("bonferroni_holm"),
    "MAPIE, fixed sequence": mapie("fixed_sequence"),
}


def simulated(rows: int, sharpness: float, generator: np.random.Generator) -> Rows:
    """Return the confidence of rows, and whether the answer is wrong."""
    logits = generator.normal(0, 3, (rows, 3))
    labels = (generator.random((rows, 1)) > softmax(logits, 1).cumsum(1)).sum(1).clip(max=2)
    return softmax(sharpness * logits, 1).max(1), logits.argmax(1) != labels


def frozen_head(task: str, data_dir: Path | None) -> Rows:
    """Return confidence and errors of a head fitted to 640 rows, on the scoring rows of a set."""
    pools = pools_of(task, data_dir)
    classifier = new_classifier(load_backbone("minilm"), 0, "none", "vbll")
    classifier.fit(drawn(pools.train, 640, 0))
    known = {*pools.train.labels}
    rows = [row for row, label in enumerate(pools.score.labels) if label in known]
    predictions = classifier.predict(pools.score.take(rows))
    return predictions.confidence, predictions.prediction != predictions.labels


def populations(data_dir: Path | None) -> Iterator[tuple[str, Rows]]:
    """Yield the rows that the true risk is of."""
    for sharpness in SHARPNESS:
        generator = np.random.default_rng(1)
        yield f"simulated, sharpness {sharpness:g}", simulated(400_000, sharpness, generator)
    for task in SETS:
        yield task, frozen_head(task, data_dir)


def judged(rows: Rows, method: str, size: int, risk: float) -> dict[str, Any]:
    """Return how often a threshold exists, how often it breaks its promise, and its worth."""
    scores, wrong = rows
    order = np.argsort(-scores)
    errors = np.cumsum(wrong[order]) / np.arange(1, len(scores) + 1)
    rising = scores[order][::-1]
    made, broken, shares = 0, 0, []
    for seed in range(REPEATS):
        drawn_rows = np.random.default_rng([seed, size]).integers(0, len(scores), size)
        threshold = METHODS[method](scores[drawn_rows], wrong[drawn_rows], risk)
        if threshold is None:
            continue
        made += 1
        accepted = len(scores) - int(np.searchsorted(rising, threshold, side="left"))
        broken += accepted > 0 and bool(errors[accepted - 1] > risk)
        shares.append(accepted / len(scores))
    interval = binomtest(broken, REPEATS).proportion_ci(0.95, "exact")
    return {
        "found": made / REPEATS,
        "broken": broken / REPEATS,
        "broken_interval": [float(interval.low), float(interval.high)],
        "automated": sum(shares) / REPEATS,
    }


def write(out: Path, rows: list[Row]) -> None:
    """Write the table."""
    lines = [
        [
            row["rows"],
            f"{row['size']:,}",
            f"{row['risk']:.0%}",
            row["method"],
            f"{row['found']:.1%}",
            "{:.2%} [{:.2%}, {:.2%}]".format(row["broken"], *row["broken_interval"]),
            f"{row['automated']:.1%}",
        ]
        for row in rows
    ]
    head = ["rows", "held out", "risk", "method", "found", "promise broken", "automated"]
    text = (__doc__ or "").split("    python")[0].strip()
    with atomic_file(out / "summary.md") as path:
        path.write_text(f"# The promise of decide\n\n{text}\n\n{table(head, lines)}\n")


def main() -> None:
    """Run the missing cells, then write the table."""
    args = study_parser(__doc__ or "", "reports/automation").parse_args()
    results = Results(args.out, KEY)
    for name, rows in populations(args.data_dir):
        for size, risk, method in product(SIZES, RISKS, METHODS):
            cell = {"rows": name, "size": size, "risk": risk, "method": method}
            if results.get(**cell) is None:
                results.append(cell | judged(rows, method, size, risk))
                print(results.get(**cell), flush=True)
    write(args.out, results.rows())


if __name__ == "__main__":
    main()
