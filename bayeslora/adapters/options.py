"""Options of every adapter: what a user may set, and what the method needs; free of torch.

The method itself is in the file of its name; LoRA is `low_rank.py`, with its start in `factors.py`,
and LISA `layer_sampling.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast

from annotated_types import Interval

from bayeslora.adapters.base import (
    Adapted,
    Adapter,
    Adversary,
    Episodes,
    Layers,
    LayerSampling,
    LowRankAdapter,
    StepHook,
    TrainingRows,
)
from bayeslora.errors import InputError, located
from bayeslora.option_checks import (
    LARGEST_COUNT,
    BelowOne,
    Count,
    CountOrZero,
    NotNegative,
    OnlyWith,
    Pooling,
    Positive,
    Strengths,
    Text,
    Texts,
    UpToOne,
)
from bayeslora.plain_text import counted

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn
    from torch.optim import Optimizer

    from bayeslora.adapters.factors import Factors
    from bayeslora.adapters.layer_sampling import FullLayers
    from bayeslora.adapters.low_rank import LowRank
    from bayeslora.adapters.s2ft import Columns
    from bayeslora.adapters.site import Site
    from bayeslora.conditioning import Conditioning


@dataclass(frozen=True)
class LoRA(LowRankAdapter):
    """Two free factors of a low-rank change.

        y = x Wᵀ + b + s · x (B A)ᵀ ,   s = alpha / r, or alpha / √r

    The second factor, B, starts at zero.
    """

    name: ClassVar[str] = "lora"
    has_dropout: ClassVar[bool] = True
    is_free: ClassVar[bool] = True
    summary: ClassVar[str] = (
        "low-rank change of frozen weights with two free factors; use_rslora=true for large r"
    )
    use: ClassVar[str] = (
        "The baseline. Exchange with PEFT, MC dropout, and posteriors over two factors."
    )
    source: ClassVar[str] = "Hu et al. 2021, arXiv 2106.09685"
    parameters: ClassVar[str] = "r (in + out) per layer"
    default_lr: ClassVar[float] = 3e-3

    r: Count = 8
    alpha: Positive = 16.0
    """The change is multiplied by `alpha / r`."""
    dropout: BelowOne = 0.0
    target_modules: Texts | None = None
    num_layers: Layers = "auto"
    lr: Positive | None = None
    """Learning rate of AdamW on both factors; None means {default_lr}."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of both factors."""
    use_rslora: bool = False
    """Whether the change is multiplied by `alpha / √r` instead, so that the step size does not
    shrink with the rank (Kalajdzievski 2023, arXiv 2312.03732)."""

    @property
    def scale(self) -> float:
        """The factor s in front of the change."""
        return self.alpha / (self.r**0.5 if self.use_rslora else self.r)

    def start(self, weight: Tensor, generator: Generator) -> Factors:
        """Return a random first factor and a zero second factor."""
        from bayeslora.adapters.factors import kaiming_zero

        out_features, in_features = weight.shape
        return kaiming_zero(out_features, in_features, self.r, generator)


