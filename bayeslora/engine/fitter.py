"""Train the networks of a classifier in turn: members, for all rows or for a part of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.adapters.base import USUAL_LAYERS
from bayeslora.adapters.low_rank import summary
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.load import Backbone
from bayeslora.data.examples import encode_labels
from bayeslora.engine.build import build_network
from bayeslora.engine.data import LabelledExamples, TrainingData
from bayeslora.engine.formats import rows_to_fit
from bayeslora.engine.network import Network, prepare
from bayeslora.engine.plan import Plan
from bayeslora.engine.training.base import FitResult, Training
from bayeslora.engine.training.final_fit import fit_frozen, fit_posterior
from bayeslora.engine.training.loop import train_network
from bayeslora.engine.training.starts import ClassPrior, LinearProbes
from bayeslora.option_checks import LARGEST_SEED
from bayeslora.posteriors.feature_scores import check_middle
from bayeslora.runtime import restored_random_state

logger = logging.getLogger(__name__)

State = Mapping[str, Tensor]
Fitted = tuple[Network, list[dict[str, Tensor]], list[FitResult]]
"""A network with the first member's tensors, and the trained tensors and results of all members."""

SEED_STEP = 1000
"""Step between the seeds of members, which wrap around to 0 beyond the largest."""


@dataclass(frozen=True)
class Fold:
    """A part of the training rows.

    Attributes:
        name: Suffix of the checkpoint directory.
        title: Title of the progress bar.
        rows: Numbers of the rows to fit to.
        unseen: Numbers of the rows to predict.
    """

    name: str
    title: str
    rows: NDArray[np.int64]
    unseen: NDArray[np.int64] = field(default_factory=lambda: np.arange(0))


