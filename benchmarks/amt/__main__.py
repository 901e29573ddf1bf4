"""AMT on digits that were never seen: accuracy clean and under attack, of members and merges.

Five digits are for meta-tuning, two choose the merge of one member and three are scored, in
episodes of three classes with five examples each. Images have 56 x 56 pixels; an attack moves each
pixel by at most 4/255, by five steps up the loss of the true class from one random start.

    python -m benchmarks.amt
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import bayeslora as bl
from bayeslora.adapters.episodes import Episodes
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.backbones.perturbation import ascend, open_inputs
from bayeslora.engine.episodes import Episode, choose_mixtures, draw_episode, mix
from bayeslora.engine.network import Network
from bayeslora.engine.rows import LabelledTexts
from bayeslora.metrics.calibration import ece
from bayeslora.metrics.top_label import top_label
from bayeslora.prototypes import cosine_logits, prototypes
from bayeslora.tasks.examples import Examples
from bayeslora.tasks.known import load_known
from benchmarks.amt.summary import KEY, write_summary
from benchmarks.lib.results import Results

logger = logging.getLogger(__name__)

BACKBONE = "dinov2-s"
MAX_LENGTH = 17  # 56 x 56 pixels
SHOTS, QUERIES = 5, 6
EPS = 4 / 255
STEPS = 5
CLASSES = np.random.default_rng(0).permutation(10)
PARTS = {"train": CLASSES[:5], "validation": CLASSES[5:7], "test": CLASSES[7:]}
EPISODES = {"clean": 200, "attacked": 12}
"""Scored episodes; those under attack are the first of the others."""

POOL = bl.AMT(
    ways=3,
    shots=SHOTS,
    queries=5,
    num_episodes=30,
    lr=2e-3,
    merge="published",
)
STRONGEST = len(POOL.weight_eps) - 1


@dataclass(frozen=True)
class Fit:
    """A meta-tuning, and the arms that its members are.

    Attributes:
        adapter: What is tuned.
        arms: Weights of the members by the arm's name; a name of a merge stands for its weights.
    """

    adapter: bl.AMT
    arms: dict[str, Sequence[float] | str]


def one_member(eps: float, weight_eps: float, start: str = "svd") -> bl.AMT:
    """Return options of a pool of one member."""
    return replace(POOL, eps=(eps,), weight_eps=(weight_eps,), start=start, merge="uniform", top=1)


def one_hot(member: int) -> list[float]:
    """Return the weights that one member of the pool has alone."""
    return [float(place == member) for place in range(STRONGEST + 1)]


FITS = (
    Fit(
        POOL,
        {
            "clean meta-tuning": one_hot(0),
            "both": one_hot(STRONGEST),
            **{f"member {member + 1}": one_hot(member) for member in range(1, STRONGEST)},
            "pool, uniform": "uniform",
            "pool, best": "best",
            "pool, published": "published",
            "pool, ensemble": "ensemble",
        },
    ),
    Fit(one_member(0.0, 0.0, "random"), {"clean meta-tuning, LoRA start": [1.0]}),
    Fit(one_member(8 / 255, 0.0), {"inputs": [1.0]}),
    Fit(one_member(0.0, 0.01), {"weights": [1.0]}),
)


def rows_of(part: str) -> Examples:
    """Return all images of the digits of a part."""
    wanted = set(map(str, PARTS[part]))
    splits = [load_known("digits", name) for name in ("train", "validation", "test")]
    chosen = [
        (text, label) for one in splits for text, label in zip(one.texts, one.labels, strict=True)
    ]
    kept = [(text, label) for text, label in chosen if label in wanted]
    return Examples(
        ids=tuple(text for text, _ in kept),
        texts=tuple(text for text, _ in kept),
        pairs=None,
        labels=tuple(label for _, label in kept),
        rows=tuple(range(1, len(kept) + 1)),
        source=f"digits ({part})",
        images=True,
    )


@dataclass(frozen=True)
class Judge:
    """Scores mixtures of a network's members on episodes of a part.

    Attributes:
        network: Holds a pool, or no adapter.
        rows: Images of the part.
        scales: κ for each member.
    """

    network: Network
    rows: LabelledTexts
    scales: Sequence[float]

    @cached_property
    def plan(self) -> Episodes:
        """What an episode is."""
        return replace(POOL, queries=QUERIES).episodes

    def episodes(self, count: int) -> Iterator[Episode]:
        """Yield the first episodes, the same for every arm."""
        for number in range(count):
            yield draw_episode(self.rows.labels, self.plan, np.random.default_rng([77, number]))

    def scores(self, mixtures: Sequence[Sequence[float]], *, attacked: bool) -> dict[str, Any]:
        """Return accuracies by episode, and NLL and ECE over all queries, of a mean of softmax."""
        count = EPISODES["attacked" if attacked else "clean"]
        features = [] if attacked else [self.features(weights) for weights in mixtures]
        accuracies, probs, labels = [], [], []
        for number, episode in enumerate(self.episodes(count)):
            answers = []
            for place, weights in enumerate(mixtures):
                if attacked:
                    answers.append(self.under_attack(episode, weights, number))
                else:
                    answers.append(self.clean(episode, features[place], self.scale(weights)))
            mean = torch.stack(answers).mean(0)
            accuracies.append(float((mean.argmax(1) == episode.query_labels).double().mean()))
            probs.append(mean)
            labels.append(episode.query_labels)
        found, truth = torch.cat(probs).double(), torch.cat(labels)
        nll = -found.gather(1, truth[:, None]).log().mean()
        confidence, guess = found.max(1)
        error = ece(top_label(confidence.numpy(), (guess == truth).numpy()))
        return {"accuracy": accuracies, "nll": float(nll), "ece": error}

    def scale(self, weights: Sequence[float]) -> float:
        """Return κ of a mixture."""
        return sum(w * scale for w, scale in zip(weights, self.scales, strict=True))

    def put(self, weights: Sequence[float]) -> None:
        """Let a mixture act, where there is a pool."""
        if self.network.sites:
            mix(self.network, weights)

    @torch.no_grad()
    def features(self, weights: Sequence[float]) -> Tensor:
        """Return the features of all images."""
        self.put(weights)
        return self.network.encoder.features(self.rows.texts)

    @staticmethod
    def clean(episode: Episode, features: Tensor, scale: float) -> Tensor:
        """Return the probabilities of the queries of an episode."""
        support, queries = (features[rows] for rows in (episode.support, episode.queries))
        centres = prototypes(support, episode.support_labels, 3)
        return cosine_logits(queries, centres, scale).softmax(1)

    def under_attack(self, episode: Episode, weights: Sequence[float], number: int) -> Tensor:
        """Return the probabilities of attacked queries; the support stays clean."""
        self.put(weights)
        encoder, texts = self.network.encoder, self.rows.texts
        with torch.no_grad():
            support = open_inputs(encoder, texts, episode.support.tolist()).batch()
            centres = prototypes(encoder(support), episode.support_labels, 3)
        scale = self.scale(weights)
        queries = open_inputs(encoder, texts, episode.queries.tolist())
        delta = ascend(
            lambda batch: cross_entropy(
                cosine_logits(encoder(batch), centres, scale), episode.query_labels
            ),
            queries,
            eps=EPS,
            steps=STEPS,
            generator=torch.Generator().manual_seed(number),
        )
        with torch.no_grad():
            return cosine_logits(encoder(queries.batch(delta)), centres, scale).softmax(1)


def judges(network: Network, scales: Sequence[float]) -> dict[str, Judge]:
    """Return the judges of validation and test classes."""
    found = {}
    for part in ("validation", "test"):
        rows = rows_of(part)
        names = sorted(set(rows.labels), key=str)
        labels = torch.tensor([names.index(label) for label in rows.labels])
        texts: PreparedTexts = network.encoder.prepare(rows.texts)
        found[part] = Judge(network, LabelledTexts(texts, labels), scales)
    return found


def run_frozen(backbone: Backbone, results: Results) -> None:
    """Score the backbone as it is, by the scale that meta-tuning starts from."""
    if results.get(arm="frozen encoder", seed=0):
        return
    clf = bl.BayesianClassifier(
        backbone, bl.LoRA(), "prototypes", max_length=MAX_LENGTH, progress=False
    )
    from bayeslora.engine.build import build_network

    network = build_network(
        backbone, bl.Frozen(), clf.posterior, num_classes=2, seed=0, max_length=MAX_LENGTH
    )
    network.encoder.pooling = "first"
    judge = judges(network.eval(), [10.0])["test"]
    score(judge, "frozen encoder", [[1.0]], 0, results)


def score(
    judge: Judge, arm: str, mixtures: Sequence[Sequence[float]], seed: int, results: Results
) -> None:
    """Append the scores of an arm on the test classes."""
    clean = judge.scores(mixtures, attacked=False)
    attacked = judge.scores(mixtures, attacked=True)
    logger.info(
        "seed %d, %s: %.3f clean, %.3f attacked",
        seed,
        arm,
        np.mean(clean["accuracy"]),
        np.mean(attacked["accuracy"]),
    )
    results.append({"arm": arm, "seed": seed, "clean": clean, "attacked": attacked})


def run_fit(backbone: Backbone, fit: Fit, seed: int, results: Results) -> None:
    """Meta-tune one pool, and score its arms."""
    if all(results.get(arm=arm, seed=seed) for arm in fit.arms):
        return
    clf = bl.BayesianClassifier(
        backbone,
        replace(fit.adapter, merge="uniform"),
        "prototypes",
        seed=seed,
        max_length=MAX_LENGTH,
        progress=False,
    )
    clf.fit(rows_of("train"), feature_scores="none")
    network = clf._known().network
    scales = network.sites[0].cosine_scales.tolist()  # type: ignore[union-attr, operator]
    parts = judges(network, scales)
    for arm, weights in fit.arms.items():
        if isinstance(weights, str):
            # The merge sees the support alone; here it is that of the first episode.
            episode = next(parts["test"].episodes(1))
            texts = parts["test"].rows.texts.take(episode.support.tolist())
            support = LabelledTexts(texts, episode.support_labels)
            mixtures = choose_mixtures(network, replace(fit.adapter, merge=weights), support)
        else:
            mixtures = [list(weights)]
        score(parts["test"], arm, mixtures, seed, results)
    if fit.adapter is POOL:
        best = chosen_member(parts["validation"])
        row = results.get(arm=BY_MEMBER[best], seed=seed)
        if row is not None:
            results.append(row | {"arm": "best member of validation classes"})


BY_MEMBER = ["clean meta-tuning", "member 2", "member 3", "both"]


def chosen_member(judge: Judge) -> int:
    """Return the member of highest clean accuracy on episodes of two validation classes."""
    means = []
    for member in range(STRONGEST + 1):
        features = judge.features(one_hot(member))
        correct = []
        for episode in judge.episodes(EPISODES["clean"]):
            rows, labels = features[episode.support], episode.support_labels
            logits = cosine_logits(features[episode.queries], prototypes(rows, labels, 2))
            correct.append((logits.argmax(1) == episode.query_labels).double().mean())
        means.append(float(torch.stack(correct).mean()))
    return int(np.argmax(means))


def main() -> None:
    """Run what is missing, and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("bayeslora").setLevel(logging.WARNING)
    results = Results(args.reports / "amt", KEY)
    backbone = load_backbone(BACKBONE, dtype="float32", device="cpu")
    run_frozen(backbone, results)
    for seed in args.seeds:
        for fit in FITS:
            run_fit(backbone, fit, seed, results)
    results.sort()
    write_summary(args.reports)


if __name__ == "__main__":
    main()
