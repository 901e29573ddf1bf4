"""Write the gallery: reports on simulated predictions whose faults are known.

    python docs/make_gallery.py

Rows are drawn from one model: a class, and a score for each class that is one unit of noise plus
`SIGNAL` for the right one. The probabilities of a calibrated classifier then follow from Bayes'
rule; multiplying their logits by more than one makes it overconfident, by less underconfident. The
same versions of the packages give the same bytes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.predictions.record import Predictions
from bayeslora.reporting.report import report

CLASSES = ("health", "science", "sport", "travel")
ROWS = 1200
SIGNAL = 2.0
DRAWS = 24

Content = tuple[list[Predictions], dict[str, dict[str, Predictions]] | None]


def main() -> None:
    """Write every report of the gallery, one `index.html` each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "gallery")
    out: Path = parser.parse_args().out
    for name, (title, make) in PAGES.items():
        methods, ood = make()
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as aside:
            page = report(
                methods,
                ood=ood,
                out=Path(aside) / name,
                title=title,
                provenance={"command": "python docs/make_gallery.py", "data": "simulated"},
            )
            shutil.copyfile(page, folder / "index.html")
        print(folder / "index.html")


def simulate(
    name: str,
    *,
    seed: int,
    sharpness: float = 1.0,
    signal: float = SIGNAL,
    spread: float = 0.0,
    rows: int = ROWS,
    labelled: bool = True,
) -> Predictions:
    """Return predictions of a classifier that believes in a signal of `SIGNAL`.

    Args:
        name: What made them.
        seed: Of the rows: methods with the same seed see the same ones.
        sharpness: Factor of the logits; 1 is calibrated where `signal` is `SIGNAL`.
        signal: How far the rows' scores really tell their class.
        spread: Standard deviation between draws of the logits, the method's own doubt.
        rows: How many.
        labelled: Whether the labels are known.
    """
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(CLASSES), rows)
    scores = generator.normal(0, 1, (rows, len(CLASSES)))
    scores[np.arange(rows), labels] += signal
    noise = np.random.default_rng(seed + 1).normal(0, 1, (DRAWS, *scores.shape))
    samples = softmax(sharpness * (SIGNAL * scores + spread * noise))
    probs = samples.mean(0)
    total, inner = entropy(probs), entropy(samples).mean(0)
    uncertain: dict[str, Any] = {"total": total, "aleatoric": total, "epistemic": np.zeros(rows)}
    if spread:
        uncertain |= {"aleatoric": inner, "epistemic": np.maximum(total - inner, 0)}
    return Predictions(
        probs=probs,
        classes=CLASSES,
        labels=labels if labelled else None,
        ids=tuple(f"row-{index}" for index in range(rows)),
        name=name,
        **uncertain,
    )


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities over the last axis."""
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(odds / odds.sum(-1, keepdims=True))


def entropy(probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy over the last axis, in nats."""
    return np.asarray(-(probs * np.log(np.maximum(probs, 1e-300))).sum(-1))


def alone(name: str, sharpness: float) -> Callable[[], Content]:
    """Return what makes the predictions of one method without further sets."""
    return lambda: ([simulate(name, seed=1, sharpness=sharpness)], None)


def shifted() -> Content:
    """Return the classifier that is calibrated at home, on rows that tell less than it believes."""
    return [simulate("calibrated elsewhere", seed=11, signal=1.0)], None


METHODS: Mapping[str, Mapping[str, float]] = {
    "point estimate": {"sharpness": 2.5},
    "temperature scaling": {"sharpness": 1.0},
    "ensemble": {"sharpness": 1.15, "spread": 0.5},
    "Bayesian last layer": {"sharpness": 1.2, "spread": 0.8},
}
"""Options of each method of the comparison."""

DOUBT = {"near": 1.3, "far": 2.5}
"""How much more the draws of a method disagree on the rows of each set."""


def comparison() -> Content:
    """Return four methods on the same rows, with rows of two kinds that none of them knows."""
    methods = [simulate(name, seed=1, **options) for name, options in METHODS.items()]
    ood = {
        name: {
            kind: simulate(
                name,
                seed=seed,
                signal=signal,
                rows=600,
                labelled=False,
                sharpness=options["sharpness"],
                spread=DOUBT[kind] * options.get("spread", 0.0),
            )
            for kind, seed, signal in (("near", 21, 1.2), ("far", 31, 0.2))
        }
        for name, options in METHODS.items()
    }
    return methods, ood


PAGES: Mapping[str, tuple[str, Callable[[], Content]]] = {
    "calibrated": ("Well calibrated", alone("calibrated", 1.0)),
    "overconfident": ("Overconfident", alone("overconfident", 2.5)),
    "underconfident": ("Underconfident", alone("underconfident", 0.4)),
    "shifted": ("Shifted rows", shifted),
    "comparison": ("Four methods compared", comparison),
}
"""Titles and makers of the reports, by directory."""

if __name__ == "__main__":
    main()
