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
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal, Self

import torch
from annotated_types import Interval
from torch import Generator, Tensor, nn
from torch.nn import Linear
from torch.nn.functional import cross_entropy, one_hot

from bayeslora.adapters.base import Adapter, Layers
from bayeslora.adapters.lora import kaiming_zero
from bayeslora.adapters.low_rank import blank_factors
from bayeslora.adapters.pissa import pissa
from bayeslora.adapters.site import Site
from bayeslora.adapters.targets import find_targets
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.contrib.amt.pool import Adversary, Pool, meta_tune, mix, pooled
from bayeslora.engine.data import TrainingData
from bayeslora.engine.network import Network, unscaled
from bayeslora.engine.training.base import Training
from bayeslora.errors import InputError, located
from bayeslora.foreign import find_layers
from bayeslora.option_checks import (
    LARGEST_COUNT,
    Count,
    NotNegative,
    OnlyWith,
    Positive,
    Strengths,
    Texts,
    UpToOne,
)
from bayeslora.plain_text import counted
from bayeslora.posteriors.last_layer.prototypes import held_out_cosines

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
    parameters: ClassVar[str] = "4 r (in + out) per layer"
    default_lr: ClassVar[float] = 5e-3
    only_with: ClassVar[OnlyWith] = {
        "top": (("merge", "published"),),
        "gamma": (("merge", "published"),),
        "beta": (("merge", "published"),),
    }

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
    merge: Literal["uniform", "best", "published", "ensemble"] = "uniform"
    """`uniform` averages the members, `best` uses the member with the lowest leave-one-out NLL,
    `published` weights the `top` members by how well they separate the classes, `ensemble` averages
    their probabilities, with one pass per member."""
    top: Count = 2
    """Number of members averaged by `published`."""
    gamma: UpToOne = 0.6
    """Weight of the similarity within classes relative to that between classes."""
    beta: NotNegative = 1.0
    """Inverse temperature of the members' weights."""
    start: Literal["svd", "random"] = "svd"
    """`svd` starts at the weight's largest singular vectors, `random` as LoRA does."""
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
        if self.merge == "published" and self.top > members:
            raise InputError(
                f"top must be at most {members}, the number of members, got {self.top}"
            )
        if self.merge in ("best", "published") and self.shots < 2:
            raise InputError(
                f"merge={self.merge} leaves out one support example at a time and needs at least "
                f"two per class, got shots={self.shots}; choose merge=uniform or more shots"
            )

    def adversaries(self, *, images: bool) -> list[Adversary]:
        """Return the adversary of each member, for a network of texts or of images."""
        inputs = self.eps or (_IMAGES if images else _TEXTS)
        return [Adversary(*pair) for pair in zip(inputs, self.weight_eps, strict=True)]

    @property
    def has_members(self) -> bool:
        """Whether each member predicts in a pass of its own."""
        return self.merge == "ensemble"

    def train(self, fit: Training) -> dict[str, float]:
        """Tune every member on episodes; return their mean losses at the end."""
        losses = meta_tune(fit, self)
        return {f"loss_{member}": loss for member, loss in enumerate(losses, 1)}

    def variants(self, network: Network, rows: PreparedTexts) -> Sequence[Callable[[], None]]:
        """Return functions that set a mixture of the members, one for each predicting network."""
        sites, labels = pooled(network), rows.labels
        count, classes = sites[0].num_members, int(labels.max()) + 1

        def support(member: int) -> tuple[Tensor, Tensor, float]:
            mix(network, [float(index == member) for index in range(count)])
            network.eval()
            features = network.encoder.features(rows)
            features = unscaled(network.encoder, features.double()).values
            cosines = held_out_cosines(features, labels, classes)
            return cosines, labels, float(sites[0].cosine_scales[member])

        return [partial(mix, network, weights) for weights in self.mixtures(count, support)]

    def for_new_classes(self, requested: Adapter) -> Self:
        """Return these options with the merge options of `requested`."""
        return self._with(
            **{name: getattr(requested, name) for name in ("merge", "top", "gamma", "beta")}
        )

    def mixtures(
        self, count: int, support: Callable[[int], tuple[Tensor, Tensor, float]]
    ) -> list[list[float]]:
        """Return the weights of the members by `merge`, one list per predicting network.

        Args:
            count: P, the number of members.
            support: From a member's index to the leave-one-out cosines [N, C] of rows with the
                class prototypes, the labels [N], and the member's κ.
        """
        if self.merge == "uniform":
            return [[1 / count] * count]
        alone = [[float(index == member) for index in range(count)] for member in range(count)]
        if self.merge == "ensemble":
            return alone

        supports = [support(member) for member in range(count)]
        if self.merge == "best":
            losses = [float(cross_entropy(scale * cosines, y)) for cosines, y, scale in supports]
            return [alone[losses.index(min(losses))]]
        scores = [separation(cosines, labels, self.gamma) for cosines, labels, _ in supports]
        weights = top_weights(torch.tensor(scores, dtype=torch.float64), self.top, self.beta)
        return [weights.tolist()]

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

    @classmethod
    def table_name(cls, recorded: Mapping[str, object]) -> str:
        """Return `amt-ensemble` if the members predict separately."""
        return "amt-ensemble" if recorded.get("merge") == "ensemble" else cls.name

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
            if type(module) is Linear
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
                elif self.start == "svd":
                    factors = pissa(host.weight, self.r, 1.0, generator)
                else:
                    factors = kaiming_zero(host.out_features, host.in_features, self.r, generator)
            sites.append(Pool(name, host, factors, len(self.weight_eps)))
        return sites


def separation(cosines: Tensor, labels: Tensor, gamma: float) -> float:
    """Return γ·intra − (1 − γ)·inter, class means of cosines [N, C] to own and other prototypes."""
    classes = cosines.shape[1]
    within = cosines.gather(1, labels[:, None])[:, 0]
    between = (cosines.sum(1) - within) / (classes - 1)
    members = one_hot(labels, classes).to(cosines)
    per_class = members.T @ torch.stack([within, between], 1) / members.sum(0)[:, None]
    intra, inter = per_class.mean(0).tolist()
    return float(gamma * intra - (1 - gamma) * inter)


def top_weights(scores: Tensor, top: int, beta: float) -> Tensor:
    """Return the softmax of β times the `top` largest of P scores, and 0 for the others."""
    chosen = scores.argsort(descending=True, stable=True)[:top]
    weights = torch.zeros_like(scores)
    weights[chosen] = (beta * scores[chosen]).softmax(0)
    return weights