@dataclass(frozen=True)
class PoLAR(LowRankAdapter):
    """Two orthonormal factors around a free r × r core that starts at zero."""

    name: ClassVar[str] = "polar"
    summary: ClassVar[str] = (
        "orthonormal directions around a free core, designed to avoid rank collapse"
    )
    use: ClassVar[str] = (
        "The default. A few hundred to a few thousand labelled examples, with any last layer."
    )
    source: ClassVar[str] = "Lion, Zhang, Li & He 2025, arXiv 2506.03133"
    parameters: ClassVar[str] = "r (in + out + r) per layer"
    default_lr: ClassVar[float] = 1e-2
    only_with: ClassVar[OnlyWith] = {
        "landing_lambda": (("constraint", "landing"), ("constraint", "euclidean-penalty")),
        "absorb_every": (("constraint", "landing"), ("constraint", "euclidean-penalty")),
        "max_rotation": (("constraint", "retraction"),),
    }
    retired: ClassVar[Mapping[str, str]] = {"init": "the directions start at random"}

    r: Count = 8
    alpha: Positive = 32.0
    """The change is multiplied by `alpha / r`."""
    target_modules: Texts | None = None
    num_layers: Layers = "auto"
    lr: Positive | None = None
    """Learning rate of the factors and the core; None means {default_lr}."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of the core, which is equivalent to that of the change."""
    constraint: Literal["euclidean-penalty", "landing", "retraction"] = "retraction"
    """How the direction factors are kept orthonormal: `retraction` (Riemannian AdamW, exactly
    orthonormal after every step), `landing` (AdamW with a field that attracts to the manifold) or
    `euclidean-penalty` (AdamW with a penalty)."""
    landing_lambda: NotNegative = 5e-3
    """Weight of the attraction or penalty under `landing` and `euclidean-penalty`."""
    absorb_every: CountOrZero = 1
    """Steps between restorations of orthonormality under `landing` and `euclidean-penalty`, which
    do not change the function; 0 means never."""
    max_rotation: Positive = 0.3
    """Largest rotation of a factor per step under `retraction`, in radians."""

    @property
    def no_gate(self) -> str:
        """A gate is impossible if absorption moves drift of the factors past it into the core."""
        if self.constraint == "retraction" or not self.absorb_every:
            return ""
        return (
            "moving drift of the factors past a gate into the core (constraint "
            f"{self.constraint!r}, absorb_every={self.absorb_every}) would change the network's "
            "outputs; choose constraint='retraction' or absorb_every=0"
        )

    def start(self, weight: Tensor, generator: Generator) -> Factors:
        """Return random orthonormal factors around a zero core."""
        from bayeslora.adapters.polar import random_factors

        out_features, in_features = weight.shape
        return random_factors(out_features, in_features, self.r, generator)

    def manifold_optimizer(self, sites: Sequence[Site]) -> Optimizer:
        """Return the optimiser for the constraint."""
        from bayeslora.adapters.low_rank import LowRank
        from bayeslora.adapters.optimizers import manifold_parameters
        from bayeslora.adapters.polar import LandingAdamW, RiemannianAdamW

        if self.constraint == "retraction":
            return RiemannianAdamW(
                manifold_parameters(sites), lr=self.learning_rate, max_rotation=self.max_rotation
            )
        return LandingAdamW(
            [site for site in sites if isinstance(site, LowRank)],
            lr=self.learning_rate,
            landing_lambda=self.landing_lambda,
            absorb_every=self.absorb_every,
            project=self.constraint == "landing",
        )


@dataclass(frozen=True)
class PiSSA(LowRankAdapter):
    """Two free factors that start at the principal singular vectors of the weight."""

    name: ClassVar[str] = "pissa"
    from_weight: ClassVar[bool] = True
    summary: ClassVar[str] = "two free factors that start at the weight's largest singular vectors"
    use: ClassVar[str] = "Few training steps, in which LoRA stays close to its zero start."
    source: ClassVar[str] = "Meng, Wang & Zhang 2024, arXiv 2404.02948"
    parameters: ClassVar[str] = "r (in + out) per layer"
    default_lr: ClassVar[float] = 1e-3

    r: Count = 16
    """Rank of the trained subspace; the change has rank 2r at most."""
    alpha: Positive | None = None
    niter: Annotated[int, Interval(ge=0, le=1000)] | None = None
    """Power iterations of a randomised singular value decomposition; a few are enough. None means
    the exact decomposition, which takes under a second for a layer of a small model."""
    target_modules: Texts | None = None
    num_layers: Layers = "auto"
    lr: Positive | None = None
    """Learning rate of AdamW on both factors; None means {default_lr}."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of both factors towards their initial values."""

    def start(self, weight: Tensor, generator: Generator) -> Factors:
        """Return the factors of the principal part of the weight."""
        from bayeslora.adapters.pissa import pissa

        return pissa(weight, self.r, self.scale, generator, self.niter)


