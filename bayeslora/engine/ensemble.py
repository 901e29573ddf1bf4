"""Fit the networks of a classifier in turn: ensemble members, or fits to parts of the rows."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.adapters.base import USUAL_LAYERS, Adapter
from bayeslora.adapters.spectrum import summary
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.load import Backbone
from bayeslora.data.examples import encode_labels
from bayeslora.engine.build import build_network
from bayeslora.engine.data import TrainingData
from bayeslora.engine.formats import rows_to_fit
from bayeslora.engine.network import Network
from bayeslora.engine.plan import Plan
from bayeslora.engine.progress import progress_bar
from bayeslora.engine.rows import prepare
from bayeslora.engine.training.episodes import choose_mixtures, meta_tune, mix
from bayeslora.engine.training.final_fit import LastFit, final_fit, fit_last_layer
from bayeslora.engine.training.layer_sampling import layer_sampler
from bayeslora.engine.training.loop import FitResult, Training, train_network
from bayeslora.engine.training.starts import ClassPrior, LinearProbes
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.option_checks import LARGEST_SEED, Format
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.feature_scores import check_middle
from bayeslora.runtime import restored_random_state

logger = logging.getLogger(__name__)

Fitted = tuple[Network, list[dict[str, Tensor]], list[FitResult]]
"""A network with the first member's tensors, and the trained tensors and results of all members."""

SEED_STEP = 1000
"""Step between the seeds of members."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A fit before the last one, to a part of the training rows or to all of them.

    Attributes:
        rows: Row numbers; None for all.
        name: Suffix of its checkpoint directory.
        title: Title of its progress bar.
        unseen: Numbers of the rows that it does not see.
    """

    rows: NDArray[np.int64] | None
    name: str
    title: str
    unseen: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.arange(0))


@dataclasses.dataclass(frozen=True)
class Further:
    """Training that goes on from networks of parts of the rows, with all rows.

    Attributes:
        starts: Trained tensors of each member.
        rate: Factor of all learning rates; 0 for no further step.
    """

    starts: Sequence[Mapping[str, Tensor]]
    rate: float


def member_seeds(posterior: Posterior, seed: int) -> list[int]:
    """Return the seed of each member of a posterior; the first is `seed` itself.

    Seeds wrap around to 0 beyond the largest seed.
    """
    return [
        (seed + SEED_STEP * member) % (LARGEST_SEED + 1) for member in range(posterior.num_members)
    ]


def fit_members(
    plan: Plan,
    data: TrainingData,
    backbone: Backbone,
    claim: Callable[[], Path | None],
    *,
    part: Part | None = None,
    stops: Sequence[int] | None = None,
    say: bool = True,
    prior: ClassPrior | None = None,
    further: Further | None = None,
    probes: LinearProbes | None = None,
    fit_last: bool = True,
) -> Fitted:
    """Train the members of the posterior in turn.

    Returns the first network, the trained tensors and the results of each member.

    Args:
        plan: What was chosen.
        data: Training and validation data.
        backbone: Loaded backbone without adapters.
        claim: Called once the first network is known to be valid; returns the checkpoint directory,
            from which an interrupted fit resumes, or None for none.
        part: The training rows to fit to; None for all.
        stops: Number of epochs after which each member stops; None for all epochs.
        say: Whether to log notes on data and backbone, if no earlier call did.
        prior: The language model's rows for the classes; None for a prior mean of zero.
        further: Networks from which the last epochs begin; None for fresh networks.
        probes: What the networks of several calls share; None if there is one call.
        fit_last: Whether to fit the posteriors; otherwise the last layers stay as trained.
    """
    probes = LinearProbes() if probes is None else probes
    settings = plan.training
    data = _to_fit(data, plan.format, settings.seed)
    work: Path | None = None
    states: list[dict[str, Tensor]] = []
    results: list[FitResult] = []
    seeds = member_seeds(plan.posterior, settings.seed)
    title = "fit" if part is None else part.title
    suffix = "" if part is None else f"-{part.name}"
    if say:
        _say_alike(plan.adapter, len(seeds))
        _say_layers(plan.adapter, backbone)
    for number, seed in enumerate(seeds):
        network = _fresh(plan, data, backbone, seed)
        # Later members reuse the frozen layers' states, and the notes are logged once.
        if number == 0:
            layer_sampler(network, plan.adapter, plan.posterior, settings, len(data.rows))
            work = claim()
        train, validation = _prepared(network, data, shown=plan.progress, say=say)
        say = False
        stop = None if stops is None else stops[number]
        own_settings = dataclasses.replace(settings, seed=seed, stop_after=stop)
        begin: Callable[[Network], None] | None = None
        if prior is None or not prior.leads:
            begin = _begin(probes, train, part, seed)
        if further is not None:
            begin = partial(_continue, state=further.starts[number])
            own_settings = own_settings.finishing(len(data.rows))
        if part is not None and part.rows is not None:
            train = train.take(part.rows.tolist())
            own_settings = _in_as_many_steps(own_settings, len(data.rows), len(part.rows))
        many = "" if len(seeds) == 1 else f" member {number + 1} of {len(seeds)}"
        training = Training(
            network,
            train,
            validation,
            plan.adapter,
            _last(plan, seed),
            own_settings,
            directory=None if work is None else work / f"member-{number}{suffix}",
            prior=prior,
            tasks=data.tasks,
            title=f"{title}{many}" if plan.progress else None,
            begin=begin,
            rate=1.0 if further is None else further.rate,
        )
        results.append(_trained(training, fit_last=fit_last))
        states += _member_states(training)
    network.load_trained_state(states[0])
    return network, states, results


