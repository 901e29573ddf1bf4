"""Write the gallery: simulated predictions with known faults, and predictions of other libraries.

    python docs/make_gallery.py

Simulated rows are drawn from one model: a class, and a score for each class with unit noise, plus
`SIGNAL` for the right class. The probabilities of a calibrated classifier follow from Bayes' rule;
multiplying their logits by more than one makes it overconfident, by less than one underconfident.
The same package versions give the same bytes. Predictions of other libraries are in
`foreign_predictions.py`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import foreign_predictions
import numpy as np
from numpy.typing import NDArray

from bayeslora.predictions.record import Predictions
from bayeslora.reporting.report import report

CLASSES = ("health", "science", "sport", "travel")
ROWS = 1200
SIGNAL = 2.0
DRAWS = 24

GALLERY = Path(__file__).parent / "gallery"
KEPT = "predictions.parquet"
"""File of predictions stored with their page, since making them takes too long for a test."""

Content = tuple[list[Predictions], dict[str, dict[str, Predictions]] | None]


class Page(NamedTuple):
    """One report of the gallery.

    Attributes:
        title: Title of the page.
        make: Returns the methods, and their out-of-distribution sets or None.
        data: Description of the rows.
        kept: Whether the predictions are stored with the page.
    """

    title: str
    make: Callable[[], Content]
    data: str = "simulated"
    kept: bool = False


def main() -> None:
    """Write the reports of the gallery, one `index.html` each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=GALLERY)
    parser.add_argument("--only", nargs="+", choices=PAGES, metavar="NAME", help="some of them")
    parser.add_argument(
        "--no-training", action="store_true", help="take kept predictions as they are"
    )
    args = parser.parse_args()
    for name in args.only or PAGES:
        print(write(PAGES[name], args.out / name, train=not args.no_training))


def write(page: Page, folder: Path, *, train: bool = True) -> Path:
    """Write the page of a report to a folder, and return its path.

    Args:
        page: Page to write.
        folder: Output folder.
        train: Whether to recompute stored predictions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = {"command": "python docs/make_gallery.py", "data": page.data}
    if page.kept and not train:
        methods, ood = [Predictions.load(GALLERY / folder.name / KEPT)], None
    else:
        methods, ood = page.make()
    if page.kept:
        if train:
            methods[0].save(folder / KEPT)
        about["SHA-256 of foreign_predictions.py"] = foreign_predictions.recipe()
    with tempfile.TemporaryDirectory() as temporary:
        html = report(
            methods, ood=ood, out=Path(temporary) / "report", title=page.title, provenance=about
        )
        shutil.copyfile(html, folder / "index.html")
    return folder / "index.html"


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
    """Return predictions of a classifier that assumes a signal of `SIGNAL`.

    Args:
        name: Name of the method.
        seed: Seed of the rows; methods with the same seed have the same rows.
        sharpness: Factor of the logits; 1 is calibrated if `signal` is `SIGNAL`.
        signal: True signal of the class in the rows' scores.
        spread: Standard deviation of the logits over draws, the method's own uncertainty.
        rows: Number of rows.
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
    """Return a function that makes the predictions of one method without further sets."""
    return lambda: ([simulate(name, seed=1, sharpness=sharpness)], None)


def shifted() -> Content:
    """Return the calibrated classifier on shifted rows, with a weaker signal than assumed."""
    return [simulate("calibrated before the shift", seed=11, signal=1.0)], None


METHODS: Mapping[str, Mapping[str, float]] = {
    "point estimate": {"sharpness": 2.5},
    "temperature scaling": {"sharpness": 1.0},
    "ensemble": {"sharpness": 1.15, "spread": 0.5},
    "Bayesian last layer": {"sharpness": 1.2, "spread": 0.8},
}
"""Options of each method of the comparison."""

DOUBT = {"near OOD": 1.3, "far OOD": 2.5}
"""Factor of the spread between draws on the rows of each set."""


def comparison() -> Content:
    """Return four methods on the same rows, and on two out-of-distribution sets."""
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
            for kind, seed, signal in (("near OOD", 21, 1.2), ("far OOD", 31, 0.2))
        }
        for name, options in METHODS.items()
    }
    return methods, ood


PAGES: Mapping[str, Page] = {
    "calibrated": Page("A calibrated method", alone("calibrated", 1.0)),
    "overconfident": Page("An overconfident method", alone("overconfident", 2.5)),
    "underconfident": Page("An underconfident method", alone("underconfident", 0.4)),
    "shifted": Page("A calibrated method on shifted data", shifted),
    "comparison": Page("Four methods compared", comparison),
    "scikit-learn": Page(
        "Two scikit-learn classifiers",
        lambda: (foreign_predictions.scikit_learn(), None),
        data="handwritten digits, as scikit-learn brings them; half of them to train on",
    ),
    "transformers": Page(
        "A classifier trained with transformers",
        lambda: (foreign_predictions.plain_transformers(), None),
        data="posts of 8 groups of 20 Newsgroups: 640 to train on, 600 to score",
        kept=True,
    ),
}
"""Pages by directory."""

if __name__ == "__main__":
    main()
