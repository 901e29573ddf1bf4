"""A fit without an adapter: one pass of the backbone, then the last layer on its features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bayeslora.posteriors.base import Posterior
from bayeslora.runtime import restored_random_state
from bayeslora.training.class_prior import ClassPrior, centre
from bayeslora.training.final_fit import fit_last_layer
from bayeslora.training.fit import FitResult
from bayeslora.training.network import Network
from bayeslora.training.progress import progress_bar
from bayeslora.training.rows import FeatureRows, LabelledTexts


@restored_random_state()
def fit_frozen(
    network: Network,
    posterior: Posterior,
    train: LabelledTexts,
    validation: LabelledTexts | None,
    *,
    prior: ClassPrior | None = None,
    feature_scores: Sequence[str] | None = (),
    logit_scale: float | None = 1.0,
    seed: int = 0,
    progress: bool = False,
) -> FitResult:
    """Fit the last layer of a network whose backbone stays as it is.

    A head that has `solve` is brought to the optimum of its own objective first, as training would
    bring it there beside an adapter.

    Args:
        network: Without adapters.
        posterior: Of its last layer.
        train: Training rows.
        validation: Held-out rows, for what the posterior chooses by them.
        prior: What the language model says of the classes; None for a prior mean of zero.
        feature_scores: Names of scores to fit to the same features.
        logit_scale: What the fitted logits are multiplied by; None chooses by `validation`.
        seed: Of the rows that a score keeps.
        progress: Whether to show bars.
    """
    network.eval()
    states = [_states(network, rows, shown=progress) for rows in (train, validation) if rows]
    norm = states[0].double().square().sum(-1).mean().sqrt()
    network.feature_scale.fill_(norm.item())
    factor = None if prior is None else centre(network, prior, train, states[0])
    rows = [
        FeatureRows(source, (scaled := network.scaled(found)), source.labels.to(scaled.device))
        for source, found in zip((train, validation), states, strict=False)
        if source is not None
    ]
    if hasattr(network.head, "solve"):
        network.head.solve(*rows[0].pair)
    chosen = fit_last_layer(
        network,
        posterior,
        rows[0],
        rows[1] if len(rows) > 1 else None,
        feature_scores=feature_scores,
        logit_scale=logit_scale,
        seed=seed,
        progress=progress,
    )
    return FitResult(posterior=chosen, prior_factor=factor)


def _states(network: Network, rows: LabelledTexts, *, shown: bool) -> Tensor:
    with progress_bar("features", len(rows.texts), shown=shown, unit="text") as advance:
        return network.encoder.features(rows.texts, advance=advance)
