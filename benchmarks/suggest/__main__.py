"""Which rows should be labelled next?

Logistic regression on frozen features (mean over the tokens of the last layer, centred, mean norm
1, C chosen among 1, 10, 100, 1000 by five folds) is fitted to 20 random rows of a pool of 1,500,
then to 40, 80, 160 and 320, of which each strategy chooses the new ones by the fit before.
Strategies: random; the smallest margin between the two most probable classes; the highest entropy;
the highest epistemic uncertainty (BALD, from the Laplace approximation of the last layer, 200
draws); the largest distance to the nearest labelled row; k-means++ on the features, alone and drawn
in proportion to 1 − margin, and the latter on the probabilities (what `suggest` does: the gain is
that of the features within chance, and predictions are enough). The same first rows, draws and
scoring rows (at most 1,500) for all.

Rule, written before the run: `suggest` uses the strategy whose mean accuracy over sets, backbones,
draws and sizes from 40 is best; it is said to beat random choice where the interval of the paired
difference over draws (sets × draws) leaves out zero.

    python -m benchmarks.suggest --data-dir DIR
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import entr, softmax
from sklearn.cluster import kmeans_plusplus
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.data.examples import Examples
from bayeslora.engine.network import inputs
from bayeslora.experiments.rows import drawn
from bayeslora.io import atomic_file
from bayeslora.posteriors.last_layer.laplace import KronCurvature
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.pools import new_classifier, pools_of
from benchmarks.lib.results import Results, Row
from benchmarks.lib.tables import shown, table

BACKBONES = ("minilm", "smollm2-135m")
SETS = ("tweets", "newsgroups", "sst2_sentences")
SIZES = (20, 40, 80, 160, 320)
POOL, SCORED = 1500, 1500
KEY = ("backbone", "task", "seed", "strategy", "size")
STRATEGIES = (
    "random",
    "margin",
    "entropy",
    "BALD",
    "unfamiliar",
    "k-means++",
    "margin, k-means++",
    "margin, k-means++ of probabilities",
)

Array = NDArray[np.float64]


def chosen(  # noqa: PLR0917 - one value each
    strategy: str, head: Head, features: Array, labelled: Array, count: int, seed: int
) -> NDArray[np.int64]:
    """Return the rows to label next, of [N, d] features of rows without labels."""
    falling = np.sort(head.probs(features), 1)[:, ::-1]
    doubt = 1 - falling[:, 0] + falling[:, 1]
    if strategy == "random":
        return np.random.default_rng(seed).permutation(len(doubt))[:count]
    if "k-means++" in strategy:
        weights = doubt if "margin" in strategy else np.ones(len(doubt))
        points = head.probs(features) if "probabilities" in strategy else features
        return kmeans_plusplus(points, count, sample_weight=weights, random_state=seed)[1]
    if strategy == "margin":
        scores = doubt
    elif strategy == "entropy":
        scores = entr(falling).sum(1)
    elif strategy == "BALD":
        scores = head.epistemic(features, seed)
    else:
        scores = cdist(features, labelled).min(1)
    return np.argsort(-scores, kind="stable")[:count]


class Head:
    """Logistic regression with a Laplace approximation."""

    def __init__(self, features: Array, labels: NDArray[np.int64]) -> None:
        least = int(np.unique_counts(labels).counts.min())
        grid = GridSearchCV(
            LogisticRegression(max_iter=2000),
            {"C": [1, 10, 100, 1000]},
            scoring="neg_log_loss",
            cv=StratifiedKFold(min(5, max(2, least)), shuffle=True, random_state=0),
        )
        self.model = LogisticRegression(C=10, max_iter=2000)
        if least > 1:
            self.model = grid.fit(features, labels).best_estimator_
        else:
            self.model.fit(features, labels)
        self.features = features

    def probs(self, features: Array) -> Array:
        """Return probabilities, [N, C]."""
        return self.model.predict_proba(features)

    def epistemic(self, features: Array, seed: int) -> Array:
        """Return the mutual information of label and weights, [N] nats."""
        curvature = KronCurvature(features.shape[1], len(self.model.classes_), features.shape[1])
        curvature.fit(torch.from_numpy(self.features), torch.from_numpy(self.probs(self.features)))
        covariance = curvature.covariance(torch.from_numpy(features), 1 / self.model.C)
        means = np.log(self.probs(features))
        noise = np.random.default_rng(seed).normal(size=(200, *means.shape))
        factors = np.linalg.cholesky(covariance.numpy() + 1e-8 * np.eye(means.shape[1]))
        draws = softmax(means + np.einsum("ncd,snd->snc", factors, noise), 2)
        return entr(draws.mean(0)).sum(1) - entr(draws).sum(2).mean(0)


def encoded(backbone: Backbone, rows: Examples) -> Array:
    """Return the frozen features of rows, [N, d]."""
    few = drawn(rows, min(len(rows), 60), 0)
    classifier = new_classifier(backbone, 0, "none", "mle")
    classifier.fit(few)
    encoder = classifier.network.encoder
    return np.asarray(encoder.features(encoder.prepare(**inputs(rows))), np.float64)


def fits(  # noqa: PLR0917 - one value each
    pool: Array,
    labels: NDArray[np.int64],
    score: Array,
    truth: NDArray[np.int64],
    first: NDArray[np.int64],
    strategy: str,
    seed: int,
) -> Iterator[tuple[int, float]]:
    """Yield the number of labels and the accuracy after each round."""
    chosen_rows, head = first, Head(pool[first], labels[first])
    for size in SIZES:
        if size > len(chosen_rows):
            rest = np.setdiff1d(np.arange(len(pool)), chosen_rows)
            count = size - len(chosen_rows)
            new = chosen(strategy, head, pool[rest], pool[chosen_rows], count, seed)
            chosen_rows = np.concatenate([chosen_rows, rest[new]])
            head = Head(pool[chosen_rows], labels[chosen_rows])
        answers = head.model.classes_[head.probs(score).argmax(1)]
        yield size, float((answers == truth).mean())


def write(out: Path, rows: list[Row]) -> None:
    """Write accuracies, and differences from random choice."""
    values = {tuple(row[key] for key in KEY): row["accuracy"] for row in rows}
    lines = []
    for strategy, size in product(STRATEGIES, SIZES[1:]):
        cells = [key for key in values if key[3:] == (strategy, size)]
        gains = [values[key] - values[*key[:3], "random", size] for key in cells]
        means = [shown([values[key] for key in cells if key[0] == name]) for name in BACKBONES]
        lines.append([strategy, f"{size}", *means, "" if strategy == "random" else shown(gains)])
    head = ["strategy", "labels", *BACKBONES, "accuracy above random"]
    text = (__doc__ or "").split("    python")[0].strip()
    with atomic_file(out / "summary.md") as path:
        path.write_text(f"# Which rows to label next\n\n{text}\n\n{table(head, lines)}\n")


def main() -> None:
    """Run the missing cells, then write the table."""
    parser = study_parser(__doc__ or "", "reports/suggest")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    args = parser.parse_args()
    results = Results(args.out, KEY)
    for name in args.backbones:
        backbone = load_backbone(name)
        for seed, task in product(args.seeds, SETS):
            pools = pools_of(task, args.data_dir)
            pool = drawn(pools.train, min(POOL, len(pools.train)), seed)
            score = drawn(pools.score, min(SCORED, len(pools.score)), 0)
            parts = [encoded(backbone, rows) for rows in (pool, score)]
            centre = parts[0].mean(0)
            norm = np.linalg.norm(parts[0] - centre, axis=1).mean()
            features, scored = ((part - centre) / norm for part in parts)
            labels, truth = (np.array(list(map(str, rows.labels))) for rows in (pool, score))
            first = {*drawn(pool, SIZES[0], seed).ids}
            rows = np.flatnonzero([name in first for name in pool.ids])
            for strategy in STRATEGIES:
                cell = {"backbone": name, "task": task, "seed": seed, "strategy": strategy}
                if results.get(**cell, size=SIZES[-1]) is not None:
                    continue
                for size, accuracy in fits(features, labels, scored, truth, rows, strategy, seed):
                    results.append(cell | {"size": size, "accuracy": accuracy})
                print(cell, accuracy, flush=True)
            backbone.prefix_states.clear()
    write(args.out, results.rows())


if __name__ == "__main__":
    main()
