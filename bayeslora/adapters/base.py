"""What the engine asks of every adapter; free of torch, as all options are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self

from bayeslora import options
from bayeslora.errors import InputError
from bayeslora.option_checks import (
    BelowOne,
    Count,
    NotNegative,
    OnlyWith,
    Options,
    Pooling,
    Positive,
)

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn
    from torch.optim import Optimizer
    from transformers import TrainerCallback

    from bayeslora.adapters.episodes import Episodes
    from bayeslora.adapters.factors import Factors
    from bayeslora.adapters.layer_sampling.options import LayerSampling
    from bayeslora.adapters.layer_sampling.whole_layers import FullLayers
    from bayeslora.adapters.optimizers import AlternatingOptimizer, Euclidean
    from bayeslora.adapters.site import Site
    from bayeslora.adapters.stats import SecondMoment
    from bayeslora.conditioning import Conditioning


USUAL_LAYERS = 6
"""Layers at the top that `num_layers="auto"` adapts for texts."""


def layers_that_answer(layers: int) -> int:
    """Return what `num_layers="auto"` adapts where a language model itself scores options.

    Half of its layers: `benchmarks/question_layers` compared it with 6 and with all.
    """
    return max(USUAL_LAYERS, layers // 2)


class Adapted(Protocol):
    """A network with an adapter, as an optimiser sees it."""

    @property
    def sites(self) -> Sequence[Site]:
        """The adapted layers."""

    @property
    def full(self) -> FullLayers | None:
        """The layers that train whole, where there are no sites."""

    @property
    def conditioning(self) -> Conditioning | None:
        """What makes the sites depend on the example, where they do."""


class TrainingRows(Protocol):
    """What an adapter may ask of the engine when its start depends on the training rows."""

    @property
    def sites(self) -> Sequence[Site]:
        """The adapted layers, which change nothing yet."""

    @property
    def model(self) -> nn.Module:
        """The backbone with these layers in it."""

    def moments(self, count: int, texts: Sequence[str] | None = None) -> Mapping[str, SecondMoment]:
        """Return the second moments of the inputs of each site, by the site's name.

        Args:
            count: Rows that are run, at most, evenly spread.
            texts: Run in the place of the training rows.
        """

    def backward(self, count: int) -> None:
        """Leave the gradient of the loss of a last layer that is fitted to the frozen features.

        Args:
            count: Rows that are run, at most, evenly spread.
        """


class Adapter(Options):
    """Options of an adapter: a frozen dataclass that says what the method is and what it offers.

    Subclasses set the class variables that differ from the defaults here and override methods. The
    engine reads these and calls the methods, and knows no adapter by its class. Methods import
    torch when they are called, so that listing adapters stays quick.

    Attributes:
        name: Of the method on the command line and in files.
        summary: A few words for lists.
        use: When to choose it, in one sentence; empty where that is not said.
        source: Of the method.
        parameters: What the method trains, for lists.
        default_lr: Learning rate where none is given.
        long_lr: The same for fits of ten epochs or more; 0 takes `default_lr`.
        only_with: Options that have no effect without another.
        has_sites: Whether modules of ours stand in the place of linear layers.
        has_factors: Whether these are low-rank, so that a posterior can be over their factors.
        has_dropout: Whether the adapter has a dropout of its own.
        is_free: Whether the first factor is free and starts at random, as LoRA's.
        from_weight: Whether the factors start from a part of the pretrained weight.
        trains: Whether anything of the backbone changes.
        input_dependent: Why the change of a weight is another one for each input while it trains;
            empty where it is one matrix.
        trains_long: Whether more epochs help where no validation rows stop the training.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    use: ClassVar[str] = ""
    source: ClassVar[str]
    parameters: ClassVar[str]
    default_lr: ClassVar[float] = 0.0
    long_lr: ClassVar[float] = 0.0
    only_with: ClassVar[OnlyWith] = {}

    has_sites: ClassVar[bool] = True
    has_factors: ClassVar[bool] = False
    has_dropout: ClassVar[bool] = False
    is_free: ClassVar[bool] = False
    from_weight: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    input_dependent: ClassVar[str] = ""
    trains_long: ClassVar[bool] = False

    # Options of these names mean this, unless an adapter says something else of its own.
    lr: Annotated[Positive | None, "Learning rate of AdamW; None takes {default_lr}."] = None
    weight_decay: Annotated[NotNegative, "Decoupled weight decay."] = 0.0
    dropout: Annotated[
        BelowOne, "Probability that an input of the change is dropped while training."
    ] = 0.0
    target_modules: Annotated[
        tuple[str, ...] | None,
        "Endings of dotted module names, or regular expressions of whole names; None takes the "
        "architecture's own query and value projections.",
    ] = None
    num_layers: Annotated[
        Count | Literal["auto"] | None,
        "Adapters sit on this many of the last transformer layers; None means all, `auto` 6, or "
        "half of a decoder's layers where the options of questions are read one by one.",
    ] = None

    def learning_rate(self, *, long: bool = False) -> float:
        """Return the learning rate.

        Args:
            long: Whether there are many epochs for a higher rate to fall in.
        """
        if self.lr is not None:
            return self.lr
        return self.long_lr or self.default_lr if long else self.default_lr

    def with_rate(self, *, long: bool) -> Self:
        """Return these options with their learning rate written out; see `learning_rate`."""
        return self._with(lr=self.learning_rate(long=long)) if self.trains else self

    @property
    def top_layers(self) -> int | None:
        """`num_layers` as it is for texts; None for all."""
        return USUAL_LAYERS if self.num_layers == "auto" else self.num_layers

    def with_layers(self, usual: int) -> Self:
        """Return these options with `num_layers` written out, `usual` where it is `auto`."""
        return self._with(num_layers=usual) if self.num_layers == "auto" else self

    def with_texts(self, read: Callable[[str], Sequence[str]], held_out: Collection[str]) -> Self:
        """Return these options with the texts that they name by a file.

        Args:
            read: Returns the texts of a data file.
            held_out: Texts that choose or judge the model.

        Raises:
            InputError: The file cannot be read, or the texts are among those held out.
        """
        return self

    def _with(self, **changes: Any) -> Self:
        own: Any = self
        changed: Self = replace(own, **changes)
        return changed

    @property
    def files(self) -> tuple[str, ...]:
        """Data files that are read, which a model must not be written over."""
        return ()

    def recorded(self) -> dict[str, Any]:
        """Return the options for a model's record, JSON-ready."""
        return options.as_mapping(self)

    @classmethod
    def table_name(cls, recorded: Mapping[str, Any]) -> str:
        """Return what tables and reports call the adapter; most often its name.

        Args:
            recorded: The options as they are in a model's record.
        """
        return str(recorded["name"])

    @property
    def layer_sampling(self) -> LayerSampling | None:
        """Which layers train at a time, where the adapter itself decides; None for all."""
        return None

    @property
    def start_alike(self) -> str:
        """How to tell members of an ensemble apart, where all would start alike; else empty."""
        return "'lora' and 'polar' start at random" if self.from_weight else ""

    @property
    def starts_from_rows(self) -> bool:
        """Whether the start depends on texts, so that `begin` is called before training."""
        return False

    @property
    def no_gate(self) -> str:
        """Why nothing can stand between the factors while they train; empty where it can."""
        return ""

    def first_layer(
        self, model: nn.Module, names: Sequence[str], *, is_cut: bool
    ) -> tuple[str, int]:
        """Return the list of transformer layers and the first whose output training changes.

        Args:
            model: The backbone.
            names: Of the sites.
            is_cut: Whether the backbone's upper layers were dropped.

        Returns:
            The dotted name of the list, empty where none is known, and the number of the layer:
            those below it run once for each text.
        """
        from bayeslora.adapters.targets import first_adapted_layer, layers_path

        return layers_path(names), first_adapted_layer(names)

    def pooling_of(self, usual: Pooling, *, reads_end: bool) -> Pooling:
        """Return which state of a text is its feature, `last` or `mean`.

        Args:
            usual: Of a backbone of this kind.
            reads_end: Whether a template's end is where the class would be named.
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
        moments: Mapping[str, SecondMoment] | None = None,
        blank: bool = False,
    ) -> list[Site]:
        """Return the adapted layers, which are not in the model yet and change nothing.

        Args:
            model: The backbone.
            hosts: The linear layers to adapt, by their dotted names.
            generator: Source of randomness, on the CPU.
            moments: Second moments of the layers' inputs by name, for starts that need them.
            blank: Whether to leave out work that loaded tensors or `begin` will replace.

        Raises:
            InputError: The adapter does not fit a layer, or a second moment is missing.
        """
        raise NotImplementedError

    @property
    def episodes(self) -> Episodes | None:
        """How a pool of adapters trains on few-shot episodes; None where training is by rows."""
        return None

    @property
    def has_members(self) -> bool:
        """Whether members of a pool predict apart, a pass each, as an ensemble does."""
        return False

    def merged_as(self, other: Adapter) -> Self:
        """Return these options of a pool with the merge of others of the same class."""
        return self

    def mixtures(
        self, count: int, support: Callable[[int], tuple[Tensor, Tensor, float]]
    ) -> list[list[float]]:
        """Return the weights of a pool's members, one list for each network that predicts.

        Args:
            count: P, the members.
            support: Takes a member's number; returns cosines [N, C] of rows with the classes'
                prototypes, each row left out of its own, the labels [N], and the member's κ.

        Raises:
            InputError: The weights cannot be chosen by these rows.
        """
        raise NotImplementedError

    def check_rows(self, rows: Any) -> None:
        """Raise InputError if the adapter needs something that training rows lack.

        Args:
            rows: The `Examples`.
        """

    def conditioning(self, sites: Sequence[Site], num_features: int) -> Conditioning | None:
        """Return what makes the sites depend on the example; None where they do not.

        Args:
            sites: In the backbone already; what acts on them is attached here.
            num_features: Width d of the backbone's features.
        """
        return None

    def check_start(self, model: nn.Module, names: Sequence[str]) -> None:
        """Raise InputError where a start from rows cannot be, before any row is run.

        Args:
            model: The backbone with the sites in it.
            names: Of the sites.
        """

    def begin(self, rows: TrainingRows) -> None:
        """Initialise the sites of a fresh network from training rows.

        Args:
            rows: The rows and the sites.

        Raises:
            InputError: The rows do not give such a start.
        """

    def full_layers(
        self, model: nn.Module, after: Callable[[], Collection[str]]
    ) -> FullLayers | None:
        """Return the layers of the backbone that train whole; None for adapters with sites.

        Args:
            model: The backbone; parameters that train become copies of its own.
            after: Returns the names of the modules that run after the layers.

        Raises:
            InputError: The backbone has no such layers.
        """
        return None

    def callbacks(self, network: Adapted) -> Sequence[TrainerCallback]:
        """Return what follows the steps of a training, such as a schedule of the adapter's own.

        What is kept must follow from the step, or be among the tensors of the sites: a resumed
        training makes callbacks anew.
        """
        return ()

    def optimizer(
        self,
        network: Adapted,
        head_parameters: Iterable[nn.Parameter],
        head_lr: float,
        *,
        more: Iterable[nn.Parameter] = (),
        euclidean: Euclidean | None = None,
    ) -> AlternatingOptimizer:
        """Return the optimiser of an adapted network; see `optimizers.build_optimizer`.

        Raises:
            InputError: There is nothing to optimise, or the network was built for another adapter.
        """
        from bayeslora.adapters.optimizers import build_optimizer

        return build_optimizer(
            network.sites, head_parameters, self, head_lr, more=more, euclidean=euclidean
        )

    def manifold_optimizer(self, sites: Sequence[Site]) -> Optimizer:
        """Return the optimiser, of one group, of the parameters that live on a manifold.

        Raises:
            InputError: The adapter has none.
        """
        raise InputError(f"the sites have orthonormal factors, which {self.name!r} cannot train")


class LowRankAdapter(Adapter):
    """An adapter whose sites are `LowRank`: it says by `start` where their factors begin.

    Attributes:
        scale: The factor s in front of the product of the factors.
    """

    has_factors: ClassVar[bool] = True
    r: Annotated[Count, "Rank of the change of every adapted weight."] = 1

    @property
    def scale(self) -> float:
        """The factor s in front of the product of the factors."""
        raise NotImplementedError

    def start(
        self, weight: Tensor, generator: Generator, moment: SecondMoment | None = None
    ) -> Factors:
        """Return the factors that the adapter starts from on one layer; the change is zero there.

        Args:
            weight: [out, in], frozen.
            generator: Source of randomness, on the CPU.
            moment: Of the layer's inputs, where the start needs it.

        Raises:
            InputError: The rank exceeds the layer's size, or the second moment is missing.
        """
        raise NotImplementedError

    def make_sites(
        self,
        model: nn.Module,
        hosts: Mapping[str, nn.Linear],
        generator: Generator,
        *,
        moments: Mapping[str, SecondMoment] | None = None,
        blank: bool = False,
    ) -> list[Site]:
        """Return a `LowRank` for each layer; see `Adapter.make_sites`."""
        from bayeslora.adapters.factors import blank_factors
        from bayeslora.adapters.low_rank import LowRank

        starts = []
        for name, host in hosts.items():
            try:
                # A start that is read off the weight costs a decomposition; a random one nothing.
                starts.append(
                    blank_factors(host.out_features, host.in_features, self.r)
                    if blank and self.from_weight
                    else self.start(host.weight, generator, (moments or {}).get(name))
                )
            except InputError as error:
                raise error.within(name) from None
        return [
            LowRank(name, host, factors, self.scale, self.dropout)
            for (name, host), factors in zip(hosts.items(), starts, strict=True)
        ]
