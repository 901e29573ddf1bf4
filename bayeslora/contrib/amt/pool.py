"""The pool on each layer, and its tuning: members learn from episodes, each against its adversary.

The last layer is not used: an episode's queries are classified by cosines with the class means of
its support. Dropout is off, so that clean and perturbed answers differ by the perturbation alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from bayeslora.adapters.low_rank import Factors
from bayeslora.adapters.site import Site, trained_layer
from bayeslora.backbones.encoder import Encoder, PreparedTexts
from bayeslora.backbones.tokens import Batch
from bayeslora.contrib.perturbation import Inputs, ascend, open_inputs
from bayeslora.engine.network import Network, under, unscaled
from bayeslora.engine.progress import progress_bar
from bayeslora.engine.training.base import Training, read_checkpoint, write_checkpoint
from bayeslora.errors import DivergedError, InputError
from bayeslora.posteriors.last_layer.prototypes import cosine_logits, prototypes

if TYPE_CHECKING:
    from bayeslora.contrib.amt import AMT

logger = logging.getLogger(__name__)

COSINE_SCALE = 10.0
"""κ before training."""
_MOMENTUM = 0.9
_EVERY = 50
"""Episodes between checkpoints."""


class Pool(Site):
    """A frozen linear layer plus a mixture of low-rank changes.

    Attributes:
        A: Linear layer whose weight [P r, in] holds the first factors.
        B: Linear layer whose weight [out, P r] holds the second factors.
        A0: [r, in] buffer, initial A_p of every member.
        B0: [out, r] buffer, initial B_p of every member.
        mixture: [P] buffer, w.
        cosine_scales: [P] buffer, κ of each member; the same in all sites.
    """

    centred = True
    A0: Tensor
    B0: Tensor
    mixture: Tensor
    cosine_scales: Tensor

    def __init__(self, name: str, host: nn.Linear, factors: Factors, num_members: int) -> None:
        """Initialise all members with the same factors and equal weights.

        Args:
            name: Dotted path of the replaced layer in its host.
            host: The layer to replace.
            factors: Initial factors of each member.
            num_members: P.
        """
        super().__init__(name, host)
        device = host.weight.device
        self.A = trained_layer(factors.A.repeat(num_members, 1), device)
        self.B = trained_layer(factors.B.repeat(1, num_members), device)
        for key, factor in (("A0", factors.A), ("B0", factors.B)):
            # The layout of a loaded tensor.
            start = factor.detach().clone(memory_format=torch.contiguous_format)
            self.register_buffer(key, start.to(device))
        self.register_buffer("mixture", torch.full((num_members,), 1 / num_members, device=device))
        self.register_buffer(
            "cosine_scales", torch.full((num_members,), COSINE_SCALE, device=device)
        )
        self.train(host.training)

    @property
    def r(self) -> int:
        """Rank of a member."""
        return self.A0.shape[0]

    @property
    def num_members(self) -> int:
        """P."""
        return len(self.mixture)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] in the frozen layer's precision; the change is computed in its own."""
        base = F.linear(x, self.weight, self.bias)
        x = x.to(self.A.weight.dtype)
        product = -F.linear(F.linear(x, self.A0), self.B0)
        for member, weight in enumerate(self.mixture.tolist()):
            if weight:
                part = self._slice(member)
                h = F.linear(x, self.A.weight[part])
                product = product + weight * F.linear(h, self.B.weight[:, part])
        return base + product.to(base.dtype)

    @torch.no_grad()
    def select(self, weights: Sequence[float]) -> None:
        """Set the mixture weights, P numbers that sum to 1."""
        self.mixture.copy_(torch.tensor(list(weights), dtype=torch.float64))

    def parts(self, member: int) -> list[tuple[Tensor, slice, int]]:
        """Return the factors of a member: the tensor that holds them, the slice, the axis."""
        part = self._slice(member)
        return [(self.A.weight, part, 0), (self.B.weight, part, 1)]

    def change(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return `(A [(k + 1) r, in], B [out, (k + 1) r])` for the change `B·A` of k members.

        `Σ w_p B_p A_p − B_0 A_0 = Σ w_p (B_p − B_0) A_p + B_0 (Σ w_p A_p − A_0)`: this form avoids
        cancellation.

        Args:
            dtype: Dtype of the computation and the result; None means the adapter's.
        """
        dtype = dtype or self.A.weight.dtype
        A0, B0 = self.A0.to(dtype), self.B0.to(dtype)
        firsts, seconds, mean = [], [], -A0
        for member, weight in enumerate(self.mixture.tolist()):
            if not weight:
                continue
            part = self._slice(member)
            A, B = self.A.weight[part].to(dtype), self.B.weight[:, part].to(dtype)
            firsts.append(A)
            seconds.append(weight * (B - B0))
            mean = mean + weight * A
        return torch.cat([*firsts, mean]), torch.cat([*seconds, B0], 1)

    def linears(self) -> dict[str, nn.Linear]:
        """Return the layers that hold the factors of all members."""
        return {"A": self.A, "B": self.B}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save: factors, initial factors, mixture and κ."""
        names = ("A0", "B0", "mixture", "cosine_scales")
        return {**self.trainable(), **{name: getattr(self, name) for name in names}}

    def origin(self) -> dict[str, Tensor]:
        """Return copies of the initial factors."""
        times = self.num_members
        return {"A": self.A0.repeat(times, 1), "B": self.B0.repeat(1, times)}

    def extra_repr(self) -> str:
        """Return what `print(model)` shows beside the factors."""
        members = f"members={self.num_members}"
        return f"in={self.in_features}, out={self.out_features}, r={self.r}, {members}"

    def _slice(self, member: int) -> slice:
        return slice(member * self.r, (member + 1) * self.r)


def mix(network: Network, weights: Sequence[float]) -> None:
    """Set the mixture of a pool's members in every layer."""
    for site in pooled(network):
        site.select(weights)


@dataclass(frozen=True)
class Adversary:
    """Perturbations that one member of a pool is tuned against.

    Attributes:
        inputs: ε of the input perturbation: for a token, a share of the mean norm of an embedding;
            for a pixel, a share of its range. 0 for none.
        weights: γ_w of the weight perturbation, a share of each factor's norm. 0 for none.
    """

    inputs: float
    weights: float


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


def draw_episode(labels: Tensor, options: AMT, rng: np.random.Generator) -> Episode:
    """Draw one episode from rows with labels [N] int64.

    Raises:
        InputError: Fewer than two classes have more rows than `options.shots`.
    """
    codes = labels.numpy()
    classes, counts = np.unique(codes, return_counts=True)
    names = classes[counts > options.shots]
    if len(names) < 2:
        raise InputError(
            f"an episode needs two classes with at least {options.shots + 1} rows, but only "
            f"{len(names)} of {len(classes)} classes have that many; give more rows, or lower "
            "shots"
        )
    chosen = rng.choice(names, min(options.ways, len(names)), replace=False)
    support, queries = [], []
    for name in chosen:
        rows = rng.permutation(np.flatnonzero(codes == name))
        support.append(rows[: options.shots])
        queries.append(rows[options.shots : options.shots + options.queries])
    return Episode(
        np.concatenate(support),
        np.concatenate(queries),
        torch.arange(len(chosen)).repeat_interleave(options.shots),
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
        options: Options of the tuning.
        member: Index of the member.
        adversary: Its adversary.
        max_grad_norm: Limit on the norm of the gradient of the member's factors and κ.
        scale: κ, a parameter.
    """

    network: Network
    options: AMT
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
            lr=self.options.learning_rate,
            momentum=_MOMENTUM,
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
        return loss + self.options.penalty * divergence(
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
            steps=self.options.steps,
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


def pooled(network: Network) -> list[Pool]:
    """Return the sites of a network whose adapter is tuned by episodes."""
    return cast("list[Pool]", network.sites)


def meta_tune(fit: Training, options: AMT) -> list[float]:
    """Tune every member of a pool, resuming from the last checkpoint, if any.

    Members see the same episodes.

    Args:
        fit: A training whose network has a fresh pool, which is tuned in place, and whose rows the
            episodes are drawn from.
        options: Options of the tuning.

    Returns:
        The mean loss of each member's last episodes.
    """
    network, seed, directory = fit.network, fit.plan.seed, fit.directory
    network.eval()
    members = options.adversaries(images=network.encoder.backbone.kind == "vision")
    checkpoint = read_checkpoint(directory)
    done = 0
    losses = torch.full((len(members), options.num_episodes), math.nan, dtype=torch.float64)
    tensors: Mapping[str, Tensor] = {}
    if checkpoint is not None:
        tensors, state = checkpoint
        done = state["episodes"]
        losses = tensors["losses"]
        network.load_trained_state(under("network.", tensors))
    total = len(members) * options.num_episodes
    with progress_bar(
        fit.title, total, shown=fit.plan.progress, unit="episode", done=done
    ) as advance:
        for member, adversary in enumerate(members):
            first = max(done - member * options.num_episodes, 0)
            if first >= options.num_episodes:
                continue
            tuning = MetaTuning(network, options, member, adversary, fit.settings.max_grad_norm)
            if first:
                tuning.load(under("tuning.", tensors))
            for number in range(first, options.num_episodes):
                rate = (
                    options.learning_rate
                    * 0.5
                    * (1 + math.cos(math.pi * number / options.num_episodes))
                )
                tuning.optimizer.param_groups[0]["lr"] = rate
                rng = np.random.default_rng([seed, number])
                episode = draw_episode(fit.train.labels, options, rng)
                generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
                losses[member, number] = tuning.step(fit.train, episode, generator)
                advance(1)
                step = member * options.num_episodes + number + 1
                if number + 1 == options.num_episodes:
                    tuning.finish()
                is_due = step % _EVERY == 0 or number + 1 == options.num_episodes
                if directory is not None and is_due:
                    now = {f"network.{key}": t for key, t in network.trained_state().items()}
                    now |= {f"tuning.{key}": t for key, t in tuning.state().items()}
                    write_checkpoint(directory, now | {"losses": losses}, {"episodes": step})
    return losses[:, -_EVERY:].mean(1).tolist()