def _begin(
    probes: LinearProbes, train: PreparedTexts, part: Part | None, seed: int
) -> Callable[[Network], None] | None:
    """Return the start of a last layer; None for options, which the language model answers."""
    if train.num_options:
        return None
    rows, name = (None, "") if part is None else (part.rows, part.name)
    return partial(probes.begin, texts=train, rows=rows, seed=seed, name=name)


def _continue(network: Network, state: Mapping[str, Tensor]) -> None:
    """Load trained tensors into a fresh network, without the fit of the last layer."""
    network.expect(state)
    network.load_trained_state({name: state[name] for name in network.trained_state()})


def _to_fit(data: TrainingData, format: Format | None, seed: int) -> TrainingData:
    """Return the data with the training rows as a fit reads them; see `rows_to_fit`."""
    rows = rows_to_fit(data.rows, format, seed)
    if rows is data.rows:
        return data
    labels = torch.from_numpy(encode_labels(rows, data.classes))
    return dataclasses.replace(data, train=(rows, labels))


def _fresh(plan: Plan, data: TrainingData, backbone: Backbone, seed: int) -> Network:
    """Return an untrained network."""
    network = build_network(backbone, plan, len(data.classes), seed=seed)
    check_middle(plan.feature_scores, has_middle=network.encoder.middle is not None)
    if network.conditioning is not None:
        network.conditioning.learn(data.rows)
    return network


def _prepared(
    network: Network, data: TrainingData, *, shown: bool, say: bool
) -> tuple[PreparedTexts, PreparedTexts | None]:
    """Return the training and validation rows prepared for a network."""
    train = prepare(network.encoder, data.train, progress=shown and say, say=say)
    if data.validation is None:
        return train, None
    return train, prepare(network.encoder, data.validation, progress=shown and say, say=say)


def _last(plan: Plan, seed: int) -> LastFit:
    return LastFit(plan.posterior, plan.feature_scores, plan.logit_scale, seed, plan.progress)


def _trained(fit: Training, *, fit_last: bool) -> FitResult:
    """Fit a network in place: its adapter, if it trains, and the last layer."""
    network, adapter = fit.network, fit.adapter
    if adapter.episodes is not None:
        losses = meta_tune(
            network,
            adapter.episodes,
            fit.train,
            seed=fit.settings.seed,
            max_grad_norm=fit.settings.max_grad_norm,
            directory=fit.directory,
            description=fit.title,
        )
        result = _fit_mixture(fit, choose_mixtures(network, adapter, fit.train)[0])
        figures = {f"loss_{member}": loss for member, loss in enumerate(losses, 1)}
        return dataclasses.replace(result, adapter=summary(network.sites) | figures)
    if not adapter.trains:
        return fit_frozen(network, fit.last, fit.train, fit.validation, prior=fit.prior)
    return train_network(fit, fit_last=fit_last)


