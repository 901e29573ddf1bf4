"""What a last-layer posterior, a weight posterior and their network must be able to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from bayeslora.adapters.site import Site
from bayeslora.backbones.encoder import FeatureExtractor
from bayeslora.backbones.tokens import Batch
from bayeslora.logits import Logits
from bayeslora.posteriors.features import Features


def _count(_: int) -> None:
    """Show no progress."""


class LastLayerDefaults:
    """What a last layer need not say; the head of another package that lacks it is given these."""

    advance: Callable[[int], object] = staticmethod(_count)
    """Called by `fit` with the number of steps done; set while a bar is shown."""

    config: Any = None
    """Options in which `link` and `num_samples` are looked up, if its logits have variance."""

    @property
    def scales_mean(self) -> bool:
        """Whether it has a `scale_mean` of its own."""
        return type(self).scale_mean is not LastLayerDefaults.scale_mean

    @property
    def fit_steps(self) -> int:
        """Steps of a fit that takes so long that a bar shows them; 0 for no bar."""
        return 0

    def fit_report(self, rows: Features) -> dict[str, float]:
        """Return what a fit to these training rows reached, beside `report`, JSON-ready."""
        return {}

    def prior_centre(self) -> Tensor | None:
        """Return the prior's mean [C, d]; None for zero, and if there is no prior."""
        return None

    def set_prior_mean(self: Any, weight: Tensor, *, start: bool = True) -> None:
        """Centre the prior, if any, at [C, d] weights, and, with `start`, start there."""
        if start:
            self.set_mean(weight)

    def solve(self, rows: Features) -> None:
        """Bring the weights to the optimum of `loss` for fixed features, if that is quick."""

    def scale_mean(self, factor: float) -> None:
        """Multiply the means of the logits alone.

        The factor that held-out rows choose is then of these, otherwise of the logits as a whole.
        """
        raise NotImplementedError

    def scores_of(self, rows: Features) -> dict[str, Tensor]:
        """Return scores [N] of its own by name, higher = more uncertain."""
        return {}


class WeightDefaults:
    """What a posterior over weights need not say, as `LastLayerDefaults` of a last layer."""

    def report(self) -> dict[str, float | str]:
        """Return what its fit chose and reached, JSON-ready."""
        return {}


class LastLayer(Protocol):
    """A distribution over the weights of a linear head; it sees features, never tokens.

    Every implementation is also an `nn.Module`, with state made of tensors only. What it need not
    have is in `LastLayerDefaults`.
    """

    uses_training_features: bool
    """Whether epochs are compared after a fit to training features, and not as training left the
    head. A `fit` that is for held-out rows, such as that of a temperature, is no reason."""

    advance: Callable[[int], object]
    """See `LastLayerDefaults`, also for the members that it has too."""

    config: Any

    @property
    def fit_steps(self) -> int:
        """Steps of a fit that a bar shows."""
        ...

    @property
    def scales_mean(self) -> bool:
        """Whether a factor of the logits is one of their means alone, by `scale_mean`."""
        ...

    @property
    def mean_weight(self) -> Tensor:
        """[C, d]: the posterior's mean, detached."""
        ...

    def loss(self, rows: Features, num_train: int) -> Tensor:
        """Return the head's own objective: mean nats per row, KL / `num_train` included.

        Args:
            rows: Labelled; gradients reach their values.
            num_train: Rows of the whole training set.
        """
        ...

    def data_loss(self, rows: Features) -> Tensor:
        """Return what the adapter minimises: mean nats per row, without the KL.

        Gradients reach the features only; the head's parameters count as constants.
        """
        ...

    def fit(
        self, train: Features, validation: Features | None = None, *, choose_prior: bool = True
    ) -> None:
        """Fit the posterior that `predict` uses to cached features, in float64.

        Training state is left alone, so training can go on afterwards.

        Args:
            train: The whole training set in evaluation mode, labelled.
            validation: Held-out rows, labelled, for choosing the prior and whatever else the method
                chooses by them.
            choose_prior: Whether to choose a prior that is not a fixed number; False keeps that
                of the training, which is quicker and good enough for comparing epochs.

        Raises:
            InputError: Features are not finite; `bayeslora.posteriors.features` has the check.
        """
        ...

    def predict(self, rows: Features) -> Logits:
        """Return the logits' distribution of rows, in float64; their labels are not read.

        Raises:
            InputError: Features are not finite.
        """
        ...

    def set_mean(self, weight: Tensor) -> None:
        """Start from given [C, d] weights instead of zero."""
        ...

    def set_mean_sq_norm(self, value: float) -> None:
        """Set mean ‖φ‖² of the training features, which turns prior scales into variances."""
        ...

    def extra_config(self) -> dict[str, Any]:
        """Return, JSON-ready, what `prepare` needs to give a fresh module the same shapes."""
        ...

    def prepare(self, extra: Mapping[str, Any]) -> None:
        """Allocate what `extra` describes, so that `load_state_dict` finds every tensor."""
        ...

    def report(self) -> dict[str, float | str]:
        """Return what the fit chose and reached, JSON-ready: the prior scale, the ELBO."""
        ...

    def fit_report(self, rows: Features) -> dict[str, float]:
        """Return what a fit to these training rows reached, beside `report`."""
        ...

    def prior_centre(self) -> Tensor | None:
        """Return the prior's mean [C, d]; None for zero."""
        ...

    def set_prior_mean(self, weight: Tensor, *, start: bool = True) -> None:
        """Centre the prior at [C, d] weights, and, with `start`, start there."""
        ...

    def solve(self, rows: Features) -> None:
        """Bring the weights to the optimum of `loss` for fixed features."""
        ...

    def scale_mean(self, factor: float) -> None:
        """Multiply the means of the logits alone."""
        ...

    def scores_of(self, rows: Features) -> dict[str, Tensor]:
        """Return scores [N] by name."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors by name, as every `nn.Module` does."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Put tensors back, as every `nn.Module` does; all names must match."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield what gradient steps train."""
        ...

    def zero_grad(self) -> None:
        """Forget gradients."""
        ...

    def to(self, device: torch.device, /) -> Any:
        """Move all tensors, as every `nn.Module` does."""
        ...


