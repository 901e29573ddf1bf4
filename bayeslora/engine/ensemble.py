"""The networks of a fit, one after the other: members of an ensemble, parts of the rows, or one."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.adapters.base import USUAL_LAYERS, Adapter
from bayeslora.adapters.spectrum import summary
from bayeslora.backbones.load import Backbone
from bayeslora.engine.build import build_network
from bayeslora.engine.class_prior import ClassPrior, centre
from bayeslora.engine.episodes import choose_mixtures, meta_tune, mix
from bayeslora.engine.final_fit import final_fit, fit_last_layer
from bayeslora.engine.layer_sampling import layer_sampler
from bayeslora.engine.loop import FitResult, train_network
from bayeslora.engine.network import Network
from bayeslora.engine.progress import progress_bar
from bayeslora.engine.rows import FeatureRows, LabelledTexts, prepare
from bayeslora.engine.settings import Choices, TrainingData, TrainingSettings
from bayeslora.engine.trainer import Restore, nothing_to_restore
from bayeslora.option_checks import LARGEST_SEED
from bayeslora.posteriors.base import Posterior
from bayeslora.runtime import restored_random_state

logger = logging.getLogger(__name__)

SEED_STEP = 1000
"""Between the seeds of networks that belong together."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A fit that is not the last one, to some of the training rows alone or to all that it has.

    Attributes:
        rows: Their numbers; None for all.
        name: What the directory for its checkpoints is told apart by.
        title: Of its progress bar.
    """

    rows: NDArray[np.int64] | None
    name: str
    title: str


def member_seeds(posterior: Posterior, seed: int) -> list[int]:
    """Return the seed of each network that a posterior consists of; the first is `seed` itself.

    Beyond the largest seed they go on from 0.
    """
    return [
        (seed + SEED_STEP * member) % (LARGEST_SEED + 1) for member in range(posterior.num_members)
    ]


def fit_members(
    choices: Choices,
    data: TrainingData,
    settings: TrainingSettings,
    backbone: Backbone,
    begin: Callable[[], Path | None],
    *,
    part: Part | None = None,
    stops: Sequence[int] | None = None,
    say: bool = True,
    prior: ClassPrior | None = None,
    restore: Restore = nothing_to_restore,
) -> tuple[Network, list[dict[str, Tensor]], list[FitResult]]:
    """Train every network of the posterior, one after the other.

    Returns the first network, the trained tensors of each, and what each fit measured.

    Args:
        choices: What to fit.
        data: What to fit it to.
        settings: How long and how fast.
        backbone: Loaded, without adapters.
        begin: Called once the first network is known to be possible; returns the directory of the
            checkpoints, where an interrupted fit goes on, or None for none.
        part: The training rows to fit to; None for all.
        stops: Epochs after which the training of each network stops; None for all of them.
        say: Whether to say what there is to say of data and backbone, as no earlier call did.
        prior: What the language model says of the classes; None for a prior mean of zero.
        restore: Makes that directory again if it is gone; returns whether it was.
    """
    work: Path | None = None
    members: list[dict[str, Tensor]] = []
    results: list[FitResult] = []
    seeds = member_seeds(choices.posterior, settings.seed)
    if say:
        _say_alike(choices.adapter, len(seeds))
        _say_layers(choices.adapter, backbone)
    for place, seed in enumerate(seeds):
        network = build_network(
            backbone,
            choices.adapter,
            choices.posterior,
            num_classes=len(data.classes),
            seed=seed,
            max_length=choices.max_length,
            format=choices.format,
        )
        if network.conditioning is not None:
            network.conditioning.learn(data.train[0])
        # Later members find the frozen layers' work done, and the notes said.
        first = place == 0
        if first:
            layer_sampler(network, choices.adapter, choices.posterior, settings, len(data.train[0]))
            work = begin()
        shown, say = choices.progress and first and say, first and say
        fresh = prepare(network.encoder, data.train, progress=shown, say=say)
        stop = None if stops is None else stops[place]
        each = dataclasses.replace(settings, seed=seed, stop_after=stop)
        if part is not None and part.rows is not None:
            fresh = fresh.take(part.rows.tolist())
            each = _in_as_many_steps(each, len(data.train[0]), len(part.rows))
        held = None
        if data.validation is not None:
            held = prepare(network.encoder, data.validation, progress=shown, say=say)
        title = "fit" if part is None else part.title
        title = title if len(seeds) == 1 else f"{title} member {place + 1} of {len(seeds)}"
        with _directory(work, f"member-{place}" + (f"-{part.name}" if part else "")) as directory:
            results.append(
                _trained(
                    choices,
                    network,
                    (fresh, held),
                    settings=each,
                    directory=directory,
                    prior=prior,
                    tasks=data.tasks,
                    restore=restore,
                    title=title,
                )
            )
        members += _member_states(choices, network, (fresh, held), seed=seed, prior=prior)
    network.load_trained_state(members[0])
    return network, members, results


def _member_states(
    choices: Choices,
    network: Network,
    rows: tuple[LabelledTexts, LabelledTexts | None],
    *,
    seed: int,
    prior: ClassPrior | None,
) -> list[dict[str, Tensor]]:
    """Return the trained tensors of a network, and of a pool's other members that predict apart."""
    found = [network.trained_state()]
    if choices.adapter.has_members:
        for weights in choose_mixtures(network, choices.adapter, rows[0])[1:]:
            _fit_mixture(choices, network, rows, weights, seed=seed, prior=prior, shown=False)
            found.append(network.trained_state())
    return found