@dataclass(frozen=True)
class CorDA(LowRankAdapter):
    """Two free factors that start at singular vectors chosen by the activations of a context.

    The context is run once before training, and the second moments of the layers' inputs on it
    are kept in the cache directory. Never take rows that the model will be judged by.
    """

    name: ClassVar[str] = "corda"
    from_weight: ClassVar[bool] = True
    summary: ClassVar[str] = (
        "two free factors that start along directions chosen from sample activations"
    )
    use: ClassVar[str] = (
        "Adapting to one domain (`ipm`), or preserving what a context needs (`kpm`)."
    )
    source: ClassVar[str] = "Yang et al. 2024, arXiv 2406.05223"
    parameters: ClassVar[str] = "r (in + out) per layer"
    default_lr: ClassVar[float] = 3e-3

    r: Count = 16
    """Rank of the trained subspace; the change has rank 2r at most."""
    alpha: Positive | None = None
    mode: Literal["ipm", "kpm"] = "ipm"
    """`ipm` (instruction-previewed) trains the directions that matter most on the context, `kpm`
    (knowledge-preserved) those that matter least, so that knowledge of the context is preserved."""
    context: Text | Texts | None = None
    """A data file with the same text column as the training data, or a list of texts. None means
    the training rows, for `ipm` only."""
    context_rows: Count = 1000
    """Maximum number of texts of the context that are run, evenly spread over it."""
    power: UpToOne = 1.0
    """Exponent of the second moment by which the weight is multiplied. 1 is CorDA, 0.5 the best
    approximation of the layer's outputs, 0 PiSSA; reports show it unless it is 1."""
    damping: Positive = 0.01
    """Added to the diagonal of the second moment, relative to its mean."""
    target_modules: Texts | None = None
    num_layers: Layers = "auto"
    lr: Positive | None = None
    """Learning rate of AdamW on both factors; None means {default_lr}."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of both factors towards their initial values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode == "kpm" and self.context is None:
            raise InputError(
                "mode 'kpm' preserves what a context needs, and no context is given; set "
                "context=FILE, or a list of texts in Python"
            )

    @property
    def files(self) -> tuple[str, ...]:
        """The file of the context, if it is a file."""
        return (self.context,) if isinstance(self.context, str) else ()

    @property
    def starts_from_rows(self) -> bool:
        """Always true: from the training rows or from a context."""
        return True

    @classmethod
    def table_name(cls, recorded: Mapping[str, Any]) -> str:
        """Return the adapter's name if `power` is 1, as published, else `context-svd-<power>`."""
        power = recorded.get("power", 1)
        return cls.name if power == 1 else f"context-svd-{power:g}"

    def with_texts(self, read: Callable[[str], Sequence[str]], held_out: Collection[str]) -> Self:
        """Return these options with a context file replaced by its texts.

        Raises:
            InputError: The file cannot be read, or the context holds texts of `held_out`.
        """
        if self.context is None:
            return self
        texts = read(self.context) if isinstance(self.context, str) else self.context
        shared = set(texts) & set(held_out)
        if shared:
            raise InputError(
                f"the context contains {len(shared)} of the validation texts, such as "
                f"{min(shared)[:40]!r}; validation rows must not influence the model: choose "
                "other texts"
            )
        return self._with(context=tuple(texts))

    def recorded(self) -> dict[str, Any]:
        """Return the options, with the context's texts replaced by their number and hash."""
        mapping = super().recorded()
        texts = mapping["context"]
        if isinstance(texts, list):
            digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
            mapping["context"] = f"{len(texts)} texts, sha256 {digest}"
        return mapping

    def begin(self, rows: TrainingRows) -> None:
        """Initialise every site from the second moment of its inputs on the context."""
        from bayeslora.adapters.corda import corda, warn_of_few

        context = self.context if isinstance(self.context, tuple) else None
        moments = rows.moments(self.context_rows, context)
        warn_of_few(moments)
        for site in rows.sites:
            with located(site.name):
                factors = corda(
                    site.weight,
                    moments[site.name],
                    self.r,
                    self.scale,
                    mode=self.mode,
                    power=self.power,
                    damping=self.damping,
                )
                cast("LowRank", site).begin(factors)


