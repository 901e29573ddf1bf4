"""The columns that an S²FT adapter trains, where training rows say which."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bayeslora.adapters.columns import Columns
from bayeslora.adapters.config_columns import LEARNED, S2FT
from bayeslora.adapters.selection import (
    begin_by_gradient,
    choose_columns,
    free_units,
    units_at,
)
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.build import build_weights
from bayeslora.posteriors.config import VBLL
from bayeslora.posteriors.vbll import VBLLHead
from bayeslora.training.checkpoints import checkpoint_state
from bayeslora.training.context import moments_on, spread
from bayeslora.training.network import Network
from bayeslora.training.progress import progress_bar
from bayeslora.training.rows import LabelledTexts

_BATCH = 16


def begin_columns(
    network: Network,
    adapter: S2FT,
    posterior: Posterior,
    train: LabelledTexts,
    *,
    seed: int,
    last: str | None = None,
    shown: bool = False,
) -> None:
    """Let the sites of a fresh network have the columns that training rows choose.

    Columns that are random, or chosen by the weights, are there already. Where a training goes on,
    nothing is chosen again.

    Args:
        network: Its sites change nothing yet.
        adapter: Its options.
        posterior: Made anew in the network where it is over the adapter's weights.
        train: The training rows.
        seed: Of the posterior's start.
        last: Directory of the checkpoint that training goes on from.
        shown: Whether to show a bar on stderr.

    Raises:
        InputError: As `second_moments` and `begin_by_gradient`.
    """
    if last is not None:
        network.expect(checkpoint_state(last))
    elif adapter.selection in LEARNED:
        _choose(network, adapter, train, shown=shown)
    else:
        return
    weights = build_weights(posterior, network, seed)
    if weights is not None:
        network.weights = weights.to(network.feature_scale.device)


def _choose(network: Network, adapter: S2FT, train: LabelledTexts, *, shown: bool) -> None:
    sites = [site for site in network.sites if isinstance(site, Columns)]
    units = units_at(network.encoder.model, [site.name for site in sites], adapter)
    if adapter.selection == "gradient":
        free = free_units(units, adapter)
        loss = _backward(network, adapter, train, shown=shown)
        begin_by_gradient(sites, units, loss, largest=adapter.largest, free=free)
    else:
        moments = moments_on(network, train.texts, adapter, shown=shown)
        weights: dict[str, Tensor] = {site.name: site.weight for site in sites}
        chosen = choose_columns(units, weights, adapter, torch.Generator(), moments)
        for site in sites:
            site.begin(chosen[site.name])


def _backward(
    network: Network, adapter: S2FT, train: LabelledTexts, *, shown: bool
) -> Callable[[], None]:
    """Return what leaves the gradient of the loss of a last layer fitted to frozen features.

    The network's own last layer starts at zero, where no gradient passes it.
    """
    rows = spread(len(train.texts), adapter)
    lengths = train.texts.tokens.lengths[rows]
    batches = [
        [rows[place] for place in places] for places in network.encoder.batches(lengths, _BATCH)
    ]
    network.eval()

    def backward() -> None:
        with torch.no_grad():
            features = torch.cat([network.encoder(train.texts.collate(batch)) for batch in batches])
        scale = features.double().square().sum(-1).mean().sqrt().float()
        labels = train.labels[[row for batch in batches for row in batch]].to(features.device)
        weight = _last_layer(features / scale, labels, len(network.head.mean_weight)) / scale
        with progress_bar("gradients", len(rows), shown=shown, unit="text") as advance:
            for batch in batches:
                logits = network.encoder(train.texts.collate(batch)) @ weight.T
                truth = train.labels[batch].to(logits.device)
                loss = cross_entropy(logits, truth, reduction="sum") / len(rows)
                torch.autograd.backward(loss)
                advance(len(batch))

    return backward


def _last_layer(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return weights [C, d] of a last layer fitted to features of mean square norm 1."""
    head = VBLLHead(VBLL(training_covariance="diagonal"), features.shape[1], num_classes)
    head.to(features.device).refit(features, labels)
    return head.mean_weight
