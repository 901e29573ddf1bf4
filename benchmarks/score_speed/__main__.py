"""What 1,000 bootstrap resamples of all scores cost, against a loop over netcal and torchmetrics.

Both in one run, on the same 100,000 rows of 10 classes. The loop draws rows, copies them and calls
the libraries; it has only the scores that these know (accuracy, NLL, Brier, ECE, MCE, adaptive and
class-wise ECE), ours all of the catalogue, so the ratio flatters the loop. Times are of the
processor, which other work on the machine disturbs less than a clock; medians of five; of a few
resamples, scaled to 1,000, since the loop would take the better part of an hour.

    python -m benchmarks.score_speed
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from netcal.metrics import ECE, MCE
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import multiclass_accuracy

from bayeslora.io.files import atomic_file
from bayeslora.metrics.bootstrap import bootstrap_deviations
from bayeslora.metrics.catalogue import SCORE_KEYS
from bayeslora.metrics.rowwise import LabelledRows, labelled_rows
from bayeslora.metrics.statistics import statistic
from bayeslora.predictions.record import Predictions
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.results import Results

RESAMPLES = 1000
FEW, MORE = 4, 44
BINS = 15
CLASSES = 10


def main() -> None:
    """Time both implementations and write the table."""
    parser = study_parser(__doc__, "reports/score-speed", data_dir=False, threads=None)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = simulated(args.rows)
    looped(rows, np.arange(args.rows))  # imports and caches
    ours, loop = [], []
    for repeat in range(args.repeats):
        short = seconds(lambda seed=repeat: resampled(rows, FEW, seed))
        long = seconds(lambda seed=repeat: resampled(rows, MORE, seed))
        ours.append((short + (long - short) * (RESAMPLES - FEW) / (MORE - FEW)) / RESAMPLES)
        drawn = np.random.default_rng(repeat).integers(args.rows, size=args.rows)
        loop.append(seconds(lambda drawn=drawn: looped(rows, drawn)))
    result = {
        "rows": args.rows,
        "classes": CLASSES,
        "scores": len(SCORE_KEYS),
        "ratio": median(loop) / median(ours),
        "ratio_least": min(loop) / max(ours),
        "ratio_most": max(loop) / min(ours),
    }
    results = Results(args.out, ("rows", "classes"))
    results.append(result)
    results.sort()
    with atomic_file(args.out / "summary.md") as temporary:
        temporary.write_text(summary(result), encoding="utf-8")
    print(summary(result))
    print(
        f"{RESAMPLES} resamples: {median(ours) * RESAMPLES:.1f} s against "
        f"{median(loop) * RESAMPLES:.0f} s of processor time"
    )


def simulated(size: int) -> LabelledRows:
    """Return labelled rows of an overconfident model."""
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=2.5, size=(size, CLASSES))
    true, stated = (np.exp(scale * logits) for scale in (1.0, 1.3))
    true, stated = (part / part.sum(1, keepdims=True) for part in (true, stated))
    labels = (true.cumsum(1) > generator.random((size, 1))).argmax(1)
    return labelled_rows(Predictions(stated, tuple("abcdefghij"), labels))


def resampled(rows: LabelledRows, resamples: int, seed: int) -> NDArray[np.float64]:
    """Return the bootstrap deviations of all scores, preparation included."""
    return bootstrap_deviations(
        lambda indices: statistic(rows.take(indices), BINS, "left"), [len(rows)], resamples, seed
    )


def looped(rows: LabelledRows, drawn: NDArray[np.int64]) -> list[float]:
    """Return the scores of one resample, computed by the libraries."""
    probs, labels = rows.probs[drawn], rows.labels[drawn]
    confidence = probs.max(1)
    correct = (probs.argmax(1) == labels).astype(np.int64)
    stated, truth = torch.from_numpy(probs), torch.from_numpy(labels)
    return [
        float(multiclass_accuracy(stated, truth, num_classes=CLASSES, average="micro")),
        float(torch.nn.functional.nll_loss(stated.clamp_min(1e-12).log(), truth)),
        brier_score_loss(labels, probs, scale_by_half=False),
        ECE(bins=BINS).measure(confidence, correct),
        MCE(bins=BINS).measure(confidence, correct),
        ECE(bins=BINS, equal_intervals=False).measure(confidence, correct),
        float(
            np.mean(
                [
                    ECE(bins=BINS).measure(probs[:, c].copy(), (labels == c).astype(np.int64))
                    for c in range(CLASSES)
                ]
            )
        ),
    ]


def seconds(work: Callable[[], object]) -> float:
    """Return the processor time of `work` in seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def summary(result: dict[str, float]) -> str:
    """Return the page in Markdown."""
    return (
        "# Speed of bootstrap intervals\n\n"
        f"{RESAMPLES:,} resamples of {result['rows']:,} rows and {result['classes']} classes. All "
        f"{result['scores']} scores here are **{result['ratio']:.0f} times** faster "
        f"({result['ratio_least']:.0f} to {result['ratio_most']:.0f}) than seven of them in a loop "
        "over netcal, torchmetrics and scikit-learn. Processor time on one thread, medians of five "
        "in one run, scaled linearly: from what 4 and 44 resamples took here, preparation "
        "included, and from one in the loop. Made by `python -m benchmarks.score_speed`.\n"
    )


if __name__ == "__main__":
    main()
