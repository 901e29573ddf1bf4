"""AMT on digits that were never seen: accuracy clean and under attack, of members and merges.

Five digits are for meta-tuning, two choose a fixed member and three are scored, in episodes of
three classes with five examples each. Images have 56 x 56 pixels; an attack moves each pixel by at
most 1/255, by five steps up the loss of the true class from one random start.

    python -m benchmarks.amt
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import bayeslora as bl
from bayeslora.adapters.episodes import Episodes
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.backbones.perturbation import ascend, open_inputs
from bayeslora.engine.build import build_network
from bayeslora.engine.network import Network
from bayeslora.engine.rows import LabelledTexts
from bayeslora.engine.training.episodes import Episode, draw_episode, mix
from bayeslora.metrics.calibration import ece
from bayeslora.metrics.top_label import top_label
from bayeslora.prototypes import cosine_logits, held_out_cosines, prototypes
from bayeslora.tasks.examples import Examples
from bayeslora.tasks.known import load_known
from benchmarks.amt.summary import KEY, write_summary
from benchmarks.lib.results import Results

logger = logging.getLogger(__name__)

BACKBONE = "dinov2-s"
MAX_LENGTH = 17  # 56 x 56 pixels
SHOTS, QUERIES = 5, 4
EPS = 1 / 255
STEPS = 5
ROWS = 90
"""Maximum images per scored class."""
CLASSES = np.random.default_rng(0).permutation(10)
PARTS = {"train": CLASSES[:5], "validation": CLASSES[5:7], "test": CLASSES[7:]}
CLEAN, MERGED, ATTACKED = 200, 30, 6
"""Scored episodes: clean, clean with a merge per episode, and under attack."""

POOL = bl.AMT(
    ways=3,
    shots=SHOTS,
    queries=QUERIES,
    num_episodes=8,
    lr=2e-3,
    eps=(0.0, 1 / 255, 2 / 255),
    weight_eps=(0.0, 0.005, 0.01),
)
STRONGEST = len(POOL.weight_eps) - 1

Mixture = tuple[float, ...]
Merge = Callable[["Judge", Episode], list[Mixture]]


@dataclass(frozen=True)
class Fit:
    """A meta-tuned pool and its arms.

    Attributes:
        adapter: Options of the pool.
        arms: By name, the mixture of members that predicts, or the name of a merge per episode.
    """

    adapter: bl.AMT
    arms: dict[str, Mixture | str]


def one_member(eps: float, weight_eps: float, start: str = "svd") -> bl.AMT:
    """Return the options of a pool with one member."""
    return replace(POOL, eps=(eps,), weight_eps=(weight_eps,), start=start, top=1)


def one_hot(member: int) -> Mixture:
    """Return the mixture with weight 1 on one member of the pool."""
    return tuple(float(place == member) for place in range(STRONGEST + 1))


MEMBERS = ("clean meta-tuning", "member 2", "both")
FITS = (
    Fit(
        POOL,
        {
            **{name: one_hot(place) for place, name in enumerate(MEMBERS)},
            "pool, uniform": (1 / 3, 1 / 3, 1 / 3),
            "pool, published": "published",
            "pool, best": "best",
            "pool, ensemble": "ensemble",
        },
    ),
    Fit(one_member(0.0, 0.0, "random"), {"clean meta-tuning, LoRA start": (1.0,)}),
    Fit(one_member(2 / 255, 0.0), {"inputs": (1.0,)}),
    Fit(one_member(0.0, 0.01), {"weights": (1.0,)}),
)


def rows_of(part: str, most: int | None = None) -> Examples:
    """Return images of the digits of a part, at most the first `most` per class."""
    names = sorted(map(str, PARTS[part]))
    splits = [load_known("digits", name) for name in ("train", "validation", "test")]
    pairs = [pair for split in splits for pair in zip(split.texts, split.labels, strict=True)]
    chosen = [pair for name in names for pair in [p for p in pairs if p[1] == name][:most]]
    texts, labels = zip(*chosen, strict=True)
    return Examples(
        ids=texts,
        texts=texts,
        pairs=None,
        labels=labels,
        rows=tuple(range(1, len(chosen) + 1)),
        source=f"digits ({part})",
        images=True,
    )


@dataclass
class Judge:
    """Scores mixtures of a network's members on episodes of a part.

    Attributes:
        network: A network with a pool, or without an adapter.
        rows: Images of the part.
        scales: κ of each member.
        known: Cached features of all images by mixture.
    """

    network: Network
    rows: LabelledTexts
    scales: Sequence[float]
    known: dict[Mixture, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, network: Network, part: str, scales: Sequence[float]) -> Judge:
        """Create the judge of validation or test classes."""
        rows = rows_of(part, ROWS)
        names = sorted(set(rows.labels), key=str)
        labels = torch.tensor([names.index(label) for label in rows.labels])
        return cls(network, LabelledTexts(network.encoder.prepare(rows.texts), labels), scales)

    @cached_property
    def plan(self) -> Episodes:
        """Options of an episode."""
        return POOL.episodes

    @property
    def num_classes(self) -> int:
        """Number of classes per episode."""
        return min(self.plan.ways, int(self.rows.labels.max()) + 1)

    def episodes(self, count: int) -> Iterator[Episode]:
        """Yield the first `count` episodes, the same for every arm."""
        for number in range(count):
            yield draw_episode(self.rows.labels, self.plan, np.random.default_rng([77, number]))

    def scores(self, arm: Mixture | str, *, attacked: bool) -> dict[str, Any]:
        """Return accuracies by episode, and NLL and ECE over all queries, of the mean softmax."""
        count = ATTACKED if attacked else MERGED if arm == "published" else CLEAN
        accuracies, probs, labels = [], [], []
        for number, episode in enumerate(self.episodes(count)):
            answer = self.under_attack if attacked else self.clean
            answers = [answer(episode, mixture, number) for mixture in self.mixtures(arm, episode)]
            mean = torch.stack(answers).mean(0)
            accuracies.append(float((mean.argmax(1) == episode.query_labels).double().mean()))
            probs.append(mean)
            labels.append(episode.query_labels)
        mean_probs, truth = torch.cat(probs).double(), torch.cat(labels)
        confidence, guess = mean_probs.max(1)
        nll = -mean_probs.gather(1, truth[:, None]).clamp_min(1e-12).log().mean()
        error = ece(top_label(confidence.numpy(), (guess == truth).numpy()))
        return {"accuracy": accuracies, "nll": float(nll), "ece": error}

    def mixtures(self, arm: Mixture | str, episode: Episode) -> list[Mixture]:
        """Return the mixtures whose mean probability is the prediction of an arm."""
        if not isinstance(arm, str):
            return [arm]

        def support(member: int) -> tuple[Tensor, Tensor, float]:
            features = self.features(one_hot(member))[episode.support].double()
            cosines = held_out_cosines(features, episode.support_labels, self.num_classes)
            return cosines, episode.support_labels, self.scales[member]

        chosen = replace(POOL, merge=arm)
        return [tuple(mixture) for mixture in chosen.mixtures(STRONGEST + 1, support)]

    def scale(self, weights: Mixture) -> float:
        """Return κ of a mixture."""
        return sum(w * scale for w, scale in zip(weights, self.scales, strict=True))

    def put(self, weights: Mixture) -> None:
        """Activate a mixture if the network has a pool."""
        if self.network.sites:
            mix(self.network, weights)

    @torch.no_grad()
    def features(self, weights: Mixture) -> Tensor:
        """Return the features of all images, cached by mixture."""
        if weights not in self.known:
            self.put(weights)
            self.known[weights] = self.network.encoder.features(self.rows.texts)
        return self.known[weights]

    @torch.no_grad()
    def clean(self, episode: Episode, weights: Mixture, _: int) -> Tensor:
        """Return the probabilities of the queries in an episode."""
        rows = [*episode.support.tolist(), *episode.queries.tolist()]
        if sum(weight > 0 for weight in weights) in (1, len(weights)):
            features = self.features(weights)[rows]
        else:
            self.put(weights)
            features = self.network.encoder.features(self.rows.texts, rows=rows)
        support, queries = features.split([len(episode.support), len(episode.queries)])
        centres = prototypes(support, episode.support_labels, self.num_classes)
        return cosine_logits(queries, centres, self.scale(weights)).softmax(1)

    def under_attack(self, episode: Episode, weights: Mixture, number: int) -> Tensor:
        """Return the probabilities of attacked queries; the support stays clean."""
        self.put(weights)
        encoder, texts = self.network.encoder, self.rows.texts
        with torch.no_grad():
            support = open_inputs(encoder, texts, episode.support.tolist()).batch()
            centres = prototypes(encoder(support), episode.support_labels, self.num_classes)
        scale = self.scale(weights)
        queries = open_inputs(encoder, texts, episode.queries.tolist())
        delta = ascend(
            lambda batch: [
                cross_entropy(cosine_logits(encoder(batch), centres, scale), episode.query_labels)
            ],
            queries,
            eps=EPS,
            steps=STEPS,
            generator=torch.Generator().manual_seed(number),
        )
        with torch.no_grad():
            return cosine_logits(encoder(queries.batch(delta)), centres, scale).softmax(1)


def score(judge: Judge, name: str, arm: Mixture | str, seed: int, results: Results) -> None:
    """Store the scores of an arm on the test classes."""
    if results.get(arm=name, seed=seed):
        return
    clean = judge.scores(arm, attacked=False)
    attacked = judge.scores(arm, attacked=True)
    results.append({"arm": name, "seed": seed, "clean": clean, "attacked": attacked})
    accuracies = [np.mean(result["accuracy"]) for result in (clean, attacked)]
    logger.info("seed %d, %s: %.3f clean, %.3f attacked", seed, name, *accuracies)


def run_frozen(backbone: Backbone, results: Results) -> None:
    """Score the frozen backbone with the initial scale of meta-tuning."""
    network = build_network(
        backbone, bl.Frozen(), bl.Prototypes(), num_classes=3, seed=0, max_length=MAX_LENGTH
    )
    score(Judge.of(network.eval(), "test", [10.0]), "frozen encoder", (1.0,), 0, results)


def run_fit(backbone: Backbone, fit: Fit, seed: int, results: Results) -> None:
    """Meta-tune one pool and score its arms."""
    if all(results.get(arm=arm, seed=seed) for arm in fit.arms):
        return
    clf = bl.BayesianClassifier(
        backbone, fit.adapter, "prototypes", seed=seed, max_length=MAX_LENGTH, progress=False
    )
    network = clf.fit(rows_of("train"), feature_scores="none")._known().network
    scales: list[float] = network.sites[0].get_buffer("cosine_scales").tolist()
    test = Judge.of(network, "test", scales)
    for place, (name, arm) in enumerate(fit.arms.items()):
        if place == len(MEMBERS):
            judge = Judge.of(network, "validation", scales)
            means = [
                np.mean(judge.scores(one_hot(member), attacked=True)["accuracy"])
                for member in range(STRONGEST + 1)
            ]
            row = results.get(arm=MEMBERS[int(np.argmax(means))], seed=seed)
            results.append((row or {}) | {"arm": "member of the validation classes"})
        score(test, name, arm, seed, results)


def main() -> None:
    """Run the missing fits, and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("bayeslora").setLevel(logging.WARNING)
    results = Results(args.reports / "amt", KEY)
    backbone = load_backbone(BACKBONE, dtype="float32", device="cpu")
    run_frozen(backbone, results)
    for fit in FITS:
        for seed in args.seeds:
            run_fit(backbone, fit, seed, results)
    results.sort()
    write_summary(args.reports)


if __name__ == "__main__":
    main()