@dataclass
class Fitter:
    """Fits networks to the same rows, from the same backbone.

    Attributes:
        plan: What was chosen before any network is fitted.
        data: Training and validation data.
        backbone: Loaded backbone without adapters.
        claim: Called once the first network is known to be valid; returns the checkpoint directory,
            from which an interrupted fit resumes, or None for none.
        prior: The language model's rows for the classes; None for a prior mean of zero.
        notes: Whether to log notes on data and backbone.
        probes: Starts of the last layers, and what a fit has to beat.
    """

    plan: Plan
    data: TrainingData
    backbone: Backbone
    claim: Callable[[], Path | None] = lambda: None
    prior: ClassPrior | None = None
    notes: bool = True
    probes: LinearProbes = field(default_factory=LinearProbes)
    _texts: tuple[PreparedTexts, PreparedTexts | None] | None = None

    def fit(
        self,
        plan: Plan,
        fold: Fold | None = None,
        *,
        starts: Sequence[State] | None = None,
        rate: float = 1.0,
        stops: Sequence[int] | None = None,
    ) -> Fitted:
        """Train the members of the posterior in turn.

        Args:
            plan: What was chosen by now. With stages to choose from, the last layers stay as
                trained.
            fold: The training rows to fit to; None for all.
            starts: Trained tensors from which the last epochs of each member begin; None for fresh
                networks.
            rate: Factor of all learning rates; 0 for no further step.
            stops: Number of epochs after which each member stops; None for all epochs.
        """
        states: list[dict[str, Tensor]] = []
        results: list[FitResult] = []
        work: Path | None = None
        title, suffix = ("fit", "") if fold is None else (fold.title, f"-{fold.name}")
        count = plan.posterior.num_members
        for number in range(count):
            seed = (plan.seed + SEED_STEP * number) % (LARGEST_SEED + 1)
            stop = None if stops is None else stops[number]
            start = None if starts is None else starts[number]
            settings = replace(plan.training, seed=seed, stop_after=stop)
            fit = self._training(replace(plan, seed=seed, training=settings), fold, start, rate)
            if number == 0:
                plan.adapter.hooks(fit)  # what it refuses is refused before anything is written
                work = self.claim()
            many = "" if count == 1 else f" member {number + 1} of {count}"
            directory = None if work is None else work / f"member-{number}{suffix}"
            fit = replace(fit, directory=directory, title=f"{title}{many}")
            results.append(fit_network(fit))
            states += member_states(fit)
        fit.network.load_trained_state(states[0])
        return fit.network, states, results

    def _training(
        self, plan: Plan, fold: Fold | None, start: State | None, rate: float
    ) -> Training:
        """Return the training of a fresh network."""
        rows = self._rows[0]
        network = build_network(self.backbone, plan, len(self.data.classes), rows=rows)
        check_middle(plan.feature_scores, has_middle=network.encoder.middle is not None)
        train, validation = self._prepared(network)
        settings, num_rows = plan.training, len(train)
        begin: Callable[[Network], None] | None = None
        if start is not None:
            begin = partial(_continue, state=start)
            settings = settings.finishing(num_rows)
        elif not train.num_options and not (self.prior is not None and self.prior.leads):
            own, name = (None, "") if fold is None else (fold.rows, fold.name)
            begin = partial(self.probes.begin, texts=train, rows=own, seed=plan.seed, name=name)
        if fold is not None:
            train = train.take(fold.rows.tolist())
            # In as many steps as for all rows: with fewer a last layer is less confident, and the
            # scale chosen on its answers would be too large for the fit to all rows.
            epochs = round(settings.epochs * num_rows / len(fold.rows))
            settings = replace(settings, epochs=epochs)
        return Training(
            network,
            replace(plan, training=settings),
            train,
            validation,
            prior=self.prior,
            tasks=self.data.tasks,
            begin=begin,
            rate=rate,
        )

    @cached_property
    def _rows(self) -> LabelledExamples:
        """The training rows as a fit reads them; see `rows_to_fit`."""
        rows = rows_to_fit(self.data.rows, self.plan.format, self.plan.seed)
        return rows, torch.from_numpy(encode_labels(rows, self.data.classes))

    def _prepared(self, network: Network) -> tuple[PreparedTexts, PreparedTexts | None]:
        """Return training and validation rows, prepared once for all networks."""
        if self._texts is None:
            plan, says = self.plan, self.notes
            if says and plan.posterior.num_members > 1 and plan.adapter.start_alike:
                logger.warning(
                    "ensemble members with adapter %r start alike and differ only by the order of "
                    "the rows; %s",
                    *(plan.adapter.name, plan.adapter.start_alike),
                )
            layers = getattr(self.backbone.model.config, "num_hidden_layers", None)
            num_adapted = plan.adapter.num_layers if plan.adapter.trains and says else None
            # The usual number means "as many as there are" in a smaller model.
            if layers and num_adapted not in (None, USUAL_LAYERS) and num_adapted > layers:
                logger.warning(
                    "num_layers=%d, but the backbone has %d layers; all of them are adapted",
                    *(num_adapted, layers),
                )
            ready = partial(prepare, network.encoder, progress=plan.progress and says, say=says)
            held_out = self.data.validation
            self._texts = ready(self._rows), None if held_out is None else ready(held_out)
        return self._texts


def _continue(network: Network, state: State) -> None:
    """Load trained tensors into a fresh network, without the fit of the last layer."""
    network.expect(state)
    network.load_trained_state({name: state[name] for name in network.trained_state()})


def fit_network(fit: Training) -> FitResult:
    """Fit a network in place: its adapter, if it trains, and the last layer."""
    adapter = fit.plan.adapter
    if adapter.trains_itself:
        figures = adapter.train(fit)
        adapter.variants(fit.network, fit.train)[0]()
        return replace(fit_frozen(fit), adapter=summary(fit.network.sites) | figures)
    if not adapter.trains:
        return fit_frozen(fit)
    with restored_random_state():
        result = train_network(fit)
        # A stage is chosen before the last layer is fitted.
        return result if fit.settings.choose_epochs else fit_posterior(fit, result)


def member_states(fit: Training) -> list[dict[str, Tensor]]:
    """Return the trained tensors of a network, and of the other variants that predict."""
    states = [fit.network.trained_state()]
    if fit.plan.adapter.has_members:
        quiet = replace(fit, plan=replace(fit.plan, progress=False))
        for put in fit.plan.adapter.variants(fit.network, fit.train)[1:]:
            put()
            fit_frozen(quiet)
            states.append(fit.network.trained_state())
    return states
