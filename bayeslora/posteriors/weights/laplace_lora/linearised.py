"""Fitting and predicting with a Laplace approximation over adapter weights.

The frozen prefix is shared with all other passes; a batch takes one forward pass of the adapted
layers and one backward pass per class, down to the lowest random layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.errors import InputError
from bayeslora.links import link_probabilities
from bayeslora.logits import GaussianLogits
from bayeslora.posteriors.features import Features, feature_gradient
from bayeslora.posteriors.scores import nll
from bayeslora.posteriors.types import Network
from bayeslora.posteriors.weights.laplace_lora.curvature import fisher_root
from bayeslora.posteriors.weights.laplace_lora.gradients import LayerGradients, backward, watched
from bayeslora.posteriors.weights.laplace_lora.posterior import LAST_LAYER, LaplaceLoRAWeights
from bayeslora.posteriors.weights.training import Advance, Rows

_BATCH = 64
# Numbers of gradients or Jacobians in memory at a time: 256 MB in float64.
_NUMBERS = 1 << 25


@torch.no_grad()
def fit_laplace_lora(
    network: Network,
    weights: LaplaceLoRAWeights,
    train: Rows,
    validation: Rows | None,
    advance: Advance = lambda _: None,
) -> None:
    """Fit the curvature to training rows and choose the prior precision.

    Args:
        network: Trained; its weights do not change.
        weights: The network's posterior.
        train: Texts and labels [N] int64.
        validation: Held-out texts and labels, for choosing the prior if configured.
        advance: Called with the number of texts after each batch of gradients.

    Raises:
        InputError: The curvature is not finite.
    """
    network.eval()
    texts, labels = train
    curvature = weights.prepare()
    for _, layers in _batches(network, weights, texts, _fisher_columns, advance):
        curvature.add(layers)
    weights.finish()
    mean = network_logits(network, texts)
    log_likelihood = -float(cross_entropy(mean, labels.to(mean.device), reduction="sum"))

    def held_out(precisions: list[float]) -> list[float]:
        if validation is None:
            raise InputError("there are no validation rows", code="needs-validation")
        return _nll_by_precision(network, weights, validation, precisions, advance)

    weights.choose(
        log_likelihood,
        network.head.mean_weight,
        len(labels),
        None if validation is None else held_out,
    )


def _nll_by_precision(
    network: Network,
    weights: LaplaceLoRAWeights,
    held_out: Rows,
    precisions: list[float],
    advance: Advance,
) -> list[float]:
    """Return the NLL (nats) of held-out rows under each prior precision."""
    texts, labels = held_out
    mean = network_logits(network, texts)
    config, total = weights.config, torch.zeros(len(precisions), dtype=torch.float64)
    for rows, layers in _batches(network, weights, texts, _unit_vectors, advance):
        truth = labels[rows].to(mean.device)
        for index, covariance in enumerate(weights.covariances(layers, precisions)):
            logits = GaussianLogits(mean[rows], covariance.to(mean.device))
            probs = link_probabilities(logits, config.link, config.num_samples).probs
            total[index] += len(rows) * nll(probs, truth)
    return [float(value) / len(labels) for value in total]


@torch.no_grad()
def network_logits(network: Network, texts: PreparedTexts) -> Tensor:
    """Return the logits [N, C] float64 of the mean network."""
    features = network.encoder.features(texts, batch_size=_BATCH)
    mean: Tensor = network.head.predict(network.scaled(features)).mean
    return mean


def linearised_logits(
    network: Network,
    weights: LaplaceLoRAWeights,
    texts: PreparedTexts,
    mean: Tensor,
    advance: Advance = lambda _: None,
) -> GaussianLogits:
    """Return the logits' distribution around `mean` [N, C], the logits of the mean network."""
    precision = float(weights.prior_precision)
    covariances = logit_covariances(network, weights, texts, [precision], advance)
    return GaussianLogits(mean, covariances[0].to(mean.device))


def logit_covariances(
    network: Network,
    weights: LaplaceLoRAWeights,
    texts: PreparedTexts,
    precisions: list[float],
    advance: Advance = lambda _: None,
) -> Tensor:
    """Return the covariance of each text's logits under each prior precision, [D, N, C, C]."""
    network.eval()
    classes = _num_logits(network, texts)
    result = torch.empty(len(precisions), len(texts), classes, classes, dtype=torch.float64)
    for rows, layers in _batches(network, weights, texts, _unit_vectors, advance):
        result[:, rows] = weights.covariances(layers, precisions).cpu()
    return result


def _fisher_columns(logits: Tensor) -> Tensor:
    """Return the columns of R for each row, [C, B, C]."""
    return fisher_root(logits.softmax(-1)).permute(2, 0, 1)


def _unit_vectors(logits: Tensor) -> Tensor:
    """Return the unit vector of each class for each row, [C, B, C]."""
    rows, classes = logits.shape
    return torch.eye(classes, dtype=logits.dtype, device=logits.device)[:, None].expand(
        classes, rows, classes
    )


def _batches(
    network: Network,
    weights: LaplaceLoRAWeights,
    texts: PreparedTexts,
    vectors: Callable[[Tensor], Tensor],
    advance: Advance,
) -> Iterator[tuple[list[int], list[LayerGradients]]]:
    """Yield row indices and the gradients of vᵀz for each v in `vectors(logits)` [K, B, C]."""
    size = _rows_a_batch(weights, texts, _num_logits(network, texts))
    for rows in network.encoder.batches(texts.tokens.lengths, size):
        yield rows, _gradients(network, weights, texts.collate(rows), vectors)
        advance(len(rows))


def _num_logits(network: Network, texts: PreparedTexts) -> int:
    """Return C, the number of classes or options."""
    return texts.tokens.num_options or len(network.head.mean_weight)


def _rows_a_batch(weights: LaplaceLoRAWeights, texts: PreparedTexts, num_classes: int) -> int:
    outputs = sum(random_layer.layer.out_features for random_layer in weights.layers)
    longest = int(texts.tokens.lengths.max(initial=1))
    numbers = num_classes * max(outputs * longest, weights.num_weights)
    return min(_BATCH, max(1, _NUMBERS // numbers))


def _gradients(
    network: Network,
    weights: LaplaceLoRAWeights,
    batch: dict[str, Tensor],
    vectors: Callable[[Tensor], Tensor],
) -> list[LayerGradients]:
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        seen = stack.enter_context(watched([random_layer.layer for random_layer in weights.layers]))
        rows: Features = network(batch)
    detached = rows.detach().double()
    states = detached.values
    weight = network.head.mean_weight.double()
    seeds = vectors(detached.logits(weight))
    names = [random_layer.name for random_layer in weights.layers]
    mask = batch["attention_mask"]
    layers = backward(rows.values, seen, names, feature_gradient(states, weight, seeds), mask)
    if LAST_LAYER in weights.names:
        if states.ndim == 3:  # the options of a row share the weights, as its tokens do elsewhere
            layers.append(LayerGradients(states, seeds[..., None], states.shape[:2].numel()))
        else:
            layers.append(LayerGradients(states[:, None], seeds[:, :, None], len(states)))
    return layers
