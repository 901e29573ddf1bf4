"""The final fit: the last layer and the posterior of a network, on the features of its rows."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from torch import Tensor

from bayeslora.adapters.low_rank import summary
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.sequence import FinalLayerEncoder
from bayeslora.engine.network import Network, feature_rows
from bayeslora.engine.plan import Plan
from bayeslora.engine.progress import progress_bar
from bayeslora.engine.training import FitResult, Training
from bayeslora.links import best_scale, hard, link_probabilities, nll
from bayeslora.posteriors.fitted_scores import FeatureScores
from bayeslora.posteriors.types import Features, FinalFit, LastLayer, centred_logits
from bayeslora.processes import restored_random_state

logger = logging.getLogger(__name__)


def validation_metrics(fit: Training) -> dict[str, float]:
    """Return NLL (nats) and accuracy on the validation rows, for comparing epochs.

    Last layers fitted to training features are fitted first, under the training prior: the prior
    and temperatures are chosen only once, after the last epoch. With random weights, the mean
    network is scored, under the link of the predictions.
    """
    if fit.validation is None:
        raise ValueError("there are no validation rows")
    network = fit.network
    train = feature_rows(network, fit.train) if network.head.uses_training_features else None
    # Fit a copy: training state and checkpoints stay those of an unfitted head.
    head = copy.deepcopy(network.head)
    rows = feature_rows(network, fit.validation)
    if train is not None:
        head.fit(train, rows, choose_prior=False)
    probs = link_probabilities(head.predict(rows), **fit.plan.posterior.drawing).probs
    accuracy = (probs.argmax(1) == hard(rows.targets)).double().mean()
    return {"nll": nll(probs, rows.targets), "accuracy": accuracy.item()}


def fit_posterior(fit: Training, result: FitResult) -> FitResult:
    """Fit the posterior of a network with a trained adapter; return the completed results."""
    network, plan, factor = fit.network, fit.plan, result.prior_factor
    last = final_fit(network, plan, fit.train, fit.validation)
    plan.posterior.before_last_layer(last)
    if fit.prior is not None and fit.prior_waits:
        network.eval()
        factor = fit.prior.centre(network, fit.train, start=False)
    held_out = None if fit.validation is None else feature_rows(network, fit.validation)
    chosen = fit_last_layer(network, plan, last, feature_rows(network, fit.train), held_out)
    figures = summary(network.sites) if network.sites else {}
    if network.companion is not None:
        more = sum(parameter.numel() for parameter in network.companion.parameters())
        figures["num_parameters"] = figures.get("num_parameters", 0.0) + more
        figures |= network.companion.summary() | fit.figures()
    return replace(result, posterior=chosen, adapter=figures, prior_factor=factor)


@restored_random_state()
def fit_frozen(fit: Training) -> FitResult:
    """Fit the last layer of a network whose backbone does not train.

    A head with `solve` first moves to the optimum of its own objective, as training with an adapter
    would move it.
    """
    network, plan = fit.network, fit.plan
    network.eval()
    last = final_fit(network, plan, fit.train, fit.validation)
    plan.posterior.before_last_layer(last)
    states = []
    for texts in filter(None, (fit.train, fit.validation)):
        with last.open_bar("features", len(texts)) as advance:
            states.append((texts, *network.encoder.features_and_middle(texts, advance=advance)))
    features = states[0][1]
    network.feature_scale.fill_(network.encoder.root_mean_square(features))
    factor = None if fit.prior is None else fit.prior.centre(network, fit.train, features)
    train, *held_out = [
        network.scaled(features, texts.labels, middle) for texts, features, middle in states
    ]
    network.head.solve(train)
    chosen = fit_last_layer(network, plan, last, train, held_out[0] if held_out else None)
    return FitResult(posterior=chosen, prior_factor=factor)


def fit_last_layer(
    network: Network, plan: Plan, fit: FinalFit, train: Features, held_out: Features | None
) -> dict[str, float | str]:
    """Fit the last layer to features of the trained adapter; return its chosen options.

    A posterior over the adapter's weights is fitted here too, after the last layer.

    Args:
        network: Network with the last layer.
        plan: Posterior, feature scores, logit scale and seed.
        fit: The same network and rows, for the hooks of the posterior.
        train: Training rows.
        held_out: Held-out rows, for choosing the prior.

    Raises:
        InputError: The features or the curvature are not finite.
    """
    with _watched(network.head, shown=plan.progress):
        fit_head(network, train, held_out)
    chosen = network.head.report()
    plan.posterior.own_weights(network).after_last_layer(fit)
    centre = network.head.prior_centre()
    if centre is not None:
        chosen["prior_share"] = prior_share(train.values, network.head.mean_weight, centre)
    logit_scale = plan.logit_scale
    if logit_scale is None:
        if held_out is None:
            raise ValueError("without held-out rows, no scale of the logits can be chosen")
        head = network.head
        drawing = {} if head.config is None else head.config.drawing
        answers = [(head.predict(held_out), held_out.targets)]
        logit_scale = best_scale(answers, means_alone=head.scales_mean, **drawing)[0]
        chosen["logit_scale"] = logit_scale
    network.feature_scores = FeatureScores()
    by_features = scale_logits(network, logit_scale)
    if plan.feature_scores is None or plan.feature_scores:
        network.feature_scores = FeatureScores.fitted(
            plan.feature_scores,
            train.values * by_features,
            hard(train.targets),
            middle=train.middle,
            seed=plan.seed,
        )
    return chosen if network.weights is None else chosen | network.weights.report()


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
    """Fit the head alone to labelled rows."""
    if isinstance(network.encoder, FinalLayerEncoder):
        # Features of another library have their own scale.
        network.head.set_mean_sq_norm(train.values.double().square().sum(-1).mean().item())
    network.head.fit(train, held_out)


def final_fit(
    network: Network, plan: Plan, train: PreparedTexts, held_out: PreparedTexts | None
) -> FinalFit:
    """Return the final fit for the hooks of a posterior.

    Args:
        network: Trained network.
        plan: Seed of the draws, and whether to show progress.
        train: Training rows.
        held_out: Held-out rows, or None.
    """
    validation = None if held_out is None else (held_out, held_out.labels)
    open_bar = partial(progress_bar, shown=plan.progress, unit="text")
    return FinalFit(network, (train, train.labels), validation, plan.seed, open_bar)


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
