"""Base classes of last layers and of posteriors over weights, their input, network and fits.

    classes    φ [N, d] and weights [C, d]:          z_nc = θ_cᵀφ_n + o_nc
    options    φ [N, C, d] and one weight [1, d]:    z_nc = wᵀφ_nc + o_nc

The known logits o mark classes or options that a row lacks: `logits.ABSENT` there, zero elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from bayeslora.adapters.base import Adapter, StepHook
from bayeslora.adapters.optimizers import Euclidean
from bayeslora.adapters.site import Site
from bayeslora.backbones.encoder import FeatureExtractor, PreparedTexts
from bayeslora.backbones.tokens import Batch
from bayeslora.errors import InputError
from bayeslora.logits import GaussianLogits, Logits

GREATEST = 1e12
"""The largest number in a feature. Its fourth power is far from overflow."""


@dataclass(frozen=True, eq=False)
class Features:
    """Rows as a last layer sees them.

    Attributes:
        values: [N, d] floats, or of options [N, C, d].
        labels: [N] int64 class indices, or [N, C] shares of the classes; None if unknown.
        known: [N, C] logits known in advance; None for zero.
        middle: [N, d] mean states of the tokens in the middle of the backbone, which only feature
            scores use; None if there are none.
    """

    values: Tensor
    labels: Tensor | None = None
    known: Tensor | None = None
    middle: Tensor | None = None

    def __len__(self) -> int:
        """Return N."""
        return len(self.values)

    @property
    def targets(self) -> Tensor:
        """The labels: [N], or shares [N, C].

        Raises:
            ValueError: The rows have no labels.
        """
        if self.labels is None:
            raise ValueError("these rows have no labels")
        return self.labels

    def logits(self, weight: Tensor) -> Tensor:
        """Return the logits [N, C] under weights [C, d], or [1, d] for options."""
        logits = mean_logits(self.values, weight)
        return logits if self.known is None else logits + self.known

    def take(self, rows: Tensor | slice) -> Features:
        """Return a subset of the rows, by index [n] int64 or mask [N] bool."""
        labels, known, middle = (
            None if part is None else part[rows] for part in (self.labels, self.known, self.middle)
        )
        return Features(self.values[rows], labels, known, middle)

    def split(self, size: int) -> Iterator[Features]:
        """Yield the rows in chunks of `size`."""
        for start in range(0, max(1, len(self)), size):
            yield self.take(slice(start, start + size))

    def to(self, target: torch.device | torch.dtype) -> Features:
        """Return the rows on another device, or with floats of another dtype."""
        moved, labels = self.map(lambda floats: floats.to(target)), self.labels
        if labels is None or (isinstance(target, torch.dtype) and not labels.is_floating_point()):
            return moved
        return replace(moved, labels=labels.to(target))

    def double(self) -> Features:
        """Return the rows in float64."""
        return self.to(torch.float64)

    def detach(self) -> Features:
        """Return the rows without their graph."""
        return self.map(torch.Tensor.detach)

    def map(self, change: Callable[[Tensor], Tensor]) -> Features:
        """Return the rows with a function applied to values, known logits and middle states."""
        known, middle = (
            None if part is None else change(part) for part in (self.known, self.middle)
        )
        return Features(change(self.values), self.labels, known, middle)


def mean_logits(values: Tensor, weight: Tensor) -> Tensor:
    """Return the logits [N, C] under weights, without the known logits.

    Args:
        values: [N, d], or of options [N, C, d].
        weight: [C, d], or of options [1, d].
    """
    return values @ weight[0] if values.ndim == 3 else values @ weight.T


def centred_logits(values: Tensor, weight: Tensor) -> Tensor:
    """Return the logits [N, C] minus their mean over classes or options, without the known logits.

    Features of options already have zero mean.

    Args:
        values: [N, d], or of options [N, C, d].
        weight: [C, d], or of options [1, d].
    """
    if values.ndim == 3:
        return values @ weight[0]
    return values @ (weight - weight.mean(0)).T


def weight_gradient(values: Tensor, residual: Tensor) -> Tensor:
    """Return Σ_nc r_nc ∂z_nc/∂W, shaped like the weights: [C, d], or of options [1, d].

    Args:
        values: [N, d], or of options [N, C, d].
        residual: [N, C].
    """
    if values.ndim == 3:
        return torch.einsum("nc,ncd->d", residual, values)[None]
    return residual.T @ values


def feature_gradient(values: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    """Return Σ_c r_c ∂z_c/∂φ of each row, shaped like the features.

    Args:
        values: [N, d], or of options [N, C, d].
        weight: [C, d], or of options [1, d].
        residual: [..., N, C].
    """
    return residual[..., None] * weight[0] if values.ndim == 3 else residual @ weight


def check_features(rows: Features, name: str = "features") -> None:
    """Raise InputError if a last layer cannot compute with the features.

    Args:
        rows: Rows of any precision.
        name: Name of the features, for the message.

    Raises:
        InputError: A row holds NaN, an infinity, or a number beyond ±`GREATEST`.
    """
    # Comparisons with NaN are false, so this one catches all three.
    invalid = ~(rows.values.detach().abs() <= GREATEST).flatten(1).all(-1)
    if count := int(invalid.sum()):
        raise InputError(
            f"{count} of {len(rows)} rows of {name} contain values that are not finite or beyond "
            f"±{GREATEST:g}, such as row {int(invalid.nonzero()[0, 0]) + 1}"
        )


def check_fit(train: Features, validation: Features | None) -> None:
    """Apply `check_features` to the training rows of a fit and its validation rows, if any."""
    check_features(train)
    if validation is not None:
        check_features(validation, "validation features")


class LastLayer(nn.Module):
    """A distribution over the weights of a linear head; it sees features, never tokens.

    The base class of every last layer. Its state is made of tensors only. Subclasses implement the
    methods that raise `NotImplementedError` here, and set `uses_training_features`.
    """

    uses_training_features: bool
    """Whether epochs are compared after a fit to training features, rather than with the head as
    trained. False for a `fit` to held-out rows only, such as that of a temperature."""

    takes_more: bool = False
    """Whether `update` is implemented."""

    advance: Callable[[int], object] = staticmethod(lambda _: None)
    """Called by `fit` with the number of steps done; set while a progress bar is shown."""

    config: Any = None
    """Options that hold `link` and `num_samples`, if the logits have variance."""

    @property
    def fit_steps(self) -> int:
        """Steps of a long fit, for its progress bar; 0 for no bar."""
        return 0

    @property
    def scales_mean(self) -> bool:
        """Whether `scale_mean` is overridden."""
        return type(self).scale_mean is not LastLayer.scale_mean

    @property
    def mean_weight(self) -> Tensor:
        """[C, d]: the posterior's mean, detached."""
        raise NotImplementedError

    @property
    def trained_mean(self) -> Tensor:
        """[C, d]: the mean as training left it, if a fit moves it; detached."""
        return self.mean_weight

    def loss(self, rows: Features, num_train: int) -> Tensor:
        """Return the head's own objective: mean nats per row, KL / `num_train` included.

        Args:
            rows: Labelled; gradients reach their values.
            num_train: Number of training rows.
        """
        raise NotImplementedError

    def data_loss(self, rows: Features) -> Tensor:
        """Return the adapter's objective: mean nats per row, without the KL.

        Gradients reach the features only; the head's parameters are constants.
        """
        raise NotImplementedError

    def fit(
        self, train: Features, validation: Features | None = None, *, choose_prior: bool = True
    ) -> None:
        """Fit the posterior that `predict` uses to cached features, in float64.

        The training state does not change, so training can continue afterwards.

        Args:
            train: The whole training set in evaluation mode, labelled.
            validation: Held-out rows, labelled, for choosing the prior and other settings.
            choose_prior: Whether to choose a prior that is not a fixed number; False keeps the
                training prior, which is quicker and good enough for comparing epochs.

        Raises:
            InputError: Features are not finite; `bayeslora.posteriors.types` has the check.
        """
        raise NotImplementedError

    def update(self, rows: Features, strength: float) -> None:
        """Take more rows: the posterior N(μ, S) becomes a prior N(μ, S/κ) and meets their labels.

        Args:
            rows: Labelled.
            strength: κ > 0: below 1 the old rows count less.
        """
        raise NotImplementedError

    def predict(self, rows: Features) -> Logits:
        """Return the distribution of the rows' logits, in float64; labels are not read.

        Raises:
            InputError: Features are not finite.
        """
        raise NotImplementedError

    def solve(self, rows: Features) -> None:
        """Minimise `loss` over the weights for fixed features, if that is quick."""

    def set_mean(self, weight: Tensor) -> None:
        """Set the [C, d] weights to start from, instead of zero."""
        raise NotImplementedError

    def set_mean_sq_norm(self, value: float) -> None:
        """Set the training features' mean ‖φ‖², which converts prior scales to variances."""
        raise NotImplementedError

    def set_prior_mean(self, weight: Tensor, *, start: bool = True) -> None:
        """Centre the prior, if any, at [C, d] weights; with `start`, also start there."""
        if start:
            self.set_mean(weight)

    def prior_centre(self) -> Tensor | None:
        """Return the prior's mean [C, d]; None for zero or no prior."""
        return None

    def scale_mean(self, factor: float) -> None:
        """Scale the means of the logits alone.

        The factor fitted to held-out rows then applies to the means, otherwise to the whole logits.
        """
        raise NotImplementedError

    def extra_config(self) -> dict[str, Any]:
        """Return the arguments by which `prepare` allocates the same shapes, JSON-ready."""
        return {}

    def prepare(self, extra: Mapping[str, Any]) -> None:
        """Allocate the tensors that `extra` describes, for `load_state_dict`."""

    def report(self) -> dict[str, float | str]:
        """Return the choices and results of the fit, JSON-ready, such as prior scale and ELBO."""
        return {}

    def scores_of(self, rows: Features) -> dict[str, Tensor]:
        """Return additional scores [N] by name, higher = more uncertain."""
        return {}


