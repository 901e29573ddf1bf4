"""Options of AMT.

    c_n = mean of φ over the support of class n ,   logit_n(q) = κ cos(φ(q), c_n)

    1. δ ← argmax KL( p(Q) ‖ p(Q + δ) ) in a ball of radius ε, from a random start
    2. Z ← Z + γ_w ‖Z‖ g_Z / ‖g_Z‖ for both factors Z of a member,  g = ∇ L
    3. L = CE(p(Q), y) + λ KL( p(Q) ‖ p(Q + δ) ) at these weights, prototypes included
    4. restore Z; SGD step with the gradient of 3, clipped at norm 1

    W = W0 + Σ_p w_p (B_p A_p − B_0 A_0) ,   Σ w_p = 1

All members start from the largest singular vectors of W0, and each has its own adversary.

Source: Yang, Liu and Wei 2024, Mixture of Adversarial LoRAs, NeurIPS 2024. Their merge is tuned on
tasks of each test domain; here nothing is tuned on test domains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.episodes import Adversary, Episodes
from bayeslora.errors import InputError, located
from bayeslora.option_checks import Count, NotNegative, OnlyWith, Positive, Range, UpToOne
from bayeslora.plain_text import counted

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from bayeslora.adapters.site import Site

_TEXTS = (0.0, 0.025, 0.05, 0.1)
_IMAGES = (0.0, 2 / 255, 4 / 255, 8 / 255)


Strengths = tuple[Annotated[float, Range(0, 10)], ...]


@dataclass(frozen=True)
class AMT(Adapter):
    """A pool of low-rank adapters, meta-tuned on episodes against perturbations, then merged."""

    name: ClassVar[str] = "amt"
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

    r: Annotated[Count, "Rank of each member."] = 8
    ways: Annotated[int, Range(2), "Classes per episode; fewer if the data has fewer."] = 5
    shots: Annotated[Count, "Support examples per class."] = 5
    queries: Annotated[Count, "Maximum number of query examples per class."] = 10
    num_episodes: Annotated[Count, "Episodes per member."] = 500
    eps: Annotated[
        Strengths | None,
        "Perturbation strength of the inputs, one number per member: for texts a share of the "
        "mean norm of an embedding, for images a share of the pixel range. None means 0, 0.025, "
        "0.05 and 0.1 for texts, and 0, 2, 4 and 8 of 255 for images.",
    ] = None
    weight_eps: Annotated[
        Strengths,
        "Perturbation strength of the factors, one number per member: a share of their norm.",
    ] = (0.0, 0.001, 0.002, 0.005)
    penalty: Annotated[
        NotNegative, "Weight of the divergence between clean and perturbed predictions."
    ] = 6.0
    steps: Annotated[Count, "Steps of the input perturbation."] = 3
    merge: Annotated[
        Literal["uniform", "best", "published", "ensemble"],
        "`uniform` averages the members, `best` uses the member with the lowest leave-one-out "
        "NLL, `published` weights the `top` members by how well they separate the classes, "
        "`ensemble` averages their probabilities, with one pass per member.",
    ] = "uniform"
    top: Annotated[Count, "Number of members averaged by `published`."] = 2
    gamma: Annotated[
        UpToOne, "Weight of the similarity within classes relative to that between classes."
    ] = 0.6
    beta: Annotated[NotNegative, "Inverse temperature of the members' weights."] = 1.0
    start: Annotated[
        Literal["svd", "random"],
        "`svd` starts at the weight's largest singular vectors, `random` as LoRA does.",
    ] = "svd"
    lr: Annotated[Positive | None, "Learning rate of SGD; None means {default_lr}."] = None
    target_modules: Annotated[
        tuple[str, ...] | None,
        "Endings of dotted module names, or regular expressions for whole names; None means all "
        "linear layers in the transformer layers.",
    ] = None
    num_layers: int | None = None

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

    @property
    def episodes(self) -> Episodes:
        """How the members are tuned."""
        inputs = [self.eps or default for default in (_TEXTS, _IMAGES)]
        texts, images = (
            tuple(Adversary(*pair) for pair in zip(values, self.weight_eps, strict=True))
            for values in inputs
        )
        return Episodes(
            self.ways,
            self.shots,
            self.queries,
            self.num_episodes,
            self.learning_rate,
            0.9,
            self.penalty,
            self.steps,
            texts,
            images,
        )

    @property
    def has_members(self) -> bool:
        """Whether each member predicts in a pass of its own."""
        return self.merge == "ensemble"

    def merged_as(self, other: Adapter) -> Self:
        """Return these options with the merge options of `other`."""
        return self._with(
            **{name: getattr(other, name) for name in ("merge", "top", "gamma", "beta")}
        )

    def mixtures(
        self, count: int, support: Callable[[int], tuple[Tensor, Tensor, float]]
    ) -> list[list[float]]:
        """Return the weights of the members by `merge`; see `Adapter.mixtures`."""
        if self.merge == "uniform":
            return [[1 / count] * count]
        one_hot = [[float(index == member) for index in range(count)] for member in range(count)]
        if self.merge == "ensemble":
            return one_hot
        import torch
        from torch.nn.functional import cross_entropy

        from bayeslora.prototypes import separation, top_weights

        supports = [support(member) for member in range(count)]
        if self.merge == "best":
            losses = [float(cross_entropy(scale * cosines, y)) for cosines, y, scale in supports]
            return [one_hot[losses.index(min(losses))]]
        scores = [separation(cosines, labels, self.gamma) for cosines, labels, _ in supports]
        weights = top_weights(torch.tensor(scores, dtype=torch.float64), self.top, self.beta)
        return [weights.tolist()]

    def check_rows(self, rows: Any) -> None:
        """Raise InputError if a class has too few rows for the support and a query."""
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
        from torch.nn import Linear

        from bayeslora.adapters.targets import find_targets
        from bayeslora.layer_list import find_layers

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
        from bayeslora.adapters.amt.pool import Pool
        from bayeslora.adapters.factors import blank_factors
        from bayeslora.adapters.lora import kaiming_zero
        from bayeslora.adapters.pissa import pissa

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
