"""AMT: a pool of low-rank adapters, tuned on episodes against perturbations and then merged.

    c_n = mean of φ over the support of class n ,   logit_n(q) = κ cos(φ(q), c_n)

    1. δ ← argmax KL( p(Q) ‖ p(Q + δ) ) in a ball of radius ε, from a random start
    2. Z ← Z + γ_w ‖Z‖ g_Z / ‖g_Z‖ for both factors Z of a member,  g = ∇ L
    3. L = CE(p(Q), y) + λ KL( p(Q) ‖ p(Q + δ) ) at these weights, prototypes included
    4. restore Z; SGD step with the gradient of 3, clipped at norm 1

    W = W0 + Σ_p w_p (B_p A_p − B_0 A_0) ,   Σ w_p = 1

All members start from the largest singular vectors of W0, and each has its own adversary.

Source: Yang, Liu and Wei 2024, Mixture of Adversarial LoRAs, NeurIPS 2024. Their merge is tuned on
tasks of each test domain; here nothing is tuned on test domains.

*Pool*: the members on one linear layer.

    y = x Wᵀ + b + Σ_p w_p B_p(A_p(x)) − B_0(A_0(x)) ,   Σ w_p = 1

That is W0 + Σ_p w_p (B_p A_p − B_0 A_0): products are averaged, never factors. The members' factors
are concatenated in two linear layers, and members with w_p = 0 are skipped.

*Tuning*: members learn from episodes, each against its adversary.

The last layer is not used: an episode's queries are classified by cosines with the class means of
its support. Dropout is off, so that clean and perturbed answers differ by the perturbation alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self, cast

import numpy as np
import torch
from annotated_types import Interval
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy, one_hot
from torch.nn.utils import clip_grad_norm_

from bayeslora.adapters.base import Adapter, Layers
from bayeslora.adapters.low_rank import Factors, blank_factors
from bayeslora.adapters.pissa import pissa
from bayeslora.adapters.site import Site, trained_layer
from bayeslora.adapters.targets import find_targets
from bayeslora.backbones.encoder import Encoder, PreparedTexts
from bayeslora.backbones.tokens import Batch
from bayeslora.contrib.perturbation import Inputs, ascend, open_inputs
from bayeslora.engine.data import TrainingData
from bayeslora.engine.network import Network, under, unscaled
from bayeslora.engine.progress import progress_bar
from bayeslora.engine.training import Training, read_checkpoint, write_checkpoint
from bayeslora.errors import DivergedError, InputError, located
from bayeslora.foreign import find_layers
from bayeslora.option_checks import LARGEST_COUNT, Count, NotNegative, Positive, Strengths, Texts
from bayeslora.plain_text import counted
from bayeslora.posteriors.last_layer.prototypes import cosine_logits, held_out_cosines, prototypes
from bayeslora.posteriors.weights.draws import replaced

_TEXTS = (0.0, 0.025, 0.05, 0.1)
_IMAGES = (0.0, 2 / 255, 4 / 255, 8 / 255)


@dataclass(frozen=True)
class AMT(Adapter):
    """A pool of low-rank adapters, meta-tuned on episodes against perturbations, then merged."""

    name: ClassVar[str] = "amt"
    trains_itself: ClassVar[str] = "trains on few-shot episodes"
    summary: ClassVar[str] = "pool of LoRA adapters, meta-trained under adversarial attacks"
    use: ClassVar[str] = "Few examples per class, or adversarially perturbed inputs."
    source: ClassVar[str] = "Yang, Liu & Wei 2024, NeurIPS 2024"
    default_lr: ClassVar[float] = 5e-3

    r: Count = 8
    """Rank of each member."""
    ways: Annotated[int, Interval(ge=2, le=LARGEST_COUNT)] = 5
    """Classes per episode; fewer if the data has fewer."""
    shots: Count = 5
    """Support examples per class."""
    queries: Count = 10
    """Maximum number of query examples per class."""
    num_episodes: Count = 500
    """Episodes per member."""
    eps: Strengths | None = None
    """Perturbation strength of the inputs, one number per member: for texts a share of the mean
    norm of an embedding, for images a share of the pixel range. None means 0, 0.025, 0.05 and 0.1
    for texts, and 0, 2, 4 and 8 of 255 for images."""
    weight_eps: Strengths = (0.0, 0.001, 0.002, 0.005)
    """Perturbation strength of the factors, one number per member: a share of their norm."""
    penalty: NotNegative = 6.0
    """Weight of the divergence between clean and perturbed predictions."""
    steps: Count = 3
    """Steps of the input perturbation."""
    merge: Literal["uniform", "published"] = "uniform"
    """`uniform` averages the members, `published` the two that separate the classes best, weighted
    by how well they do."""
    lr: Positive | None = None
    """Learning rate of SGD; None means {default_lr}."""
    target_modules: Texts | None = None
    """Endings of dotted module names, or regular expressions for whole names; None means all linear
    layers in the transformer layers."""
    num_layers: Layers = None

    def __post_init__(self) -> None:
        super().__post_init__()
        members = len(self.weight_eps)
        if len(self.eps or _TEXTS) != members:
            raise InputError(
                "eps and weight_eps must have one number per member, got "
                f"{len(self.eps or _TEXTS)} and {members}"
            )
        if self.merge == "published" and self.shots < 2:
            raise InputError(
                f"merge={self.merge} leaves out one support example at a time and needs at least "
                f"two per class, got shots={self.shots}; choose merge=uniform or more shots"
            )

    def adversaries(self, *, images: bool) -> list[Adversary]:
        """Return the adversary of each member, for a network of texts or of images."""
        inputs = self.eps or (_IMAGES if images else _TEXTS)
        return [Adversary(*pair) for pair in zip(inputs, self.weight_eps, strict=True)]

    def train(self, fit: Training) -> dict[str, float]:
        """Tune every member on episodes; return their mean losses at the end."""
        losses = meta_tune(fit, self)
        return {f"loss_{member}": loss for member, loss in enumerate(losses, 1)}

    def merge_for(self, network: Network, rows: PreparedTexts) -> None:
        """Set the mixture of the members for the classes of rows."""
        sites, labels = pooled(network), rows.labels
        count, classes = sites[0].num_members, int(labels.max()) + 1
        if self.merge == "uniform":
            mix(network, [1 / count] * count)
            return
        scores = []
        for member in range(count):
            mix(network, [float(index == member) for index in range(count)])
            network.eval()
            features = network.encoder.features(rows)
            features = unscaled(network.encoder, features.double()).values
            cosines = held_out_cosines(features, labels, classes)
            scores.append(separation(cosines, labels))
        mix(network, published_weights(scores))

    def settled(self, data: TrainingData) -> Self:
        """Check that each class has enough rows for the support and a query."""
        rows = data.rows
        if getattr(rows, "choices", None) is not None:
            raise InputError(
                f"{rows.source}: adapter 'amt' trains on episodes of classes, and questions with "
                "options have no classes; choose another adapter"
            )
        counts = Counter(map(str, rows.labels))
        name, least = min(counts.items(), key=lambda pair: (pair[1], pair[0]))
        if least <= self.shots:
            raise InputError(
                f"{rows.source}: an episode needs {self.shots} support rows and a query row per "
                f"class, but class {name!r} has {counted(least, 'row')}; give more rows, or lower "
                "shots"
            )
        return self

    def first_layer(
        self, model: nn.Module, names: Sequence[str], *, is_cut: bool
    ) -> tuple[str, int]:
        """Return no list of layers, since inputs are perturbed below all layers."""
        return "", 0

    def targets(self, model: nn.Module) -> list[str]:
        """Return the names of the linear layers to adapt, in module order.

        Raises:
            InputError: See `find_targets`; or there are none.
        """
        if self.target_modules is not None:
            return find_targets(model, self.target_modules, self.top_layers)
        path, layers = find_layers(model)
        first = 0 if self.top_layers is None else max(0, len(layers) - self.top_layers)
        names = [
            f"{path}.{index}.{name}"
            for index in range(first, len(layers))
            for name, module in layers[index].named_modules()
            if type(module) is nn.Linear
        ]
        if not names:
            raise InputError("the transformer layers contain no linear layers; set target_modules")
        return names

    def make_sites(
        self,
        model: nn.Module,
        hosts: Mapping[str, nn.Linear],
        generator: Generator,
        *,
        blank: bool = False,
    ) -> list[Site]:
        """Return a `Pool` for each layer; see `Adapter.make_sites`."""
        sites: list[Site] = []
        for name, host in hosts.items():
            with located(name):
                if blank:
                    factors = blank_factors(host.out_features, host.in_features, self.r)
                else:
                    factors = pissa(host.weight, self.r, 1.0)
            sites.append(Pool(name, host, factors, len(self.weight_eps)))
        return sites


def separation(cosines: Tensor, labels: Tensor) -> float:
    """Return γ·intra − (1 − γ)·inter, class means of cosines [N, C] to own and other prototypes."""
    classes = cosines.shape[1]
    within = cosines.gather(1, labels[:, None])[:, 0]
    between = (cosines.sum(1) - within) / (classes - 1)
    members = one_hot(labels, classes).to(cosines)
    per_class = members.T @ torch.stack([within, between], 1) / members.sum(0)[:, None]
    intra, inter = per_class.mean(0).tolist()
    return float(_GAMMA * intra - (1 - _GAMMA) * inter)


def published_weights(scores: Sequence[float]) -> list[float]:
    """Return the mixture weights of members by their separation: those of the best two."""
    ranked = torch.tensor(scores, dtype=torch.float64)
    chosen = ranked.argsort(descending=True, stable=True)[:_TOP]
    weights = torch.zeros_like(ranked)
    weights[chosen] = ranked[chosen].softmax(0)
    return cast("list[float]", weights.tolist())


_GAMMA, _TOP = 0.6, 2
"""Weight of the similarity within classes in `separation`, and members in the published merge."""
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

    def parts(self, member: int) -> list[tuple[nn.Parameter, slice, int]]:
        """Return the factors of a member: the tensor that holds them, the slice, the axis."""
        part = self._slice(member)
        weights = (self.A.get_parameter("weight"), self.B.get_parameter("weight"))
        return [(weight, part, axis) for axis, weight in enumerate(weights)]

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
    """Draw one episode from rows with labels [N] int64."""
    codes = labels.numpy()
    classes, counts = np.unique(codes, return_counts=True)
    names = classes[counts > options.shots]
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
        mix(self.network, [float(index == self.member) for index in range(count)])
        start = self.sites[0].cosine_scales[self.member]
        self.scale = start.detach().clone().requires_grad_()
        self.parts = [part for site in self.sites for part in site.parts(self.member)]
        self.trained = [*(tensor for tensor, _, _ in self.parts), self.scale]
        self.optimizer = torch.optim.SGD(
            self.trained, lr=self.options.learning_rate, momentum=_MOMENTUM
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
        clip_grad_norm_(self.trained, self.max_grad_norm)
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
        moved = [tensor.detach().clone() for tensor, _, _ in self.parts]
        for value, (_, span, axis), gradient in zip(moved, self.parts, gradients, strict=True):
            factors = value.narrow(axis, span.start, span.stop - span.start)
            uphill = gradient.narrow(axis, span.start, span.stop - span.start)
            factors += self.adversary.weights * factors.norm() / (uphill.norm() + 1e-20) * uphill
        with replaced([tensor for tensor, _, _ in self.parts], moved):
            yield

    def finish(self) -> None:
        """Store κ in the pool."""
        with torch.no_grad():
            for site in self.sites:
                site.cosine_scales[self.member] = self.scale

    def state(self) -> dict[str, Tensor]:
        """Return the state that a checkpoint needs beside the pool: κ and the momentum."""
        moments = {
            f"momentum.{index}": self.optimizer.state[parameter]["momentum_buffer"]
            for index, parameter in enumerate(self.trained)
            if self.optimizer.state[parameter].get("momentum_buffer") is not None
        }
        return {"scale": self.scale.detach(), **moments}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        with torch.no_grad():
            self.scale.copy_(state["scale"])
        for index, parameter in enumerate(self.trained):
            moment = state.get(f"momentum.{index}")
            if moment is not None:
                self.optimizer.state[parameter]["momentum_buffer"] = moment.to(parameter.device)


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
    done, tensors = 0, dict[str, Tensor]()
    losses = torch.full((len(members), options.num_episodes), math.nan, dtype=torch.float64)
    if (checkpoint := read_checkpoint(directory)) is not None:
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
                cosine = math.cos(math.pi * number / options.num_episodes)
                tuning.optimizer.param_groups[0]["lr"] = options.learning_rate * 0.5 * (1 + cosine)
                rng = np.random.default_rng([seed, number])
                episode = draw_episode(fit.train.labels, options, rng)
                generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
                losses[member, number] = tuning.step(fit.train, episode, generator)
                advance(1)
                step = member * options.num_episodes + number + 1
                is_last = number + 1 == options.num_episodes
                if is_last:
                    tuning.finish()
                if directory is not None and (is_last or step % _EVERY == 0):
                    now = {f"network.{key}": t for key, t in network.trained_state().items()}
                    now |= {f"tuning.{key}": t for key, t in tuning.state().items()}
                    write_checkpoint(directory, now | {"losses": losses}, {"episodes": step})
    return losses[:, -_EVERY:].mean(1).tolist()
