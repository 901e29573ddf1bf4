"""What the engine asks of every posterior; free of torch, as all options are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from bayeslora.option_values import OnlyWith

T = TypeVar("T")

DEFAULT_PRIOR_SCALE = 2.0
"""τ, the prior standard deviation of a logit. Features reach the last layer with a mean ‖φ‖² of 1,
or the mean is divided out, so that τ means the same for every backbone."""


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
        head: Makes the last layer, `module:object` or the object; empty for a point estimate.
        weights: Makes the posterior over adapter weights, `module:object`; empty for none.
        only_with: Options that have no effect without another.
        is_point: Whether it is one network with one softmax, and nothing is random.
        is_sampled: Whether a prediction takes `num_samples` passes, each with weights drawn anew.
        learns_from: Rows that it is fitted to: `train`, `validation` or `nothing`.
        scales_logits: Whether held-out rows choose a factor for its logits.
        only_softens: Whether it can only make probabilities less sure.
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
    over_factors: ClassVar[bool] = False
    over_trained: ClassVar[bool] = False
    calls_once: ClassVar[bool] = False
    from_start: ClassVar[str] = ""
    no_resting: ClassVar[str] = ""
    not_on_layers: ClassVar[str] = ""

    link: str | None = None
    num_samples: int | None = None
    num_members: int = 1


def completed(config: type[T]) -> type[T]:
    """Give a class of options that does not inherit `Posterior` the defaults that it lacks.

    Args:
        config: A class of another package, changed in place.
    """
    for key, value in vars(Posterior).items():
        if not key.startswith("_") and not hasattr(config, key):
            setattr(config, key, value)
    return config
