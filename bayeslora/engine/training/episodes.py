"""Meta-tuning: the members of a pool learn from few-shot episodes, each against its adversary.

The last layer is not used: an episode's queries are classified by cosines with the class means of
its support. Dropout is off, so that clean and perturbed answers differ by the perturbation alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from bayeslora.adapters.base import Adapter, Adversary, Episodes, PooledSite
from bayeslora.backbones.encoder import Encoder, PreparedTexts
from bayeslora.backbones.perturbation import Inputs, ascend, open_inputs
from bayeslora.backbones.tokens import Batch
from bayeslora.engine.network import Network, under, unscaled
from bayeslora.engine.progress import progress_bar
from bayeslora.engine.training.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from bayeslora.errors import DivergedError, InputError
from bayeslora.prototypes import cosine_logits, held_out_cosines, prototypes

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

_EVERY = 50
"""Episodes between checkpoints."""


@dataclass(frozen=True)
class Episode:
    """Rows of one few-shot task.

    Attributes:
        support: [N K] row numbers.
        queries: [≤ N M] row numbers.
        support_labels: [N K] int64, from 0 to N − 1.
        query_labels: The same for the queries.
    """

    support: NDArray[np.int64]
    queries: NDArray[np.int64]
    support_labels: Tensor
    query_labels: Tensor


def draw_episode(labels: Tensor, plan: Episodes, rng: np.random.Generator) -> Episode:
    """Draw one episode from rows with labels [N] int64.

    Raises:
        InputError: Fewer than two classes have more rows than `plan.shots`.
    """
    codes = labels.numpy()
    classes, counts = np.unique(codes, return_counts=True)
    names = classes[counts > plan.shots]
    if len(names) < 2:
        raise InputError(
            f"an episode needs two classes with at least {plan.shots + 1} rows, but only "
            f"{len(names)} of {len(classes)} classes have that many; give more rows, or lower "
            "shots"
        )
    chosen = rng.choice(names, min(plan.ways, len(names)), replace=False)
    support, queries = [], []
    for name in chosen:
        rows = rng.permutation(np.flatnonzero(codes == name))
        support.append(rows[: plan.shots])
        queries.append(rows[plan.shots : plan.shots + plan.queries])
    return Episode(
        np.concatenate(support),
        np.concatenate(queries),
        torch.arange(len(chosen)).repeat_interleave(plan.shots),
        torch.cat([torch.full((len(rows),), label) for label, rows in enumerate(queries)]),
    )


def divergence(clean: Tensor, perturbed: Tensor) -> Tensor:
    """Return the mean KL( p ‖ q ) in nats of softmax probabilities of logits [B, N]."""
    p, q = clean.log_softmax(-1), perturbed.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


@dataclass
class MetaTuning:
    """The tuning of one member.

    Attributes:
        network: Network with the pool.
        plan: Options of the tuning.
        member: Index of the member.
        adversary: Its adversary.
        max_grad_norm: Limit on the norm of the gradient of the member's factors and κ.
        scale: κ, a parameter.
    """

    network: Network
    plan: Episodes
    member: int
    adversary: Adversary
    max_grad_norm: float
    scale: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Select the member alone, and create its optimiser."""
        self.sites = pooled(self.network)
        self.encoder = cast("Encoder", self.network.encoder)
        count = self.sites[0].num_members
        for site in self.sites:
            site.select([float(index == self.member) for index in range(count)])
        start = self.sites[0].cosine_scales[self.member]
        self.scale = start.detach().clone().requires_grad_()
        self.parts = [part for site in self.sites for part in site.parts(self.member)]
        self.optimizer = torch.optim.SGD(
            [*(tensor for tensor, _, _ in self.parts), self.scale],
            lr=self.plan.lr,
            momentum=self.plan.momentum,
        )

    def features(self, batch: Batch) -> Tensor:
        """Return the features [B, d] of a batch."""
        return unscaled(self.encoder, self.encoder(batch)).values

    def step(self, texts: PreparedTexts, episode: Episode, generator: torch.Generator) -> float:
        """Take one step and return its loss.

        Args:
            texts: Texts of all rows.
            episode: Rows of the episode.
            generator: CPU generator for the start of the perturbation.
        """
        support = open_inputs(self.encoder, texts, episode.support.tolist()).batch()
        queries = open_inputs(self.encoder, texts, episode.queries.tolist())
        delta = self._attack(support, episode, queries, generator)
        with self._perturbed_weights(support, episode, queries, delta):
            self.optimizer.zero_grad()
            centres = self._centres(support, episode)
            loss = self._loss(queries, delta, centres, episode)
            torch.autograd.backward(loss)
        # A strong adversary starts with gradients far above those of clean tuning; SGD would follow
        # them to features that are the same for all inputs, which no perturbation changes.
        clip_grad_norm_(self._parameters(), self.max_grad_norm)
        self.optimizer.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(
                f"meta-tuning of member {self.member + 1} diverged: lower the learning rate (lr)"
            )
        return value

    def _centres(self, support: Batch, episode: Episode) -> Tensor:
        labels = episode.support_labels.to(self.scale.device)
        return prototypes(self.features(support), labels, int(labels.max()) + 1)

    def _logits(self, batch: Batch, centres: Tensor) -> Tensor:
        return cosine_logits(self.features(batch), centres, self.scale)

    def _loss(
        self, queries: Inputs, delta: Tensor | None, centres: Tensor, episode: Episode
    ) -> Tensor:
        logits = self._logits(queries.batch(), centres)
        loss = cross_entropy(logits, episode.query_labels.to(logits.device))
        if delta is None:
            return loss
        return loss + self.plan.penalty * divergence(
            logits, self._logits(queries.batch(delta), centres)
        )

    def _attack(
        self, support: Batch, episode: Episode, queries: Inputs, generator: torch.Generator
    ) -> Tensor | None:
        if not self.adversary.inputs:
            return None
        with torch.no_grad():
            centres = self._centres(support, episode)
            clean = self._logits(queries.batch(), centres)
        return ascend(
            lambda batch: [divergence(clean, self._logits(batch, centres))],
            queries,
            eps=self.adversary.inputs,
            steps=self.plan.steps,
            generator=generator,
        )

    @contextmanager
    def _perturbed_weights(
        self, support: Batch, episode: Episode, queries: Inputs, delta: Tensor | None
    ) -> Iterator[None]:
        """Move the member's factors uphill by a share of their norm within the context."""
        if not self.adversary.weights:
            yield
            return
        with torch.no_grad():
            centres = self._centres(support, episode)
        loss = self._loss(queries, delta, centres, episode)
        gradients = torch.autograd.grad(loss, [tensor for tensor, _, _ in self.parts])
        with torch.no_grad():
            copies = [tensor.clone() for tensor, _, _ in self.parts]
            for (tensor, span, axis), gradient in zip(self.parts, gradients, strict=True):
                factors = tensor.narrow(axis, span.start, span.stop - span.start)
                uphill = gradient.narrow(axis, span.start, span.stop - span.start)
                length = self.adversary.weights * factors.norm() / (uphill.norm() + 1e-20)
                factors += length * uphill
        try:
            yield
        finally:
            with torch.no_grad():
                for (tensor, _, _), copy in zip(self.parts, copies, strict=True):
                    tensor.copy_(copy)

    def finish(self) -> None:
        """Store κ in the pool."""
        with torch.no_grad():
            for site in self.sites:
                site.cosine_scales[self.member] = self.scale

    def state(self) -> dict[str, Tensor]:
        """Return the state that a checkpoint needs beside the pool: κ and the momentum."""
        moments = {
            f"momentum.{index}": self.optimizer.state[parameter]["momentum_buffer"]
            for index, parameter in enumerate(self._parameters())
            if self.optimizer.state[parameter].get("momentum_buffer") is not None
        }
        return {"scale": self.scale.detach(), **moments}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        with torch.no_grad():
            self.scale.copy_(state["scale"])
        for index, parameter in enumerate(self._parameters()):
            moment = state.get(f"momentum.{index}")
            if moment is not None:
                self.optimizer.state[parameter]["momentum_buffer"] = moment.to(parameter.device)

    def _parameters(self) -> list[Tensor]:
        parameters: list[Tensor] = self.optimizer.param_groups[0]["params"]
        return parameters