_DEFAULTS = {name: verb for name, verb in vars(LastLayerDefaults).items() if name[0] != "_"}
_WEIGHT_DEFAULTS = {name: verb for name, verb in vars(WeightDefaults).items() if name[0] != "_"}
_VERBS = sorted(
    name
    for name in {*vars(LastLayer), *LastLayer.__annotations__} - {*_DEFAULTS}
    if not name.startswith("_")
)


def completed_head(head: nn.Module) -> list[str]:
    """Give the head of another package the verbs that it need not have; return those it lacks.

    Args:
        head: Whose class is changed in place.
    """
    _complete(head, _DEFAULTS)
    return [verb for verb in _VERBS if not hasattr(head, verb)]


def complete_weights(weights: nn.Module) -> None:
    """Give the posterior over weights of another package what it need not have.

    Args:
        weights: Whose class is changed in place.
    """
    _complete(weights, _WEIGHT_DEFAULTS)


def _complete(part: nn.Module, defaults: Mapping[str, Any]) -> None:
    for name, verb in defaults.items():
        if not hasattr(part, name):
            setattr(type(part), name, verb)


@runtime_checkable
class Refittable(Protocol):
    """A last layer whose training state has an optimum in closed form, for `HeadTraining.step`."""

    def refit(self, rows: Features) -> None:
        """Move the training state near its optimum for labelled rows."""
        ...


class WeightPosterior(Protocol):
    """A distribution over the weights of a whole network, seen through its draws."""

    def draw(self, generator: torch.Generator) -> AbstractContextManager[None]:
        """Put one draw of the weights in place while the context lasts, then restore them."""
        ...


class Network(Protocol):
    """An adapted backbone with its last layer, as a posterior over its weights sees it."""

    @property
    def encoder(self) -> FeatureExtractor:
        """From texts to features, adapters included."""
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
    def weights(self) -> nn.Module | None:
        """The posterior over its weights, where there is one."""
        ...

    def __call__(self, batch: Batch) -> Any:
        """Return the `Features` of a batch as the last layer sees them."""
        ...

    def scaled(self, features: Tensor, labels: Tensor | None = None) -> Features:
        """Return what the encoder gives of rows [N, ...] as the last layer sees it."""
        ...

    def eval(self) -> Any:
        """Switch to evaluation mode."""
        ...
