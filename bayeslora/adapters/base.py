"""Base classes of adapters, as the engine sees them. This module is free of torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self

from annotated_types import MinLen

from bayeslora import options
from bayeslora.errors import InputError, located
from bayeslora.option_checks import (
    BelowOne,
    Count,
    CountOrZero,
    NotNegative,
    OnlyWith,
    Options,
    Pooling,
    Positive,
    Texts,
)

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn
    from torch.optim import Optimizer

    from bayeslora.adapters.layer_sampling import FullLayers
    from bayeslora.adapters.low_rank import Factors
    from bayeslora.adapters.site import Site
    from bayeslora.adapters.stats import SecondMoment
    from bayeslora.conditioning import Conditioning


_LONGEST_INTERVAL = 20
_DRAWS_A_LAYER = 4


@dataclass(frozen=True)
class LayerSampling(Options):
    """Train a few layers at a time; they are drawn anew every `interval` steps."""

    name: ClassVar[str] = "layer_sampling"
    summary: ClassVar[str] = "train the adapters of a few randomly drawn layers at a time"
    source: ClassVar[str] = "Pan et al. 2024, arXiv 2403.17919, for whole layers; ours for adapters"
    parameters: ClassVar[str] = "none"

    num_active: Count = 2
    """Number of layers that train at a time."""
    interval: Count | None = None
    """Optimiser steps between draws; None means as many as give each layer about four draws, 1 to
    20."""
    mode: Literal["cycle", "fixed", "uniform", "weighted"] = "uniform"
    """How layers are drawn: `uniform` (as published), `cycle` (each layer once before any repeats),
    `weighted` (in proportion to `weights`), or `fixed` (one draw for the whole fit, as a
    control)."""
    weights: Annotated[tuple[NotNegative, ...], MinLen(1)] | None = None
    """For `weighted`: one number >= 0 per layer, lowest layer first; a layer is drawn in proportion
    to its number, at most in every draw."""
    state: Literal["drop", "keep", "offload"] = "drop"
    """Optimiser state of a layer that stops training: `drop` discards it, `keep` keeps it, and
    `offload` moves it to CPU memory."""
    ramp: CountOrZero = 0
    """Steps after each draw in which the learning rate of the drawn layers rises; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.weights is None) == (self.mode == "weighted"):
            raise InputError(
                "weights must be given for mode 'weighted', one number >= 0 per layer, and for "
                f"no other mode; got mode {self.mode!r} and weights {self.weights!r}"
            )
        if self.weights is not None and sum(map(bool, self.weights)) < self.num_active:
            raise InputError(
                f"at least num_active = {self.num_active} of the weights must be > 0, got "
                f"{list(self.weights)}"
            )

    def check_layers(self, num_layers: int) -> None:
        """Raise InputError if the options do not fit `num_layers` layers.

        Raises:
            InputError: `num_active` exceeds `num_layers`, or `weights` has another length.
        """
        self._check_active(num_layers)
        if self.weights is not None and len(self.weights) != num_layers:
            raise InputError(
                f"weights must have one number for each of the {num_layers} layers to draw from, "
                f"got {len(self.weights)}"
            )

    def _check_active(self, num_layers: int) -> None:
        if self.num_active > num_layers:
            raise InputError(
                f"num_active must be from 1 to {num_layers}, the number of layers to draw from, "
                f"got {self.num_active}"
            )

    def interval_of(self, num_steps: int, num_layers: int) -> int:
        """Return the steps between draws in a fit of `num_steps` over `num_layers` layers."""
        if self.interval is not None:
            return self.interval
        interval = num_steps * self.num_active // (_DRAWS_A_LAYER * num_layers)
        return max(1, min(_LONGEST_INTERVAL, interval))


USUAL_LAYERS = 6
"""Layers at the top that `num_layers="auto"` adapts for texts."""