def pooled(network: Network) -> list[PooledSite]:
    """Return the sites of a network whose adapter is tuned by episodes."""
    return cast("list[PooledSite]", network.sites)


def adversaries(plan: Episodes, network: Network) -> tuple[Adversary, ...]:
    """Return the adversary of each member for a network of texts or images."""
    return plan.images if network.encoder.backbone.kind == "vision" else plan.texts


def meta_tune(
    network: Network,
    plan: Episodes,
    train: PreparedTexts,
    *,
    seed: int,
    max_grad_norm: float,
    directory: Path | None,
    description: str | None = None,
) -> list[float]:
    """Tune every member of a pool, resuming from the last checkpoint in `directory`, if any.

    Args:
        network: Fresh network, whose pool is tuned in place.
        plan: Options of the tuning.
        train: The rows that episodes are drawn from.
        seed: Seed of the episodes and perturbations; members see the same episodes.
        max_grad_norm: Limit on the norm of a step's gradient.
        directory: Directory for checkpoints; None writes none.
        description: Title of the progress bar; None for none.

    Returns:
        The mean loss of each member's last episodes.
    """
    network.eval()
    members = adversaries(plan, network)
    checkpoint = read_checkpoint(directory)
    done = 0
    losses = torch.full((len(members), plan.count), math.nan, dtype=torch.float64)
    if checkpoint is not None:
        done = checkpoint.state["episodes"]
        losses = checkpoint.tensors["losses"]
        network.load_trained_state(under("network.", checkpoint.tensors))
    total = len(members) * plan.count
    with progress_bar(
        description or "episodes", total, shown=description is not None, unit="episode", done=done
    ) as advance:
        for member, adversary in enumerate(members):
            first = max(done - member * plan.count, 0)
            if first >= plan.count:
                continue
            tuning = MetaTuning(network, plan, member, adversary, max_grad_norm)
            if first and checkpoint is not None:
                tuning.load(under("tuning.", checkpoint.tensors))
            for number in range(first, plan.count):
                rate = plan.lr * 0.5 * (1 + math.cos(math.pi * number / plan.count))
                tuning.optimizer.param_groups[0]["lr"] = rate
                episode = draw_episode(train.labels, plan, np.random.default_rng([seed, number]))
                generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
                losses[member, number] = tuning.step(train, episode, generator)
                advance(1)
                step = member * plan.count + number + 1
                if number + 1 == plan.count:
                    tuning.finish()
                is_due = step % _EVERY == 0 or number + 1 == plan.count
                if directory is not None and is_due:
                    tensors = {f"network.{key}": t for key, t in network.trained_state().items()}
                    tensors |= {f"tuning.{key}": t for key, t in tuning.state().items()}
                    state = Checkpoint(tensors | {"losses": losses}, {"episodes": step})
                    write_checkpoint(directory, state)
    return losses[:, -_EVERY:].mean(1).tolist()


def choose_mixtures(network: Network, adapter: Adapter, rows: PreparedTexts) -> list[list[float]]:
    """Return the member weights of each network that a pool predicts with, usually one network.

    Args:
        network: Network with the tuned pool.
        adapter: Its options.
        rows: Labelled rows of the classes to distinguish.

    Raises:
        InputError: The weights need a left-out row per class, and a class has a single row.
    """
    sites, labels = pooled(network), rows.labels
    count, classes = sites[0].num_members, int(labels.max()) + 1

    def support(member: int) -> tuple[Tensor, Tensor, float]:
        mix(network, [float(index == member) for index in range(count)])
        network.eval()
        features = network.encoder.features(rows)
        features = unscaled(network.encoder, features.double()).values
        cosines = held_out_cosines(features, labels, classes)
        return cosines, labels, float(sites[0].cosine_scales[member])

    return adapter.mixtures(count, support)


def mix(network: Network, weights: Sequence[float]) -> None:
    """Set the mixture of a pool's members in every layer."""
    for site in pooled(network):
        site.select(weights)