def _fit_mixture(
    choices: Choices,
    network: Network,
    rows: tuple[LabelledTexts, LabelledTexts | None],
    weights: Sequence[float],
    *,
    seed: int,
    prior: ClassPrior | None,
    shown: bool,
) -> FitResult:
    """Fit the last layer to features of a mixture of a pool's members, in place."""
    mix(network, weights)
    choices.posterior.before_last_layer(final_fit(network, *rows, seed=seed, shown=shown))
    return fit_frozen(
        network,
        choices.posterior,
        *rows,
        prior=prior,
        feature_scores=choices.feature_scores,
        logit_scale=choices.logit_scale,
        seed=seed,
        progress=shown,
    )


def _in_as_many_steps(settings: TrainingSettings, num_rows: int, num_part: int) -> TrainingSettings:
    """Return the settings with which a part of the rows is fitted in about as many steps as all.

    In fewer steps a last layer is less sure of what it sees, and its answers would ask for more
    certainty than the fit to all rows needs.
    """
    return dataclasses.replace(settings, epochs=round(settings.epochs * num_rows / num_part))


def _say_layers(adapter: Adapter, backbone: Backbone) -> None:
    if not adapter.trains:
        return
    asked = adapter.num_layers
    layers = getattr(backbone.model.config, "num_hidden_layers", None)
    if asked in (None, USUAL_LAYERS) or layers is None or asked <= layers:
        return  # the usual number means "as many as there are" in a smaller model
    logger.warning("num_layers=%d, and the backbone has %d: all are adapted", asked, layers)


def _say_alike(adapter: Adapter, num_members: int) -> None:
    if num_members > 1 and adapter.start_alike:
        logger.warning(
            "members with adapter %r start alike: the order of the rows is all that tells them "
            "apart; %s",
            adapter.name,
            adapter.start_alike,
        )


def _trained(
    choices: Choices,
    network: Network,
    rows: tuple[LabelledTexts, LabelledTexts | None],
    *,
    settings: TrainingSettings,
    directory: Path,
    prior: ClassPrior | None,
    tasks: Mapping[str, int],
    restore: Restore,
    title: str,
) -> FitResult:
    """Fit one network to training and validation rows, in place."""
    adapter = choices.adapter
    if adapter.episodes is not None:
        losses = meta_tune(
            network,
            adapter.episodes,
            rows[0],
            seed=settings.seed,
            directory=directory,
            restore=restore,
            description=title if choices.progress else None,
        )
        weights = choose_mixtures(network, adapter, rows[0])[0]
        found = _fit_mixture(
            choices, network, rows, weights, seed=settings.seed, prior=prior, shown=choices.progress
        )
        figures = {f"loss_{member}": loss for member, loss in enumerate(losses, 1)}
        return dataclasses.replace(found, adapter=summary(network.sites) | figures)
    if not adapter.trains:
        return fit_frozen(
            network,
            choices.posterior,
            *rows,
            prior=prior,
            feature_scores=choices.feature_scores,
            logit_scale=choices.logit_scale,
            seed=settings.seed,
            progress=title is not None and choices.progress,
        )
    return train_network(
        network,
        *rows,
        adapter=adapter,
        posterior=choices.posterior,
        settings=settings,
        directory=directory,
        prior=prior,
        tasks=tasks,
        restore=restore,
        feature_scores=choices.feature_scores,
        logit_scale=choices.logit_scale,
        description=title if choices.progress else None,
    )


@contextmanager
def _directory(work: Path | None, name: str) -> Iterator[Path]:
    """Yield a member's checkpoint directory: a lasting one, or a temporary one."""
    if work is not None:
        yield work / name
        return
    with tempfile.TemporaryDirectory(prefix="bayeslora-fit-") as folder:
        yield Path(folder)


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
    network.feature_scale.fill_(network.encoder.root_mean_square(states[0]))
    factor = None if prior is None else centre(network, prior, train, states[0])
    rows = [
        FeatureRows(source, network.scaled(found, source.labels))
        for source, found in zip((train, validation), states, strict=False)
        if source is not None
    ]
    network.head.solve(rows[0].features)
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
