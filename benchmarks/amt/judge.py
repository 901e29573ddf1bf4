"""Scores of a pool's mixtures on few-shot episodes, clean, corrupted and under attack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.perturbation import ascend, open_inputs
from bayeslora.data.corruptions import Corruption
from bayeslora.engine.network import Network
from bayeslora.engine.training.episodes import Episode, draw_episode, mix
from bayeslora.metrics.calibration import ece
from bayeslora.metrics.top_label import top_label
from bayeslora.prototypes import cosine_logits, held_out_cosines, prototypes
from benchmarks.amt.settings import Setting

Mixture = tuple[float, ...]


def one_hot(member: int, count: int) -> Mixture:
    """Return the mixture with weight 1 on one of `count` members."""
    return tuple(float(place == member) for place in range(count))


@dataclass
class Judge:
    """Scores mixtures of a network's members on the episodes of a part.

    Attributes:
        setting: What is scored, and how.
        network: A network with a pool, or without an adapter.
        scales: κ of each member.
        labels: [N] class of each row.
        texts: The rows.
        corrupted_texts: The same, corrupted if the setting names a corruption.
        known: Cached features of all rows by mixture and corruption.
    """

    setting: Setting
    network: Network
    scales: Sequence[float]
    labels: Tensor
    texts: PreparedTexts
    corrupted_texts: PreparedTexts
    known: dict[tuple[Mixture, bool], Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        setting: Setting,
        network: Network,
        part: str,
        scales: Sequence[float],
        data_dir: Path | None,
    ) -> Judge:
        """Create the judge of validation or test classes."""
        rows = setting.read(part, data_dir)
        names = sorted(set(rows.labels), key=str)
        labels = torch.tensor([names.index(label) for label in rows.labels])
        noisy = rows
        if setting.corruption is not None:
            noisy = Corruption.of(setting.corruption).corrupted(rows)
        texts, corrupted_texts = (network.encoder.prepare(some.texts) for some in (rows, noisy))
        return cls(setting, network, scales, labels, texts, corrupted_texts)

    @property
    def num_classes(self) -> int:
        """Number of classes per episode."""
        return min(self.setting.pool.ways, int(self.labels.max()) + 1)

    def scores(self, arm: Mixture | str, kind: str) -> dict[str, Any]:
        """Return accuracies by episode, and NLL and ECE over all queries, of the mean softmax.

        Args:
            arm: The mixture that predicts, or the name of a merge per episode.
            kind: `clean`, `corrupted` or `attacked`.
        """
        count = self.setting.num_attacked if kind == "attacked" else self.setting.num_clean
        if arm == "published" and kind != "attacked":
            count = self.setting.num_merged
        accuracies, probs, labels = [], [], []
        for number, episode in enumerate(self.episodes(count)):
            answers = [
                self.under_attack(episode, mixture, number)
                if kind == "attacked"
                else self.predicted(episode, mixture, corrupted=kind == "corrupted")
                for mixture in self.mixtures(arm, episode)
            ]
            mean = torch.stack(answers).mean(0)
            accuracies.append(float((mean.argmax(1) == episode.query_labels).double().mean()))
            probs.append(mean)
            labels.append(episode.query_labels)
        mean_probs, truth = torch.cat(probs).double(), torch.cat(labels)
        confidence, guess = mean_probs.max(1)
        nll = -mean_probs.gather(1, truth[:, None]).clamp_min(1e-12).log().mean()
        error = ece(top_label(confidence.numpy(), (guess == truth).numpy()))
        return {"accuracy": accuracies, "nll": float(nll), "ece": error}

    def episodes(self, count: int) -> Iterator[Episode]:
        """Yield the first `count` episodes, the same for every arm."""
        plan = self.setting.pool.episodes
        for number in range(count):
            yield draw_episode(self.labels, plan, np.random.default_rng([77, number]))

    def mixtures(self, arm: Mixture | str, episode: Episode) -> list[Mixture]:
        """Return the mixtures whose mean probability is the prediction of an arm."""
        if not isinstance(arm, str):
            return [arm]
        count = len(self.scales)

        def support(member: int) -> tuple[Tensor, Tensor, float]:
            features = self.features(one_hot(member, count))[episode.support].double()
            cosines = held_out_cosines(features, episode.support_labels, self.num_classes)
            return cosines, episode.support_labels, self.scales[member]

        chosen = replace(self.setting.pool, merge=arm)
        return [tuple(mixture) for mixture in chosen.mixtures(count, support)]

    def scale(self, weights: Mixture) -> float:
        """Return κ of a mixture."""
        return sum(w * scale for w, scale in zip(weights, self.scales, strict=True))

    def put(self, weights: Mixture) -> None:
        """Activate a mixture if the network has a pool."""
        if self.network.sites:
            mix(self.network, weights)

    @torch.no_grad()
    def features(self, weights: Mixture, *, corrupted: bool = False) -> Tensor:
        """Return the features of all rows, cached by mixture."""
        key = (weights, corrupted)
        if key not in self.known:
            self.put(weights)
            texts = self.corrupted_texts if corrupted else self.texts
            self.known[key] = self.network.encoder.features(texts)
        return self.known[key]

    @torch.no_grad()
    def predicted(self, episode: Episode, weights: Mixture, *, corrupted: bool) -> Tensor:
        """Return the probabilities of an episode's queries, corrupted or not; the support is not.

        Mixtures that are chosen per episode are computed on its rows alone.
        """
        if sum(weight > 0 for weight in weights) in (1, len(weights)):
            support = self.features(weights)[episode.support]
            queries = self.features(weights, corrupted=corrupted)[episode.queries]
        else:
            self.put(weights)
            texts = self.corrupted_texts if corrupted else self.texts
            encoder = self.network.encoder
            support = encoder.features(self.texts, rows=episode.support.tolist())
            queries = encoder.features(texts, rows=episode.queries.tolist())
        centres = prototypes(support, episode.support_labels, self.num_classes)
        return cosine_logits(queries, centres, self.scale(weights)).softmax(1)

    def under_attack(self, episode: Episode, weights: Mixture, number: int) -> Tensor:
        """Return the probabilities of attacked queries; the support stays clean."""
        self.put(weights)
        encoder, texts = self.network.encoder, self.texts
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
            eps=self.setting.eps,
            steps=self.setting.steps,
            generator=torch.Generator().manual_seed(number),
        )
        with torch.no_grad():
            return cosine_logits(encoder(queries.batch(delta)), centres, scale).softmax(1)
