"""The final fit: the posterior of a finished adapter's network, on the features of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from bayeslora.backbones.final_encoder import FinalLayerEncoder
from bayeslora.errors import DivergedError
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.build import Head
from bayeslora.posteriors.feature_scores import FeatureScores
from bayeslora.posteriors.logit_scale import best_scale
from bayeslora.posteriors.weights.training import FinalFit
from bayeslora.training.network import Network
from bayeslora.training.progress import progress_bar
from bayeslora.training.rows import FeatureRows, LabelledTexts, feature_rows

_LEAST_NORM, _GREATEST_NORM = 1e-12, 1e12


def fit_posterior(
    network: Network,
    posterior: Posterior,
    train: LabelledTexts,
    validation: LabelledTexts | None,
    *,
    feature_scores: Sequence[str] | None = (),
    logit_scale: float | None = 1.0,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, float | str]:
    """Fit the last layer to the features of the finished adapter; see `fit_last_layer`."""
    return fit_last_layer(
        network,
        posterior,
        feature_rows(network, train),
        None if validation is None else feature_rows(network, validation),
        feature_scores=feature_scores,
        logit_scale=logit_scale,
        seed=seed,
        progress=progress,
    )


def fit_last_layer(
    network: Network,
    posterior: Posterior,
    train: FeatureRows,
    held_out: FeatureRows | None,
    *,
    feature_scores: Sequence[str] | None = (),
    logit_scale: float | None = 1.0,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, float | str]:
    """Fit the last layer to features of the finished adapter; return what it chose.

    What a posterior over the adapter's weights fits after it is fitted here too.

    Args:
        network: Holds the last layer.
        posterior: Of the network.
        train: Rows to fit to.
        held_out: Held-out rows, for choosing the prior.
        feature_scores: Names of scores to fit to the same features; None takes the usual ones.
        logit_scale: What the fitted logits are multiplied by, see `scale_logits`; None takes the
            factor of lowest NLL on the held-out rows.
        seed: Of the rows that a score keeps.
        progress: Whether to show a bar where the fit takes long: the steps of Markov chains, the
            gradients of a Laplace approximation.

    Raises:
        InputError: The features or the curvature are not finite, or their scale is out of reach.
    """
    features, labels = train.pair
    with _watched(network.head, shown=progress):
        fit_head(network, train.pair, None if held_out is None else held_out.pair)
    chosen = network.head.report() | network.head.fit_report(features, labels)
    held = None if held_out is None else held_out.source
    posterior.after_last_layer(final_fit(network, train.source, held, seed=seed, shown=progress))
    centre = getattr(network.head, "prior_mean", None)
    if centre is not None:
        chosen["prior_share"] = prior_share(features, network.head.mean_weight, centre)
    if logit_scale is None:
        if held_out is None:
            raise ValueError("without held-out rows nothing chooses the scale of the logits")
        logit_scale = chosen["logit_scale"] = scale_by(network.head, held_out)
    network.feature_scores = FeatureScores()
    by_features = scale_logits(network, logit_scale)
    if feature_scores is None or feature_scores:
        network.feature_scores = FeatureScores.fitted(
            feature_scores,
            features * by_features,
            labels,
            seed,
        )
    report: Callable[[], dict[str, float | str]] = getattr(network.weights, "report", dict)
    return chosen | report()


def scale_by(head: Head, held_out: FeatureRows) -> float:
    """Return the factor of a fitted head's logits that held-out rows ask for."""
    features, labels = held_out.pair
    drawing = drawing_of(getattr(head, "config", None))
    answers = [(head.predict(features), labels)]
    return best_scale(answers, means_alone=scales_means(head), **drawing)[0]


def scales_means(head: Head) -> bool:
    """Return whether a factor of the logits is one of their means alone."""
    return hasattr(head, "scale_mean")


def scale_logits(network: Network, factor: float) -> float:
    """Multiply the logits of a fitted network, or their means alone where `scales_means`.

    Returns:
        What its features are multiplied by.
    """
    times: Callable[[float], None] | None = getattr(network.head, "scale_mean", None)
    if times is not None:
        times(factor)
        return 1.0
    network.feature_scale /= factor
    return factor


def prior_share(features: Tensor, mean: Tensor, prior_mean: Tensor) -> float:
    """Return how much of the mean logits L the prior mean's, L0, are: 1 − ‖L − L0‖² / ‖L‖².

    Both [N, C], less their mean over the classes; 0 where L is zero or farther from L0 than from 0.

    Args:
        features: [N, d], scaled.
        mean: [C, d] weights.
        prior_mean: [C, d].
    """
    logits, apart = (
        features.double() @ (weight - weight.mean(0)).double().T
        for weight in (mean, mean - prior_mean)
    )
    size = float(logits.square().sum())
    return max(0.0, 1 - float(apart.square().sum()) / size) if size > 0 else 0.0


def fit_head(
    network: Network, train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor] | None
) -> None:
    """Fit the head alone to features [N, d] and labels [N].

    Raises:
        InputError: The features are not finite, or their scale is out of reach.
    """
    features, labels = train
    _check_scale(features)
    if isinstance(network.encoder, FinalLayerEncoder):
        # Somebody else's features come in a scale of their own.
        network.head.set_mean_sq_norm(features.double().square().sum(-1).mean().item())
    network.head.fit(features, labels, held_out)


def _check_scale(features: Tensor) -> None:
    """Complain about features whose products would overflow or vanish on the way to a posterior."""
    norm = features.double().square().sum(-1).mean().sqrt().item()
    if not _LEAST_NORM <= norm <= _GREATEST_NORM:
        raise DivergedError(
            f"the features have a root mean square norm of {norm:.3g}, with which no curvature of "
            f"the last layer is finite; allowed is {_LEAST_NORM:g} to {_GREATEST_NORM:g}: scale "
            "what the last layer takes"
        )


def final_fit(
    network: Network,
    train: LabelledTexts,
    held_out: LabelledTexts | None,
    *,
    seed: int,
    shown: bool,
) -> FinalFit:
    """Return what a posterior over weights is told of its final fit.

    Args:
        network: Trained.
        train: Rows to fit to.
        held_out: Held-out rows, or None.
        seed: Of what the fit draws.
        shown: Whether to show bars on stderr.
    """
    held = None if held_out is None else (held_out.texts, held_out.labels)
    open_bar = partial(progress_bar, shown=shown, unit="text")
    return FinalFit(network, (train.texts, train.labels), held, seed, open_bar)


def drawing_of(posterior: Posterior | None) -> dict[str, Any]:
    """Return `link` and `num_samples` of a posterior's predictions, where they are its options."""
    if posterior is None or posterior.link is None:
        return {}
    return {"link": posterior.link, "num_samples": posterior.num_samples}


@contextmanager
def _watched(head: Head, *, shown: bool) -> Iterator[None]:
    """Show a bar of the steps of a long fit, such as those of chains, while the context lasts."""
    if not head.fit_steps:
        yield
        return
    ignore = head.advance
    try:
        with progress_bar("chains", head.fit_steps, shown=shown, unit="step") as head.advance:
            yield
    finally:
        head.advance = ignore