def _fit_mixture(fit: Training, weights: Sequence[float]) -> FitResult:
    """Fit the last layer to the features of a mixture of a pool's members."""
    network, last = fit.network, fit.last
    mix(network, weights)
    last.posterior.before_last_layer(final_fit(network, last, fit.train, fit.validation))
    return fit_frozen(network, last, fit.train, fit.validation, prior=fit.prior)


def _member_states(fit: Training) -> list[dict[str, Tensor]]:
    """Return the trained tensors of a network, and of a pool's other separate members."""
    states = [fit.network.trained_state()]
    if fit.adapter.has_members:
        quiet = dataclasses.replace(fit, last=dataclasses.replace(fit.last, progress=False))
        for weights in choose_mixtures(fit.network, fit.adapter, fit.train)[1:]:
            _fit_mixture(quiet, weights)
            states.append(fit.network.trained_state())
    return states


def _in_as_many_steps(settings: TrainingSettings, num_rows: int, num_part: int) -> TrainingSettings:
    """Return the settings that fit a part of the rows in about as many steps as all rows.

    With fewer steps a last layer is less confident, and the scale chosen on its answers would be
    too large for the fit to all rows.
    """
    return dataclasses.replace(settings, epochs=round(settings.epochs * num_rows / num_part))


def _say_layers(adapter: Adapter, backbone: Backbone) -> None:
    if not adapter.trains:
        return
    num_layers = adapter.num_layers
    layers = getattr(backbone.model.config, "num_hidden_layers", None)
    if num_layers in (None, USUAL_LAYERS) or layers is None or num_layers <= layers:
        return  # the usual number means "as many as there are" in a smaller model
    logger.warning(
        "num_layers=%d, but the backbone has %d layers; all of them are adapted", num_layers, layers
    )


def _say_alike(adapter: Adapter, num_members: int) -> None:
    if num_members > 1 and adapter.start_alike:
        logger.warning(
            "ensemble members with adapter %r start alike and differ only by the order of the "
            "rows; %s",
            adapter.name,
            adapter.start_alike,
        )


@restored_random_state()
def fit_frozen(
    network: Network,
    last: LastFit,
    train: PreparedTexts,
    validation: PreparedTexts | None,
    *,
    prior: ClassPrior | None = None,
) -> FitResult:
    """Fit the last layer of a network with a frozen backbone.

    A head with `solve` first moves to the optimum of its own objective, as training with an adapter
    would move it.

    Args:
        network: Network without adapters.
        last: Options of the fit.
        train: Training rows.
        validation: Held-out rows, on which the posterior chooses options.
        prior: The language model's rows for the classes; None for a prior mean of zero.
    """
    network.eval()
    states = [_states(network, rows, shown=last.progress) for rows in (train, validation) if rows]
    features, _ = states[0]
    network.feature_scale.fill_(network.encoder.root_mean_square(features))
    factor = None if prior is None else prior.centre(network, train, features)
    rows = [
        network.scaled(features, source.labels, middle)
        for source, (features, middle) in zip((train, validation), states, strict=False)
        if source is not None
    ]
    network.head.solve(rows[0])
    fit = final_fit(network, last, train, validation)
    held_out = rows[1] if len(rows) > 1 else None
    chosen = fit_last_layer(network, last, fit, rows[0], held_out)
    return FitResult(posterior=chosen, prior_factor=factor)


def _states(network: Network, rows: PreparedTexts, *, shown: bool) -> tuple[Tensor, Tensor | None]:
    """Return features of rows, and their states in the middle of the backbone."""
    with progress_bar("features", len(rows), shown=shown, unit="text") as advance:
        return network.encoder.features_and_middle(rows, advance=advance)