LEARNED = ("activation", "gradient", "product")
"""Selections that run training rows."""


@dataclass(frozen=True)
class S2FT(Adapter):
    """A few attention heads and feed-forward channels, trained in full while the rest is frozen.

    A head is its columns of the attention's output projection, a channel its column of the
    feed-forward down projection. Both budgets are shares of all adapted layers together: some
    layers get more than others, and some none.
    """

    name: ClassVar[str] = "s2ft"
    summary: ClassVar[str] = "trains a few heads and channels of the weights; the rest stays frozen"
    use: ClassVar[str] = (
        "Training single heads and channels, or merging several fits that change different columns."
    )
    source: ClassVar[str] = "Yang et al. 2024, arXiv 2412.06289"
    parameters: ClassVar[str] = "out per column"
    default_lr: ClassVar[float] = 1e-2
    only_with: ClassVar[OnlyWith] = {
        "largest": tuple(("selection", name) for name in ("weight", *LEARNED)),
        "context_rows": tuple(("selection", name) for name in LEARNED),
    }

    o_ratio: UpToOne = 0.052
    """Share of the attention heads to train, at least one; 0 leaves attention unchanged."""
    d_ratio: UpToOne = 0.02
    """Share of the feed-forward channels to train, at least one; 0 leaves them unchanged."""
    selection: Literal["activation", "gradient", "product", "random", "weight"] = "random"
    """Selection of heads and channels: `random`; or by the norm of the columns (`weight`), of their
    inputs on training rows (`activation`), of both together (`product`), or of the loss's gradient
    (`gradient`)."""
    largest: bool = True
    """Whether to select the largest norms; otherwise the smallest."""
    avoid: Texts | None = None
    """Model directories whose columns are not selected, so that their changes and this one can be
    added to the same weight. The ratios remain shares of all heads and channels."""
    context_rows: Count = 1000
    """Maximum number of training rows that are run for a selection, evenly spread over them."""
    target_modules: Texts | None = None
    """Endings of dotted module names, or regular expressions for whole names; None means the output
    and down projections of the architecture. An attention output is split into heads, any other
    layer into channels."""
    num_layers: Layers = "auto"
    lr: Positive | None = None
    """Learning rate of AdamW on the columns; None means {default_lr}."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of the columns towards their pretrained values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.o_ratio and not self.d_ratio:
            raise InputError("o_ratio and d_ratio are both 0, so nothing would be trained")

    @property
    def starts_from_rows(self) -> bool:
        """Whether the selection of columns depends on training rows."""
        return self.selection in LEARNED

    @property
    def start_alike(self) -> str:
        """All selections except `random` give every member the same columns."""
        return (
            ""
            if self.selection == "random"
            else "choose selection=random, which gives each member other columns"
        )

    def targets(self, model: nn.Module) -> list[str]:
        """Return the layers to select columns from; see `column_targets`."""
        from bayeslora.adapters.s2ft import column_targets

        return column_targets(model, self)

    def make_sites(
        self,
        model: nn.Module,
        hosts: Mapping[str, nn.Linear],
        generator: Generator,
        *,
        blank: bool = False,
    ) -> list[Site]:
        """Return a `Columns` for each layer, without columns if `blank`."""
        import torch

        from bayeslora.adapters.s2ft import Columns, choose_columns, units_at

        columns: Mapping[str, Tensor] = {}
        if not blank:
            units = units_at(model, list(hosts), self)
            weights = {name: host.get_parameter("weight") for name, host in hosts.items()}
            columns = choose_columns(units, weights, self, generator)
        none = torch.zeros(0, dtype=torch.int64)
        return [Columns(name, host, columns.get(name, none)) for name, host in hosts.items()]

    def check_start(self, model: nn.Module, names: Sequence[str]) -> None:
        """Check that the models to avoid leave enough columns; see `free_units`."""
        from bayeslora.adapters.s2ft import free_units, units_at

        free_units(units_at(model, names, self), self)

    def begin(self, rows: TrainingRows) -> None:
        """Select the columns of the sites by training rows."""
        import torch

        from bayeslora.adapters.s2ft import begin_by_gradient, choose_columns, free_units, units_at

        sites = [cast("Columns", site) for site in rows.sites]
        units = units_at(rows.model, [site.name for site in sites], self)
        if self.selection == "gradient":
            begin_by_gradient(
                sites,
                units,
                lambda: rows.backward(self.context_rows),
                largest=self.largest,
                free=free_units(units, self),
            )
            return
        moments = rows.moments(self.context_rows)
        weights: dict[str, Tensor] = {site.name: site.weight for site in sites}
        chosen = choose_columns(units, weights, self, torch.Generator(), moments)
        for site in sites:
            site.begin(chosen[site.name])


@dataclass(frozen=True)
class LISA(LayerSampling, Adapter):
    """Layer sampling over the backbone's own layers: a few whole layers train at a time.

        every K steps:  draw γ of the last N layers
        every step:     θ_l ← AdamW(θ_l) for the drawn layers l ;   the others rest

    K is `interval`, γ is `num_active`, and N is `num_layers`.
    """

    name: ClassVar[str] = "lisa"
    has_sites: ClassVar[bool] = False
    summary: ClassVar[str] = "whole layers of the backbone train, a few at a time"
    use: ClassVar[str] = "Full-rank training of whole layers, with the memory of a few of them."
    source: ClassVar[str] = "Pan et al. 2024, arXiv 2403.17919"
    parameters: ClassVar[str] = "all layers that are drawn"
    default_lr: ClassVar[float] = 3e-4

    num_layers: Count | None = 6
    """Number of last transformer layers to draw from; None means all. The layers below run once per
    text."""
    train_embedding: bool = False
    """Whether the embedding trains at every step, as published. It has most parameters of a small
    model, and no layer's outputs can be cached while it trains."""
    lr: Positive | None = None
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of matrices towards zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_layers is not None:
            # `weights` are checked later: a backbone may have fewer than `num_layers` layers.
            self._check_active(self.num_layers)

    @property
    def layer_sampling(self) -> LayerSampling:
        """These options themselves."""
        return self

    def first_layer(
        self, model: nn.Module, names: Sequence[str], *, is_cut: bool
    ) -> tuple[str, int]:
        """Return the list of layers and the lowest trainable one; 0 if the embedding trains."""
        from bayeslora.layer_list import find_layers

        path, layers = find_layers(model)
        return path, 0 if self.train_embedding else self._lowest(len(layers))

    def full_layers(self, model: nn.Module, after: Callable[[], Collection[str]]) -> FullLayers:
        """Return the upper layers, with copies of their parameters.

        Raises:
            InputError: The layers cannot be identified, or are fewer than `num_active`.
        """
        from bayeslora.adapters.layer_sampling import FullLayers
        from bayeslora.layer_list import find_layers

        _, layers = find_layers(model)
        start = self._lowest(len(layers))
        self.check_layers(len(layers) - start)
        return FullLayers(model, after(), start=start, train_embedding=self.train_embedding)

    def _lowest(self, num_layers: int) -> int:
        """Return the index of the lowest trainable layer."""
        return 0 if self.num_layers is None else max(0, num_layers - self.num_layers)

    def further_optimizers(self, network: Adapted) -> Sequence[Optimizer]:
        """Return AdamW on all trainable parameters."""
        full = cast("FullLayers", network.full)
        return [full.optimizer(self.learning_rate, self.weight_decay)]


