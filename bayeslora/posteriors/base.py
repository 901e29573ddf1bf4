"""What the engine asks of every posterior; free of torch, as all options are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from bayeslora.option_values import OnlyWith
from bayeslora.posteriors.cost import FREE, FitCost

if TYPE_CHECKING:
    from torch import Tensor

    from bayeslora.posteriors.types import LastLayer

T = TypeVar("T")

DEFAULT_PRIOR_SCALE = 2.0
"""τ, the prior standard deviation of a logit. Features reach the last layer with a mean ‖φ‖² of 1,
or the mean is divided out, so that τ means the same for every backbone."""

FEW_ROWS = 256
"""Training rows up to which a language model, or a wide prior, knows more than their labels."""


@dataclass(frozen=True)
class FitPlan:
    """What a posterior may ask about a fit before anything is loaded.

    Attributes:
        num_classes: C.
        num_rows: Training rows N.
        epochs: Passes over the training rows.
        batch_size: Rows of a step.
        adapter_trains: Whether an adapter trains; else the last layer alone is fitted.
        is_validated: Whether there are validation rows.
        cross_validates: Whether parts of the training rows were asked to be held out in turn.
        holds_out: Whether any row is held out so.
    """

    num_classes: int
    num_rows: int
    epochs: int
    batch_size: int
    adapter_trains: bool
    is_validated: bool
    cross_validates: bool
    holds_out: bool


@dataclass(frozen=True)
class HeadTraining:
    """How the last layer follows the adapter while it trains.

    Attributes:
        step: `gradient` steps before each of the adapter's, one `joint` gradient for both, or
            closed-form `refit`s.
        count: Gradient steps for each step of the adapter, or refits in an epoch.
        lr: Learning rate of the gradient steps; None takes that of the fit.
    """

    step: str = "gradient"
    count: int = 1
    lr: float | None = None


class Posterior:
    """Options of a posterior: a frozen dataclass that says what the method is and what it needs.

    Subclasses set the class variables that differ from the defaults here. The engine reads these
    and calls the methods, and knows no posterior by its class.

    Attributes:
        name: Of the method on the command line and in files.
        summary: A few words for lists.
        source: Of the method.
        passes: Passes of the backbone in a prediction, for lists.
        parameters: What the method adds to a model, for lists.
        head: Makes the last layer of another package's posterior, `module:object` or the object;
            empty where `make_head` does.
        weights: Makes the posterior over adapter weights, `module:object`; empty for none.
        only_with: Options that have no effect without another.
        is_point: Whether it is one network with one softmax, and nothing is random.
        is_sampled: Whether a prediction takes `num_samples` passes, each with weights drawn anew.
        learns_from: Rows that it is fitted to: `train`, `validation` or `nothing`.
        scales_logits: Whether held-out rows choose a factor for its logits.
        only_softens: Whether it can only make probabilities less sure.
        moves_mean: Whether its fit finds mean weights of its own for the rows that it is given.
        settled_options: Options whose values the record of a fit takes as they were settled.
        over_factors: Whether it is over the factors of a low-rank adapter.
        over_trained: Whether it is fitted to adapters that are trained already.
        calls_once: Whether every adapted layer may run only once in a pass.
        from_start: Why it cannot be fitted to a finished network; empty where it can.
        no_resting: Why layers cannot rest while it trains; empty where they can.
        not_on_layers: Why it cannot be over whole layers; empty where it can.
        link: How logits become probabilities; None where that is not a choice.
        num_samples: Draws of a prediction; None where nothing is drawn.
        num_members: Networks that are trained.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    passes: ClassVar[str]
    parameters: ClassVar[str]

    head: ClassVar[str | Callable[..., Any]] = ""
    weights: ClassVar[str] = ""
    only_with: ClassVar[OnlyWith] = {}

    is_point: ClassVar[bool] = False
    is_sampled: ClassVar[bool] = False
    learns_from: ClassVar[str] = "train"
    scales_logits: ClassVar[bool] = False
    only_softens: ClassVar[bool] = False
    moves_mean: ClassVar[bool] = False
    settled_options: ClassVar[tuple[str, ...]] = ()
    over_factors: ClassVar[bool] = False
    over_trained: ClassVar[bool] = False
    calls_once: ClassVar[bool] = False
    from_start: ClassVar[str] = ""
    no_resting: ClassVar[str] = ""
    not_on_layers: ClassVar[str] = ""

    link: str | None = None
    num_samples: int | None = None
    num_members: int = 1

    def make_head(
        self, num_features: int, num_classes: int, *, mean_sq_norm: float = 1.0, seed: int = 0
    ) -> LastLayer:
        """Return an untrained last layer, here a point estimate without a prior.

        Args:
            num_features: d, the constant column included where there is one.
            num_classes: C.
            mean_sq_norm: Mean ‖φ‖² of the training features when training starts.
            seed: Of the draws that a sampled bound takes, and of Markov chains.

        Raises:
            InputError: An option is not for so many classes.
        """
        from bayeslora.posteriors.point import PointHead

        return PointHead(num_features, num_classes, mean_sq_norm=mean_sq_norm)

    def head_training(self) -> HeadTraining:
        """Return how the last layer follows the adapter while it trains."""
        return HeadTraining()

    def check_fit(self, plan: FitPlan) -> None:
        """Check a fit before anything is loaded.

        Raises:
            InputError: The posterior cannot be fitted so.
        """

    def settled(self, plan: FitPlan) -> Self:
        """Return the options with what depends on the fit in the place of its default."""
        return self

    def starts_over(self, *, adapter_trains: bool) -> bool:
        """Return whether the final fit needs a prior and the features alone, no trained weights."""
        return False

    def start_from(self, head: LastLayer) -> Tensor:
        """Return the [C, d] weights to start from where this replaces the posterior of `head`."""
        return head.mean_weight

    def variants(
        self, num_classes: int, num_features: int, num_rows: int
    ) -> list[tuple[Any, FitCost]]:
        """Return what the options may stand for here with the cost of each, the dearest first."""
        return [(self, FREE)]

    def as_chosen(self, chosen: Mapping[str, Any]) -> Self:
        """Return the options with what a fit chose by validation rows in the place of its name.

        Args:
            chosen: What its last layer reports.
        """
        return self


def completed(config: type[T]) -> type[T]:
    """Give a class of options that does not inherit `Posterior` the defaults that it lacks.

    Args:
        config: A class of another package, changed in place.
    """
    for key, value in vars(Posterior).items():
        if not key.startswith("_") and not hasattr(config, key):
            setattr(config, key, value)
    return config