class WeightPosterior(nn.Module):
    """A distribution over the weights of a whole network.

    The base class of what `Posterior.over_weights` returns. By default it does nothing.
    """

    @classmethod
    def of(cls, config: Any, network: Network, **options: Any) -> Self:
        """Return the posterior over a network's weights; see `Posterior.over_weights`."""
        make: Any = cls
        weights: Self = make(config, network.sites, options["seed"])
        return weights

    def draw(self, generator: torch.Generator) -> AbstractContextManager[None]:
        """Set the weights to one draw within the context, then restore them."""
        raise NotImplementedError

    def report(self) -> dict[str, float | str]:
        """Return the choices and results of the fit, JSON-ready."""
        return {}

    def weight_training(self, run: TrainingRun) -> WeightTraining:
        """Return how the posterior takes part in training; by default it does not."""
        return WeightTraining()

    def before_last_layer(self, fit: FinalFit) -> bool:
        """Run before the last layer is fitted; return whether the features have changed."""
        return False

    def after_last_layer(self, fit: FinalFit) -> None:
        """Run after the last layer is fitted."""

    def gaussian_logits(
        self,
        network: Network,
        texts: PreparedTexts,
        rows: Features,
        advance: Callable[[int], object],
    ) -> GaussianLogits | None:
        """Return Gaussian logits of texts; None if the last layer alone determines them."""
        return None