@dataclass(frozen=True)
class EMTAL(LowRankAdapter):
    """LoRA on attention and feed-forward layers, with a gate over experts that fades out.

    The hidden units of each feed-forward network are grouped into experts of equal size by their
    weights. While training, a router weighs the experts for each token; its influence is `fade`,
    1 at first, and 0 from `fade_to` on and in every evaluation. What is left is the dense network
    with plain LoRA.
    """

    name: ClassVar[str] = "emtal"
    has_dropout: ClassVar[bool] = True
    is_free: ClassVar[bool] = True
    summary: ClassVar[str] = (
        "LoRA with a gate over groups of hidden units that fades out in training"
    )
    use: ClassVar[str] = (
        "LoRA that includes feed-forward layers, guided by experts during training."
    )
    source: ClassVar[str] = "Zhong et al. 2024, arXiv 2501.06884"
    parameters: ClassVar[str] = "r (in + out) per layer; K in a router, unused after training"
    default_lr: ClassVar[float] = 1e-3
    input_dependent: ClassVar[str] = (
        "its router weights hidden units by token until it has faded out"
    )
    only_with: ClassVar[OnlyWith] = {}

    r: Count = 8
    alpha: Positive | None = None
    """The change is multiplied by `alpha / r`; None means `r`."""
    num_experts: Count = 16
    """Number K of experts per feed-forward network, a divisor of its hidden units; 1 is LoRA."""
    router_temperature: Positive = 5.0
    """Temperature τ of the router's softmax; a large value keeps the experts' weights near 1."""
    fade_from: UpToOne = 0.25
    """Share of the steps before the router starts to fade out."""
    fade_to: UpToOne = 0.75
    """Share of the steps after which its influence is 0; 0 trains without it."""
    init: Literal["gaussian", "zero"] = "zero"
    """`zero` starts from the pretrained network, with the second factor and the router at 0;
    `gaussian` draws both factors from N(0, 0.02²), as in the published code."""
    dropout: BelowOne = 0.0
    target_modules: Texts | None = None
    """Endings of dotted module names, or regular expressions for whole names, of layers with LoRA
    besides the feed-forward layers; None means all other linear layers of the same transformer
    layers, which are those of the attention."""
    num_layers: Layers = "auto"
    lr: Positive | None = None
    """Learning rate of AdamW on factors and router; None means {default_lr}."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of factors and router."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fade_to < self.fade_from:
            raise InputError(
                f"fade_to must be at least fade_from = {self.fade_from!r}, got {self.fade_to!r}"
            )

    def fade(self, share: float) -> float:
        """Return the router's influence, from 1 to 0, after a share of the training steps."""
        if share >= self.fade_to:
            return 0.0
        if share <= self.fade_from:
            return 1.0
        return (self.fade_to - share) / (self.fade_to - self.fade_from)

    def targets(self, model: nn.Module) -> list[str]:
        """Return the layers to adapt; see `emtal.expert_targets`."""
        from bayeslora.adapters.emtal import expert_targets

        return expert_targets(model, self)

    def start(self, weight: Tensor, generator: Generator) -> Factors:
        """Return LoRA's initial factors, or those of the published code."""
        from bayeslora.adapters.emtal import gaussian
        from bayeslora.adapters.factors import kaiming_zero

        out_features, in_features = weight.shape
        begin = gaussian if self.init == "gaussian" else kaiming_zero
        return begin(out_features, in_features, self.r, generator)

    def make_sites(
        self,
        model: nn.Module,
        hosts: Mapping[str, nn.Linear],
        generator: Generator,
        *,
        blank: bool = False,
    ) -> list[Site]:
        """Return a `LowRank` for each layer, gated if its outputs are hidden units.

        Raises:
            InputError: `num_experts` does not divide the hidden units, or the rank is too large.
        """
        from bayeslora.adapters.emtal import check_divides, expert_sites, find_ffns

        blocks = {block.up: block for block in find_ffns(model) if block.up in hosts}
        for block in blocks.values():
            check_divides(hosts[block.up].out_features, self.num_experts, block.up)
        return expert_sites(self, hosts, blocks, generator, blank=blank)

    def callbacks(self, network: Adapted) -> Sequence[StepHook]:
        """Return the callback that sets the router's influence before each step."""
        from bayeslora.adapters.emtal import Fading

        return [Fading(self, network.sites)]


