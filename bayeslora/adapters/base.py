"""Base classes of adapters, as the engine sees them. This module is free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from bayeslora import options
from bayeslora.errors import located
from bayeslora.option_checks import BelowOne, Count, NotNegative, Options, Pooling, Positive, Texts

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn
    from torch.optim import Optimizer

    from bayeslora.adapters.low_rank import Factors
    from bayeslora.adapters.site import Companion, Site


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

    A resumed training creates new hooks: their state must follow from the step, be among the
    tensors of the network, or be returned by `state`.
    """

    def before_step(self, step: int, num_steps: int, optimizer: Optimizer) -> None:
        """Prepare a step, before its pass; its learning rates are set.

        Args:
            step: Number of steps taken so far.
            num_steps: Steps of the whole training.
            optimizer: Optimiser of adapter and head.
        """

    def loss(self, rows: Any, weight: Tensor) -> Tensor | None:
        """Return what is added to the adapter's loss of a batch, in nats per row; None for nothing.

        Args:
            rows: The `Features` of the batch with their labels, with a graph.
            weight: [C, d] mean weights of the last layer.
        """
        return None

    def after_step(self, step: int, optimizer: Optimizer) -> None:
        """Follow the optimiser's step; arguments are those of `before_step`."""

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint needs."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""

    def record(self, num_steps: int) -> dict[str, Any]:
        """Return entries for the results in a model's record, JSON-ready, after so many steps."""
        return {}

    def finish(self) -> None:
        """Clean up after the last step, or after an exception."""


class Adapter(Options):
    """Base class of adapter options: a frozen dataclass with the properties of the method.

    Subclasses set the class variables that differ from the defaults here and override methods. The
    engine uses only this interface and never checks for a specific adapter class.

    Attributes:
        name: Of the method on the command line and in files.
        summary: A few words for lists.
        use: When to choose it, in one sentence; empty where that is not said.
        source: Of the method.
        default_lr: Learning rate where none is given.
        has_sites: Whether modules of ours stand in the place of linear layers.
        has_factors: Whether these are low-rank, so that a posterior can be over their factors.
        has_dropout: Whether the adapter has a dropout of its own.
        is_free: Whether the first factor is free and starts at random, as LoRA's.
        from_weight: Whether the factors start from a part of the pretrained weight.
        trains: Whether anything of the backbone changes.
        trains_itself: How the adapter trains by its own `train`, in place of steps with the last
            layer; empty where it does not.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    use: ClassVar[str] = ""
    source: ClassVar[str]
    default_lr: ClassVar[float] = 0.0

    has_sites: ClassVar[bool] = True
    has_factors: ClassVar[bool] = False
    has_dropout: ClassVar[bool] = False
    is_free: ClassVar[bool] = False
    from_weight: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    trains_itself: ClassVar[str] = ""

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

    def settled(self, data: Any) -> Self:
        """Return the options with what depends on the rows resolved, before anything is loaded.

        Args:
            data: The `TrainingData`: training rows, held-out rows and their columns.

        Raises:
            InputError: The rows lack something that the adapter needs, or an option does not fit
                them.
        """
        return self

    def refuses(self, posterior: Any) -> str:
        """Return why a posterior cannot be combined with the adapter; empty if it can.

        Args:
            posterior: The `Posterior`, or its class.
        """
        if self.trains_itself and (posterior.from_start or posterior.over_trained):
            return f"{self.trains_itself} and supports only posteriors over the last layer"
        if self.trains and not self.has_sites and posterior.needs_sites():
            return "has no sites, whose weights the posterior is over"
        return ""

    def _with(self, **changes: Any) -> Self:
        config: Any = self
        changed: Self = replace(config, **changes)
        return changed

    def recorded(self) -> dict[str, Any]:
        """Return the options for a model's record, JSON-ready."""
        return options.as_mapping(self)

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

    def merge_for(self, network: Any, rows: Any) -> None:
        """Put a trained network in the form in which it predicts the classes of rows.

        Args:
            network: A network whose adapter `trains_itself`.
            rows: `PreparedTexts` of the classes to distinguish, with labels.

        Raises:
            InputError: These rows do not determine the form.
        """

    def companion(self, network: Any, rows: Any = None) -> Companion | None:
        """Return what is trained besides the sites, or in place of them; None for nothing.

        Args:
            network: A fresh network whose sites are in place.
            rows: The training rows, `Examples`; None if tensors will be loaded.

        Raises:
            InputError: The backbone does not support it.
        """
        return None

    def begin(self, fit: Any) -> None:
        """Initialise sites and companion of a fresh network from training rows.

        Args:
            fit: The `Training`: network, plan and prepared rows.

        Raises:
            InputError: The rows do not allow this initialisation.
        """

    def hooks(self, fit: Any) -> Sequence[StepHook]:
        """Return hooks of the training steps, such as a schedule or a loss of the adapter.

        Args:
            fit: The `Training`: network, plan, rows and number of steps.

        Raises:
            InputError: The adapter cannot be trained in this fit.
        """
        return ()

    def advice(self, figures: Mapping[str, float]) -> str:
        """Return a warning about the figures of a finished fit; empty if there is none.

        Args:
            figures: Those of the adapter in the record.
        """
        return ""

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