class Network(Protocol):
    """An adapted backbone with its last layer, as a posterior over its weights sees it."""

    @property
    def encoder(self) -> FeatureExtractor:
        """Maps texts to features, adapters included."""
        ...

    @property
    def sites(self) -> Sequence[Site]:
        """The adapters, inside the encoder; none where whole layers train."""
        ...

    @property
    def head(self) -> LastLayer:
        """The last layer."""
        ...

    @property
    def weights(self) -> WeightPosterior | None:
        """The posterior over its weights, if any."""
        ...

    def __call__(self, batch: Batch) -> Any:
        """Return the `Features` of a batch as the last layer sees them."""
        ...

    def scaled(self, features: Tensor, labels: Tensor | None = None) -> Features:
        """Convert the encoder's features [N, ...] to those that the last layer sees."""
        ...

    def eval(self) -> Any:
        """Switch to evaluation mode."""
        ...


PassNoise = Callable[[Batch], AbstractContextManager[object]]
"""Opens the context of a training pass of a batch, such as a draw of the weights."""
Advance = Callable[[int], object]
"""Advances a progress bar by a number of texts."""
OpenBar = Callable[[str, int], AbstractContextManager[Advance]]
"""Opens a progress bar with a title and the total number of texts."""
Rows = tuple[PreparedTexts, Tensor]
"""Texts and their labels [N] int64."""


@dataclass(frozen=True)
class WeightTraining:
    """How a posterior over adapter weights takes part in training; by default it does not.

    Attributes:
        noise: Context of each training pass.
        callbacks: Hooks of the steps.
        parameters: Parameters trained with the adapter, at the learning rate of the adapter.
        optimizer: Optimiser of the adapter's parameters that are on no manifold; None is AdamW.
        schedule: Learning-rate schedule after the warm-up: `cosine` or `constant`.
    """

    noise: PassNoise = nullcontext
    callbacks: tuple[StepHook, ...] = ()
    parameters: tuple[nn.Parameter, ...] = ()
    optimizer: Euclidean | None = None
    schedule: str = "cosine"


@dataclass(frozen=True)
class TrainingRun:
    """A training run before its start.

    Attributes:
        network: Fresh, with the posterior in `weights`.
        adapter: Adapter, whose learning rate applies.
        num_train: Training rows N.
        num_steps: Optimiser steps without early stopping.
    """

    network: Network
    adapter: Adapter
    num_train: int
    num_steps: int


@dataclass(frozen=True)
class FinalFit:
    """A final fit to rows, for a network with trained adapters.

    Attributes:
        network: Trained, with the posterior in `weights`.
        train: Rows to fit to.
        held_out: Held-out rows, or None.
        seed: Seed of the draws of the fit.
        open_bar: Opens a progress bar, which may be invisible.
    """

    network: Network
    train: Rows
    held_out: Rows | None
    seed: int
    open_bar: OpenBar