def layers_that_answer(layers: int) -> int:
    """Return how many layers `num_layers="auto"` adapts if a language model scores options.

    Half of them: `reports/archive/question-layers` compared this with 6 and with all layers.
    """
    return max(USUAL_LAYERS, layers // 2)


Layers = Count | Literal["auto"] | None
"""Number of last transformer layers."""


class StepHook:
    """Takes part in the steps of a training; by default it does nothing.

    A resumed training creates new hooks: their state must follow from the step, or be among the
    tensors of the network.
    """

    def before_step(self, step: int, num_steps: int, optimizer: Optimizer) -> None:
        """Prepare a step, before its pass; its learning rates are set.

        Args:
            step: Number of steps taken so far.
            num_steps: Steps of the whole training.
            optimizer: Optimiser of adapter and head.
        """

    def after_step(self, step: int, optimizer: Optimizer) -> None:
        """Follow the optimiser's step; arguments are those of `before_step`."""

    def finish(self) -> None:
        """Clean up after the last step, or after an exception."""


class Adapted(Protocol):
    """A network with an adapter, as an optimiser sees it."""

    @property
    def sites(self) -> Sequence[Site]:
        """The adapted layers."""

    @property
    def full(self) -> FullLayers | None:
        """The layers that are trained in full, for adapters without sites."""

    @property
    def conditioning(self) -> Conditioning | None:
        """Makes the sites depend on the example; None if they do not."""


class TrainingRows(Protocol):
    """What the engine offers an adapter whose initialisation depends on the training rows."""

    @property
    def sites(self) -> Sequence[Site]:
        """The adapted layers; their change is still zero."""

    @property
    def model(self) -> nn.Module:
        """The backbone that contains these layers."""

    def moments(self, count: int, texts: Sequence[str] | None = None) -> Mapping[str, SecondMoment]:
        """Return the second moment of the inputs of each site, by the site's name.

        Args:
            count: Maximal number of rows to run, evenly spread.
            texts: Texts to run instead of the training rows.
        """

    def backward(self, count: int) -> None:
        """Accumulate the loss gradient of a last layer fitted to the frozen features.

        Args:
            count: Maximal number of rows to run, evenly spread.
        """


class Adapter(Options):
    """Base class of adapter options: a frozen dataclass with the properties of the method.

    Subclasses set the class variables that differ from the defaults here and override methods. The
    engine uses only this interface and never checks for a specific adapter class.

    Attributes:
        name: Of the method on the command line and in files.
        summary: A few words for lists.
        use: When to choose it, in one sentence; empty where that is not said.
        source: Of the method.
        parameters: What the method trains, for lists.
        default_lr: Learning rate where none is given.
        only_with: Options that have no effect without another.
        has_sites: Whether modules of ours stand in the place of linear layers.
        has_factors: Whether these are low-rank, so that a posterior can be over their factors.
        has_dropout: Whether the adapter has a dropout of its own.
        is_free: Whether the first factor is free and starts at random, as LoRA's.
        from_weight: Whether the factors start from a part of the pretrained weight.
        trains: Whether anything of the backbone changes.
        trains_itself: How the adapter trains by its own `train`, in place of steps with the last
            layer; empty where it does not.
        input_dependent: Why the change of a weight is another one for each input while it trains;
            empty where it is one matrix.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    use: ClassVar[str] = ""
    source: ClassVar[str]
    parameters: ClassVar[str]
    default_lr: ClassVar[float] = 0.0
    only_with: ClassVar[OnlyWith] = {}

    has_sites: ClassVar[bool] = True
    has_factors: ClassVar[bool] = False
    has_dropout: ClassVar[bool] = False
    is_free: ClassVar[bool] = False
    from_weight: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    trains_itself: ClassVar[str] = ""
    input_dependent: ClassVar[str] = ""

    # Meaning of these options where an adapter states no other.
    lr: Positive | None = None
    """Learning rate of AdamW; None means {default_lr}."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay."""
    dropout: BelowOne = 0.0
    """Dropout probability of the adapter's inputs during training."""
    target_modules: Texts | None = None
    """Endings of dotted module names, or regular expressions for whole names; None means the query
    and value projections of the architecture."""
    num_layers: Layers = None
    """Number of last transformer layers that get adapters; None means all, `auto` means 6, or half
    of a decoder's layers if the options of questions are scored one by one."""

    @property
    def learning_rate(self) -> float:
        """The learning rate: `lr`, or `default_lr`."""
        return self.default_lr if self.lr is None else self.lr

    def with_rate(self) -> Self:
        """Return these options with an explicit learning rate."""
        return self._with(lr=self.learning_rate) if self.trains else self

    @property
    def top_layers(self) -> int | None:
        """`num_layers` for texts, with `auto` resolved; None for all."""
        return USUAL_LAYERS if self.num_layers == "auto" else self.num_layers

    def with_layers(self, usual: int) -> Self:
        """Return these options with `usual` in place of `num_layers="auto"`."""
        return self._with(num_layers=usual) if self.num_layers == "auto" else self

    def with_texts(self, read: Callable[[str], Sequence[str]], held_out: Collection[str]) -> Self:
        """Return these options with files of texts replaced by the texts.

        Args:
            read: Returns the texts of a data file.
            held_out: Validation and test texts.

        Raises:
            InputError: The file cannot be read, or the texts are among those held out.
        """
        return self

    def _with(self, **changes: Any) -> Self:
        config: Any = self
        changed: Self = replace(config, **changes)
        return changed

    @property
    def files(self) -> tuple[str, ...]:
        """Data files that the adapter reads; a model must not overwrite them."""
        return ()

    def recorded(self) -> dict[str, Any]:
        """Return the options for a model's record, JSON-ready."""
        return options.as_mapping(self)

    @classmethod
    def table_name(cls, recorded: Mapping[str, Any]) -> str:
        """Return the name of the adapter in tables and reports.

        Args:
            recorded: The options in a model's record.
        """
        return str(recorded["name"])

    @property
    def layer_sampling(self) -> LayerSampling | None:
        """The adapter's own layer sampling; None if all layers train."""
        return None

    @property
    def start_alike(self) -> str:
        """How to diversify ensemble members that would all start alike; empty if they differ."""
        return "choose 'lora' or 'polar', which start at random" if self.from_weight else ""

    @property
    def starts_from_rows(self) -> bool:
        """Whether the initialisation depends on texts; `begin` is then called before training."""
        return False

    @property
    def no_gate(self) -> str:
        """Why the factors do not support a gate during training; empty if they do."""
        return ""

    def first_layer(
        self, model: nn.Module, names: Sequence[str], *, is_cut: bool
    ) -> tuple[str, int]:
        """Return the list of transformer layers and the first layer whose output training changes.

        Args:
            model: The backbone.
            names: Names of the sites.
            is_cut: Whether the backbone's upper layers were dropped.

        Returns:
            The dotted name of the list, empty if unknown, and the index of the layer: the layers
            below it run once per text.
        """
        from bayeslora.adapters.targets import first_adapted_layer, layers_path

        return layers_path(names), first_adapted_layer(names)

    def pooling_of(self, usual: Pooling, *, reads_end: bool) -> Pooling:
        """Return the pooling that turns the states of a text into its feature.

        Args:
            usual: Default of this kind of backbone.
            reads_end: Whether the class would be named at the end of a template.
        """
        return usual

    def targets(self, model: nn.Module) -> list[str]:
        """Return the dotted names of the linear layers to adapt, in the model's own order.

        Raises:
            InputError: See `find_targets`.
        """
        from bayeslora.adapters.targets import find_targets

        return find_targets(model, self.target_modules, self.top_layers)

    def make_sites(
        self,
        model: nn.Module,
        hosts: Mapping[str, nn.Linear],
        generator: Generator,
        *,
        blank: bool = False,
    ) -> list[Site]:
        """Return the adapted layers, not yet inserted into the model; their change is zero.

        Args:
            model: The backbone.
            hosts: The linear layers to adapt, by their dotted names.
            generator: Source of randomness, on the CPU.
            blank: Whether to skip work that loaded tensors or `begin` will replace.

        Raises:
            InputError: The adapter does not fit a layer.
        """
        raise NotImplementedError

    @property
    def trains_with_head(self) -> bool:
        """Whether the adapter takes gradient steps in alternation with the last layer."""
        return self.trains and not self.trains_itself

    def train(self, fit: Any) -> dict[str, float]:
        """Train the sites of a network, if `trains_itself`, before its last layer is fitted.

        Args:
            fit: The `Training`: network, plan, rows, and the directory for checkpoints.

        Returns:
            Figures for the record.
        """
        raise NotImplementedError

    @property
    def has_members(self) -> bool:
        """Whether several variants of the trained network predict, as in an ensemble."""
        return False

    def variants(self, network: Any, rows: Any) -> Sequence[Callable[[], None]]:
        """Return functions that put each variant of a trained network in place.

        Args:
            network: A network whose adapter `trains_itself`.
            rows: `PreparedTexts` of the classes to distinguish, with labels.

        Raises:
            InputError: These rows do not determine the variants.
        """
        raise NotImplementedError

    def for_new_classes(self, requested: Adapter) -> Self:
        """Return these options with those of `requested`, of the same class, that may change.

        Raises:
            InputError: None may change.
        """
        raise InputError(f"adapter {self.name!r} has no options for new classes; leave adapter out")

    def check_rows(self, rows: Any) -> None:
        """Raise InputError if the training rows lack something that the adapter needs.

        Args:
            rows: The `Examples`.
        """

    def conditioning(self, sites: Sequence[Site], num_features: int) -> Conditioning | None:
        """Return the module that makes the sites depend on the example; None if they do not.

        Args:
            sites: Sites in the backbone; the module is attached to them.
            num_features: Width d of the backbone's features.
        """
        return None

    def check_start(self, model: nn.Module, names: Sequence[str]) -> None:
        """Raise InputError if an initialisation from rows is impossible, before any row is run.

        Args:
            model: The backbone with the sites in it.
            names: Names of the sites.
        """

    def begin(self, rows: TrainingRows) -> None:
        """Initialise the sites of a fresh network from training rows.

        Args:
            rows: The rows and the sites.

        Raises:
            InputError: The rows do not allow this initialisation.
        """

    def full_layers(
        self, model: nn.Module, after: Callable[[], Collection[str]]
    ) -> FullLayers | None:
        """Return the layers of the backbone that train in full; None for adapters with sites.

        Args:
            model: The backbone; its trainable parameters are replaced by copies.
            after: Returns the names of the modules that run after the layers.

        Raises:
            InputError: The backbone has no such layers.
        """
        return None

    def callbacks(self, network: Adapted) -> Sequence[StepHook]:
        """Return hooks of the training steps, such as a schedule of the adapter."""
        return ()

    def further_optimizers(self, network: Adapted) -> Sequence[Optimizer]:
        """Return optimisers, with named groups, of what is trained besides the sites."""
        return ()

    def manifold_optimizer(self, sites: Sequence[Site]) -> Optimizer:
        """Return the optimiser, with one group, of the parameters on a manifold."""
        raise NotImplementedError


class LowRankAdapter(Adapter):
    """An adapter with `LowRank` sites, whose factors `start` initialises.

    Attributes:
        scale: The factor s in front of the product of the factors.
    """

    has_factors: ClassVar[bool] = True
    r: Count = 1
    """Rank of the change of each adapted weight."""

    alpha: Positive | None = None
    """The product of the factors is multiplied by `alpha / r`; None means `r`."""

    @property
    def scale(self) -> float:
        """The factor s in front of the product of the factors."""
        return 1.0 if self.alpha is None else self.alpha / self.r

    def start(self, weight: Tensor, generator: Generator) -> Factors:
        """Return the initial factors of one layer; their change is zero.

        Not called if `begin` replaces factors that are taken from the weight.

        Args:
            weight: [out, in], frozen.
            generator: Source of randomness, on the CPU.

        Raises:
            InputError: The rank exceeds the layer's size.
        """
        raise NotImplementedError

    def make_sites(
        self,
        model: nn.Module,
        hosts: Mapping[str, nn.Linear],
        generator: Generator,
        *,
        blank: bool = False,
    ) -> list[Site]:
        """Return a `LowRank` for each layer; see `Adapter.make_sites`."""
        from bayeslora.adapters.low_rank import LowRank, blank_factors

        starts = []
        for name, host in hosts.items():
            with located(name):
                # A start from the weight costs a decomposition; a random one costs nothing.
                starts.append(
                    blank_factors(host.out_features, host.in_features, self.r)
                    if blank and self.from_weight
                    else self.start(host.weight, generator)
                )
        return [
            LowRank(name, host, factors, self.scale, self.dropout)
            for (name, host), factors in zip(hosts.items(), starts, strict=True)
        ]
