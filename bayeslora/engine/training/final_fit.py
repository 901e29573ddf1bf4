"""The final fit: the posterior of a network with a trained adapter, on the features of its rows."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.final_layer import FinalLayerEncoder
from bayeslora.engine.network import Network
from bayeslora.engine.progress import progress_bar
from bayeslora.engine.rows import feature_rows
from bayeslora.errors import DivergedError
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.features import Features, centred_logits
from bayeslora.posteriors.fitted_scores import FeatureScores
from bayeslora.posteriors.logit_scale import best_scale
from bayeslora.posteriors.types import FinalFit, LastLayer

logger = logging.getLogger(__name__)

_LEAST_NORM, _GREATEST_NORM = 1e-12, 1e12


@dataclass(frozen=True)
class LastFit:
    """Options of the fit of a last layer to the features of a trained network.

    Attributes:
        posterior: Posterior of the network.
        feature_scores: Names of scores to fit to the same features; None for the default ones.
        logit_scale: Factor of the fitted logits, see `scale_logits`; None for the factor of lowest
            NLL on the held-out rows.
        seed: Seed of the rows that a score keeps, and of the draws of the posterior's hooks.
        progress: Whether to show progress bars on stderr for long fits: the steps of Markov chains,
            the gradients of a Laplace approximation.
    """

    posterior: Posterior
    feature_scores: Sequence[str] | None = ()
    logit_scale: float | None = 1.0
    seed: int = 0
    progress: bool = False


def fit_posterior(
    network: Network, last: LastFit, train: PreparedTexts, validation: PreparedTexts | None
) -> dict[str, float | str]:
    """Fit the last layer to the features of the trained adapter; see `fit_last_layer`."""
    fit = final_fit(network, last, train, validation)
    held_out = None if validation is None else feature_rows(network, validation)
    return fit_last_layer(network, last, fit, feature_rows(network, train), held_out)


def fit_last_layer(
    network: Network,
    last: LastFit,
    fit: FinalFit,
    train: Features,
    held_out: Features | None,
) -> dict[str, float | str]:
    """Fit the last layer to features of the trained adapter; return its chosen options.

    A posterior over the adapter's weights is fitted here too, after the last layer.

    Args:
        network: Network with the last layer.
        last: Options of the fit.
        fit: The same network and rows, for the hooks of the posterior.
        train: Training rows.
        held_out: Held-out rows, for choosing the prior.

    Raises:
        InputError: The features or the curvature are not finite, or their scale is out of range.
    """
    with _watched(network.head, shown=last.progress):
        fit_head(network, train, held_out)
    chosen = network.head.report() | network.head.fit_report(train)
    last.posterior.after_last_layer(fit)
    centre = network.head.prior_centre()
    if centre is not None:
        chosen["prior_share"] = prior_share(train.values, network.head.mean_weight, centre)
    logit_scale = last.logit_scale
    if logit_scale is None:
        if held_out is None:
            raise ValueError("without held-out rows, no scale of the logits can be chosen")
        logit_scale = chosen["logit_scale"] = scale_by(network.head, held_out)
    network.feature_scores = FeatureScores()
    by_features = scale_logits(network, logit_scale)
    if last.feature_scores is None or last.feature_scores:
        network.feature_scores = FeatureScores.fitted(
            last.feature_scores,
            train.values * by_features,
            train.targets,
            middle=train.middle,
            seed=last.seed,
        )
    return chosen if network.weights is None else chosen | network.weights.report()


def scale_by(head: LastLayer, held_out: Features) -> float:
    """Return the factor of a fitted head's logits with the lowest NLL on held-out rows."""
    drawing = drawing_of(head.config)
    answers = [(head.predict(held_out), held_out.targets)]
    return best_scale(answers, means_alone=head.scales_mean, **drawing)[0]


def scale_logits(network: Network, factor: float) -> float:
    """Multiply the logits of a fitted network, or only their means if its head supports that.

    Returns:
        The factor of its features.
    """
    if network.head.scales_mean:
        network.head.scale_mean(factor)
        return 1.0
    network.feature_scale /= factor
    return factor


def prior_share(features: Tensor, mean: Tensor, prior_mean: Tensor) -> float:
    """Return the share of the prior mean's logits L0 in the mean logits L: 1 − ‖L − L0‖² / ‖L‖².

    Both are [N, C] minus their mean over classes; 0 if L is zero or farther from L0 than from 0.

    Args:
        features: [N, d], scaled.
        mean: [C, d] weights.
        prior_mean: [C, d].
    """
    logits, difference = (
        centred_logits(features.double(), weight.double()) for weight in (mean, mean - prior_mean)
    )
    size = float(logits.square().sum())
    return max(0.0, 1 - float(difference.square().sum()) / size) if size > 0 else 0.0


def fit_head(network: Network, train: Features, held_out: Features | None) -> None:
    """Fit the head alone to labelled rows.

    Raises:
        InputError: The features are not finite, or their scale is out of range.
    """
    square = train.values.double().square().sum(-1).mean().item()
    _check_scale(math.sqrt(square))
    if isinstance(network.encoder, FinalLayerEncoder):
        # Features of another library have their own scale.
        network.head.set_mean_sq_norm(square)
    network.head.fit(train, held_out)


def _check_scale(norm: float) -> None:
    """Raise InputError if products of the features would overflow or vanish."""
    if not _LEAST_NORM <= norm <= _GREATEST_NORM:
        raise DivergedError(
            f"the features have a root mean square norm of {norm:.3g}, for which the curvature of "
            f"the last layer is not finite; it must be from {_LEAST_NORM:g} to "
            f"{_GREATEST_NORM:g}: rescale the inputs of the last layer"
        )


def final_fit(
    network: Network, last: LastFit, train: PreparedTexts, held_out: PreparedTexts | None
) -> FinalFit:
    """Return the final fit for the hooks of a posterior.

    Args:
        network: Trained network.
        last: Options of the fit.
        train: Training rows.
        held_out: Held-out rows, or None.
    """
    validation = None if held_out is None else (held_out, held_out.labels)
    open_bar = partial(progress_bar, shown=last.progress, unit="text")
    return FinalFit(network, (train, train.labels), validation, last.seed, open_bar)


def drawing_of(posterior: Posterior | None) -> dict[str, Any]:
    """Return `link` and `num_samples` of a posterior's predictions, if it has these options."""
    if posterior is None or posterior.link is None:
        return {}
    return {"link": posterior.link, "num_samples": posterior.num_samples}


@contextmanager
def _watched(head: LastLayer, *, shown: bool) -> Iterator[None]:
    """Show a progress bar of a head's fit steps, such as those of chains, within the context."""
    if not head.fit_steps:
        yield
        return
    ignore = head.advance
    try:
        with progress_bar("chains", head.fit_steps, shown=shown, unit="step") as head.advance:
            yield
    finally:
        head.advance = ignore


def duration(seconds: float) -> str:
    """Return a rounded time as text: `20 s`, `7 min`, `3 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600)} h"