ROUTER_DECAY = 1e-5


@dataclass(frozen=True)
class ILoRA(LoRA):
    """LoRA whose rank is split among experts, weighted by a gate for each example."""

    name: ClassVar[str] = "ilora"
    summary: ClassVar[str] = "LoRA split into experts, weighted by a gate for each example"
    use: ClassVar[str] = "Sequences of users or items with different kinds of examples."
    source: ClassVar[str] = "Kong et al. 2024, arXiv 2408.10159"
    parameters: ClassVar[str] = "r (in + out) per layer, and num_experts (context + 1)"

    r: Count = 8
    """Rank of the change of each adapted weight, a multiple of `num_experts`."""
    num_experts: Count = 4
    """Number of parts of the rank, each with its own gate; 1 is LoRA."""
    context: Literal["auto", "history", "text"] = "auto"
    """Input of the gate: the `history` of items, encoded by which items occur together in the
    training rows, or the frozen backbone's feature of the `text`. `auto` means the history if the
    rows have one, else the text."""
    gate_lr_factor: Positive = 0.3
    """Learning rate of the router, relative to that of the factors."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.r % self.num_experts:
            raise InputError(
                "r must be a multiple of num_experts, since all experts have the same rank; got "
                f"r={self.r} and num_experts={self.num_experts}"
            )

    @property
    def no_gate(self) -> str:
        """Another gate is impossible, since this adapter has its own."""
        return "it already has its own gate there"

    def check_rows(self, rows: Any) -> None:
        """Raise InputError if `context` is `history` and the rows have no history."""
        if self.context == "history" and getattr(rows, "history", None) is None:
            raise InputError(
                f"{rows.source}: context=history needs rows with a history of items (columns "
                "history, candidates, answer); leave context out to gate by the text"
            )

    def conditioning(self, sites: Sequence[Site], num_features: int) -> Conditioning:
        """Return the gate, attached to the sites."""
        from bayeslora.adapters.ilora import InstanceGate

        gate = InstanceGate(self.num_experts, num_features, self.context)
        gate.attach(sites)
        return gate

    def further_optimizers(self, network: Adapted) -> Sequence[Optimizer]:
        """Return the optimiser of the router."""
        from torch.optim import AdamW

        router = cast("Conditioning", network.conditioning)
        group = {"params": list(router.parameters()), "name": "router"}
        rate = self.gate_lr_factor * self.learning_rate
        return [AdamW([group], lr=rate, weight_decay=ROUTER_DECAY)]


_TEXTS = (0.0, 0.025, 0.05, 0.1)
_IMAGES = (0.0, 2 / 255, 4 / 255, 8 / 255)


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
        from bayeslora.adapters.amt import Pool
        from bayeslora.adapters.factors import blank_factors, kaiming_zero
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


@dataclass(frozen=True)
class Frozen(Adapter):
    """No adapter: only the last layer is fitted.

        z = W φ(x)        φ is frozen, W is fitted

    This takes one pass over the data, and seconds.
    """

    name: ClassVar[str] = "none"
    has_sites: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    summary: ClassVar[str] = "no adapter: a last layer on frozen features, fitted in seconds"
    use: ClassVar[str] = (
        "A first result in seconds, or very few labelled examples on a strong backbone."
    )
    source: ClassVar[str] = "Alain and Bengio 2017, arXiv 1610.01644"
    parameters: ClassVar[str] = "none"

    pooling: Literal["auto", "last", "mean"] = "auto"
    """Feature of a text: the state of its `last` token, or the `mean` over its tokens. `auto` means
    the last token of a decoder with a template (where it would name the class), the class token of
    a vision model, and the mean otherwise."""

    def first_layer(
        self, model: nn.Module, names: Sequence[str], *, is_cut: bool
    ) -> tuple[str, int]:
        """Return the last layer of a cut backbone, from which a greater depth continues.

        A whole backbone needs no cached states.
        """
        from bayeslora.layer_list import find_layers

        if not is_cut:
            return "", 0
        path, layers = find_layers(model)
        return path, len(layers) - 1

    def pooling_of(self, usual: Pooling, *, reads_end: bool) -> Pooling:
        """Return the chosen feature."""
        auto: Pooling = "last" if reads_end else "mean"
        auto = "first" if usual == "first" else auto
        poolings: dict[str, Pooling] = {"auto": auto, "last": "last", "mean": "mean"}
        return poolings[self.pooling]
