"""Interface of posteriors to the engine. This module is free of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, cast

from bayeslora.adapters.base import Adapter
from bayeslora.option_checks import Draws, Options, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from bayeslora.backbones.encoder import PreparedTexts
    from bayeslora.logits import GaussianLogits, SampledLogits
    from bayeslora.posteriors.types import Features, FinalFit, LastLayer, Network, WeightPosterior

T = TypeVar("T")

DEFAULT_PRIOR_SCALE = 2.0
"""τ, the prior standard deviation of a logit. Features reach the last layer with a mean ‖φ‖² of 1,
or the mean is divided out, so that τ means the same for every backbone."""

FEW_ROWS = 256
"""Up to this many training rows, a language model or a wide prior helps more than the labels do."""


@dataclass(frozen=True)
class FitFacts:
    """Properties of a fit that are known before anything is loaded.

    Attributes:
        num_classes: C.
        num_rows: Training rows N.
        epochs: Passes over the training rows.
        batch_size: Rows per step.
        adapter_trains: Whether an adapter trains; otherwise only the last layer is fitted.
        head_trains: Whether the last layer trains with the adapter (not in few-shot episodes).
        is_validated: Whether there are validation rows.
        cross_validates: Whether cross-validation on the training rows was requested.
    """

    num_classes: int
    num_rows: int
    epochs: int
    batch_size: int
    adapter_trains: bool
    head_trains: bool
    is_validated: bool
    cross_validates: bool

    @property
    def num_steps(self) -> int:
        """Optimiser steps of a training run without early stopping."""
        return self.epochs * math.ceil(self.num_rows / self.batch_size)


class Posterior(Options):
    """Options of a posterior: a frozen dataclass that says what the method is and what it needs.

    Subclasses set the class variables that differ from the defaults here. The engine reads these
    and calls the methods, and knows no posterior by its class.

    Attributes:
        name: Of the method on the command line and in files.
        summary: A few words for lists.
        use: When to choose it, in one sentence; empty where that is not said.
        source: Of the method.
        passes: Passes of the backbone in a prediction, for lists.
        head: Makes the last layer, `module:object` or the object; called as
            `head(config, num_features, num_classes, mean_sq_norm=…, seed=…)`.
        shared_head: The same for a last layer whose weights all options of a row share, called with
            one class; empty where there is none.
        weights: Makes the posterior over the weights of a network, `module:object`, called as
            `weights(config, network, seed=…, fitted=…)`: a `WeightPosterior`, whose hooks these
            options call. Empty where only the last layer is random, or `over_weights` is
            overridden.
        is_point: Whether it is one network with one softmax, and nothing is random.
        is_sampled: Whether a prediction takes `num_samples` passes, each with weights drawn anew.
        learns_from: Rows that it is fitted to: `train`, `validation` or `nothing`.
        scales_logits: Whether held-out rows choose a factor for its logits.
        moves_mean: Whether its fit finds mean weights of its own for the rows that it is given.
        settled_options: Options whose values the record of a fit takes as they were settled.
        over_factors: Whether it is over the factors of a low-rank adapter.
        over_trained: Whether it is fitted to adapters that are trained already.
        calls_once: Whether every adapted layer may run only once in a pass.
        from_start: Why it cannot be fitted to a finished network; empty where it can.
        not_shared: Why several processes cannot share the rows of its training; empty where they
            can.
        link: How logits become probabilities; None where that is not a choice.
        num_samples: Draws of a prediction; None where nothing is drawn.
        num_members: Networks that are trained.
        head_lr: Learning rate of the last layer; None means that of the fit.
        has_members: Whether it consists of networks that are trained apart, even if of one.
        takes_soft: Whether it learns from shares of the classes in place of a label per row.
        chooses_epoch: Whether validation rows may choose the epoch; where they may not, a fit
            takes few epochs by default, as nothing would stop a long one.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    use: ClassVar[str] = ""
    source: ClassVar[str]
    passes: ClassVar[str]

    head: ClassVar[str | Callable[..., Any]] = "bayeslora.posteriors.point:PointHead.of"
    shared_head: ClassVar[str] = "bayeslora.posteriors.point:SharedPointHead.of"
    weights: ClassVar[str] = ""

    is_point: ClassVar[bool] = False
    is_sampled: ClassVar[bool] = False
    learns_from: ClassVar[str] = "train"
    scales_logits: ClassVar[bool] = False
    moves_mean: ClassVar[bool] = False
    settled_options: ClassVar[tuple[str, ...]] = ()
    over_factors: ClassVar[bool] = False
    over_trained: ClassVar[bool] = False
    calls_once: ClassVar[bool] = False
    from_start: ClassVar[str] = ""
    not_shared: ClassVar[str] = ""
    has_members: ClassVar[bool] = False
    chooses_epoch: ClassVar[bool] = True
    takes_soft: ClassVar[bool] = False

    link: str | None = None
    num_samples: int | None = None
    """Number of draws per prediction."""
    num_members: int = 1
    head_lr: float | None = None

    def check_fit(self, facts: FitFacts) -> None:
        """Check a fit before anything is loaded.

        Raises:
            InputError: The posterior does not support this fit.
            MissingAssetError: A required package is not installed.
        """

    def settled(self, facts: FitFacts) -> Self:
        """Return the options with the defaults that depend on the fit resolved."""
        return self

    def starts_over(self, *, adapter_trains: bool) -> bool:
        """Return whether the final fit needs only a prior and features, not the trained weights."""
        return False

    def start_from(self, head: LastLayer) -> Tensor:
        """Return the initial [C, d] weights when this replaces the posterior of `head`."""
        return head.mean_weight

    def sized(self, num_classes: int, num_features: int, num_rows: int) -> Self:
        """Return the options with the defaults that depend on the size of the final fit resolved.

        Args:
            num_classes: C.
            num_features: d.
            num_rows: N.
        """
        return self

    def as_chosen(self, chosen: Mapping[str, Any]) -> Self:
        """Return the options with the values that a fit chose on validation rows.

        Args:
            chosen: Report of the fit, with a value for each option that is `validation`.
        """
        config: Any = self
        names = [field.name for field in fields(config) if vars(self)[field.name] == "validation"]
        changed: Self = replace(config, **{name: chosen[name] for name in names if name in chosen})
        return changed

    def adapter_for(self, adapter: Adapter) -> Adapter:
        """Return the adapter, adjusted for this posterior.

        Raises:
            InputError: The posterior does not support the adapter.
        """
        return adapter

    def over_weights(
        self, network: Network, *, seed: int, fitted: bool = False
    ) -> WeightPosterior | None:
        """Return the posterior over a network's weights; None if only the last layer is random.

        Its tensors are saved, loaded and check-pointed with the adapter's, and its `report` goes
        into the record.

        Args:
            network: Fresh or trained, complete except for this posterior.
            seed: Seed of a random initialisation.
            fitted: Whether tensors of a fitted posterior will be loaded into it.

        Raises:
            InputError: The method does not support the network.
        """
        if not self.weights:
            return None
        make: Callable[..., WeightPosterior] = resolve_name(self.weights)
        return make(self, network, seed=seed, fitted=fitted)

    @classmethod
    def is_over_weights(cls) -> bool:
        """Return whether these are options of a posterior over the weights of a network."""
        return bool(cls.weights) or cls.over_weights is not Posterior.over_weights

    @classmethod
    def needs_sites(cls) -> bool:
        """Return whether these are options of a posterior over the weights of adapter sites."""
        return cls.over_factors or cls.is_over_weights()

    def own_weights(self, network: Network) -> WeightPosterior:
        """Return the network's posterior over its weights if it is of these options."""
        from bayeslora.posteriors.types import WeightPosterior

        own = cast("WeightPosterior", network.weights)
        return own if self.is_over_weights() else WeightPosterior()

    def before_last_layer(self, fit: FinalFit) -> bool:
        """Run before the last layer of a trained or finished network is fitted.

        Returns:
            Whether the network's features have changed.
        """
        return self.own_weights(fit.network).before_last_layer(fit)

    @property
    def drawing(self) -> dict[str, Any]:
        """`link` and `num_samples` of predictions, if they are options."""
        return {} if self.link is None else {"link": self.link, "num_samples": self.num_samples}

    def num_draws(self, num_samples: int | None = None) -> int:
        """Return the number of draws of a prediction.

        Args:
            num_samples: Requested number; None means the posterior's default.
        """
        return (self.num_samples or 0) if num_samples is None else num_samples

    def num_passes(self, num_samples: int | None = None) -> int:
        """Return the number of forward passes of the adapted layers in a prediction.

        Args:
            num_samples: As in `num_draws`.
        """
        return max(1, self.num_draws(num_samples)) if self.is_sampled else 1

    def sampled_logits(
        self,
        network: Network,
        texts: PreparedTexts,
        *,
        num_samples: int | None,
        seed: int,
        advance: Callable[[int], object],
    ) -> SampledLogits | None:
        """Return the logits of texts under draws of the weights; None if none are drawn.

        Args:
            network: Network in evaluation mode.
            texts: N texts.
            num_samples: As in `num_draws`.
            seed: Seed of the draws.
            advance: Called with the number of texts after each batch of a pass.
        """
        from bayeslora.posteriors.weights.draws import sampled_logits

        count = self.num_draws(num_samples)
        if not self.is_sampled or count <= 0:
            return None
        weights = cast("WeightPosterior", network.weights)
        return sampled_logits(network, weights, texts, count, seed=seed, advance=advance)

    def gaussian_logits(
        self,
        network: Network,
        texts: PreparedTexts,
        rows: Features,
        *,
        num_samples: int | None,
        advance: Callable[[int], object],
    ) -> GaussianLogits | None:
        """Return Gaussian logits of texts; None if the last layer alone determines them.

        Args:
            network: Network in evaluation mode.
            texts: N texts.
            rows: Features of the mean network, as the last layer sees them.
            num_samples: As in `num_draws`.
            advance: Called with the number of texts after each batch of a pass.
        """
        if self.num_draws(num_samples) <= 0:
            return None
        return self.own_weights(network).gaussian_logits(network, texts, rows, advance)


class FactorPosterior(Posterior):
    """Base of Gaussians inside each adapter that train with it."""

    calls_once: ClassVar[bool] = True
    is_sampled: ClassVar[bool] = True
    passes: ClassVar[str] = "num_samples"
    over_factors: ClassVar[bool] = True
    from_start: ClassVar[str] = "is trained together with the adapter"

    # Meaning of these options.
    kl_lr: Positive = 0.01
    """Learning rate of the gradient steps on the KL, which are taken after the adapter's steps; it
    follows the adapter's schedule."""
    num_samples: Draws = 10
