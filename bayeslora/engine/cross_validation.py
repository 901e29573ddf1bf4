"""Further fits, each without a part of the rows: they choose the scale, and may be averaged."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.data.examples import Examples
from bayeslora.data.splits import grouped_folds, split_examples, stratified_folds
from bayeslora.engine.baselines import baselines
from bayeslora.engine.data import LabelledExamples, TrainingData
from bayeslora.engine.ensemble import Further, Part
from bayeslora.engine.network import Network
from bayeslora.engine.plan import Plan
from bayeslora.engine.predict import answer
from bayeslora.engine.rows import feature_rows, prepare
from bayeslora.engine.training.final_fit import drawing_of, scale_logits
from bayeslora.engine.training.loop import FitResult
from bayeslora.engine.training.starts import Average, LinearProbes, can_average
from bayeslora.engine.training_options import FINISHING_RATE, TrainingSettings
from bayeslora.errors import InputError
from bayeslora.links import link_probabilities, nll
from bayeslora.logits import AnyLogits, GaussianLogits
from bayeslora.plain_text import counted
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.logit_scale import best_scale
from bayeslora.processes import current

logger = logging.getLogger(__name__)

_PARTS, _ENOUGH_ROWS = 5, 128


@dataclass(frozen=True)
class ChosenScale:
    """The scale of the logits, chosen on held-out rows.

    Attributes:
        factor: Factor of all logits.
        nll: NLL of the held-out rows with the factor, in nats per row.
        nll_before: NLL without it.
        num_rows: Number of held-out rows.
        num_fits: Number of fits that held them out.
    """

    factor: float
    nll: float
    nll_before: float
    num_rows: int
    num_fits: int


@dataclass(frozen=True)
class Folds:
    """The fits that each held out a part of the rows.

    Attributes:
        network: The network of the last fit.
        states: Trained tensors of each fit; empty unless the folds are kept.
        results: Results of each fit; empty unless the folds are kept.
        scale: The scale chosen on the held-out rows.
        further: From what the fit to all rows goes on: the average of the networks if they can be
            averaged, else the first; None for a fresh start.
        num_averaged: Number of networks in the average; 0 for none.
        epochs: NLL of the held-out rows at its best scale, in nats per row, by the number of epochs
            after which it was measured; empty if they choose none.
        baselines: NLL of the same held-out rows under what a fit should beat; see `baselines`.
    """

    network: Network
    states: list[dict[str, Tensor]]
    results: list[FitResult]
    scale: ChosenScale
    further: Further | None = None
    num_averaged: int = 0
    epochs: Mapping[str, float] = field(default_factory=dict)
    baselines: Mapping[str, float] = field(default_factory=dict)

    def kept(self) -> tuple[Network, list[dict[str, Tensor]], list[FitResult]]:
        """Return the fits as `fit_members` does, each with the scale applied."""
        scaled = []
        for state in self.states:
            self.network.load_trained_state(state)
            scale_logits(self.network, self.scale.factor)
            scaled.append(self.network.trained_state())
        self.network.load_trained_state(scaled[0])
        return self.network, scaled, self.results


def held_out_parts(
    labels: NDArray[np.int64],
    cv: int | str,
    seed: int,
    *,
    every: bool = False,
    groups: Sequence[str] | None = None,
) -> list[NDArray[np.int64]]:
    """Return the row numbers of each held-out part; a class's only row is never held out.

    Args:
        labels: [N] class indices.
        cv: Number of parts; `auto` for as many of five parts as contain 128 rows.
        seed: Seed of the division.
        every: Whether `auto` takes all five.
        groups: [N] names of groups of rows to hold out together, or None.

    Raises:
        InputError: There are fewer rows or groups than parts.
    """
    if cv == 0:
        return []
    rows = len(labels)
    if isinstance(cv, str):
        count = min(_PARTS, rows)
        used = count if every else math.ceil(_ENOUGH_ROWS * count / rows)
    else:
        count = used = cv
    if count > rows:
        raise InputError(f"cv must be at most {rows}, the number of training rows, got {count}")
    if count < 2:
        return []
    if groups is None:
        fold = stratified_folds(labels, count, seed)
    else:
        fold = grouped_folds(groups, count, seed)
    single = np.bincount(labels)[labels] == 1
    parts = [np.flatnonzero((fold == part) & ~single) for part in range(min(used, count))]
    return [part for part in parts if len(part)]


def divided(
    examples: Examples, labels: Tensor, settings: TrainingSettings
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Return the rows of each part to leave out of a fit, and those of them that it does not see.

    A text that also occurs in the other parts is not unseen.
    """
    parts = held_out_parts(
        examples.strata(labels.numpy()),
        settings.cv,
        settings.seed,
        every=settings.keep_folds,
        groups=examples.groups,
    )
    text = examples.input_numbers
    unseen = [part[~np.isin(text[part], np.delete(text, part))] for part in parts]
    if settings.keep_folds:
        return parts, unseen
    unseen = [part for part in unseen if len(part)]
    return unseen, unseen


def cross_validate(
    fit: Callable[..., Any],
    plan: Plan,
    train: LabelledExamples,
    probes: LinearProbes,
) -> Folds | None:
    """Fit to all rows except one part, for each part; return None if no row is held out.

    Args:
        fit: `fit_members` without plan, part and say.
        plan: What was chosen.
        train: The training rows to divide.
        probes: What `fit` shares between its networks.
    """
    labels, settings = train[1], plan.training
    parts, unseen = divided(train[0], labels, settings)
    if not sum(map(len, unseen)):
        return None
    logger.info(
        "cross-validation: %s to part of the rows; the others choose %sthe scale%s",
        counted(len(parts), "fit"),
        "epochs and " if settings.choose_epochs else "",
        ", and all networks are kept" if settings.keep_folds else "",
    )
    fit = partial(fit, replace(plan, feature_scores=()))
    divisions = [
        Part(
            np.setdiff1d(np.arange(len(labels)), rows),
            f"without-{number}",
            f"part {number + 1} of {len(parts)}",
            left_out,
        )
        for number, (rows, left_out) in enumerate(zip(parts, unseen, strict=True))
    ]
    epochs: dict[str, float] = {}
    starts: list[Further | None] = [None] * len(parts)
    if settings.choose_epochs:
        epochs, starts = _choose_epochs(fit, train, divisions, settings.stages)
    states, results, average = [], [], Average()
    answers: list[tuple[AnyLogits, Tensor]] = []
    further: Further | None = None
    for number, (part, start) in enumerate(zip(divisions, starts, strict=True)):
        network, members, measured = fit(
            part=part, say=number == 0 and start is None, further=start
        )
        answers += _answers(network, members, plan.posterior, train, part)
        if settings.keep_folds:
            states += members
            results += measured
        elif plan.posterior.chooses_epoch:
            further = further or Further(members, FINISHING_RATE)
            if len(members) == 1 and can_average(network):
                average.add(network)
    drawing = drawing_of(plan.posterior)
    factor, before, after = best_scale(answers, means_alone=network.head.scales_mean, **drawing)
    logger.info("logit scale %.2f: held-out NLL %.3f nats, without it %.3f", factor, after, before)
    scale = ChosenScale(factor, after, before, sum(map(len, unseen)), len(parts))
    further, num_averaged = _averaged(average, network, train, scale, further)
    scored = [part for part in divisions if len(part.unseen)]
    cheaper = baselines(train, scored, probes, scale.nll)
    return Folds(network, states, results, scale, further, num_averaged, epochs, cheaper)


def _choose_epochs(
    fit: Callable[..., Any],
    train: LabelledExamples,
    parts: Sequence[Part],
    stages: Sequence[int],
) -> tuple[dict[str, float], list[Further | None]]:
    """Train a network without each part, and choose the stage that is best for all of them.

    Args:
        fit: `fit_members` for the plan.
        train: The training rows.
        parts: The parts.
        stages: Number of epochs at the end of each stage.

    Returns:
        NLL of all held-out rows by the number of epochs, and the networks at the end of the best
        stage, whose last layers are not fitted yet.
    """
    trained = []
    for number, part in enumerate(parts):
        network, _, results = fit(part=part, say=number == 0, fit_last=False)
        trained.append(results)
    losses = _by_stage(trained, network, train, parts)
    best = current().told(int(np.argmin(losses)))
    starts: list[Further | None] = [
        Further([member.stages[best] for member in members], 0.0) for members in trained
    ]
    return dict(zip(map(str, stages), losses, strict=True)), starts


def _answers(
    network: Network,
    members: Sequence[Mapping[str, Tensor]],
    posterior: Posterior,
    train: LabelledExamples,
    part: Part,
) -> list[tuple[AnyLogits, Tensor]]:
    """Return the logits of a part's unseen rows and their labels, in pieces."""
    if not len(part.unseen):
        return []
    texts = prepare(network.encoder, train, progress=False, say=False)
    pieces = answer(network, members, posterior, texts.take(part.unseen.tolist()))
    logits = [piece.logits for piece in pieces]
    labels = torch.split(train[1][part.unseen], [len(piece.mean) for piece in logits])
    return list(zip(logits, labels, strict=True))


def _by_stage(
    fits: Sequence[Sequence[FitResult]],
    network: Network,
    train: LabelledExamples,
    parts: Sequence[Part],
) -> list[float]:
    """Return the NLL of all held-out rows at its best scale, after each stage.

    One stage is chosen for all parts: the best of each would look better than it is, on its few
    rows, and the scale chosen on the same rows would be too large.

    Args:
        fits: Results of the members, for each part.
        network: A network of these fits.
        train: The training rows.
        parts: The parts.
    """
    texts = prepare(network.encoder, train, progress=False, say=False)
    network.eval()
    losses = []
    for stage in range(len(fits[0][0].stages)):
        answers = []
        for members, part in zip(fits, parts, strict=True):
            if not len(part.unseen):
                continue
            for member in members:
                network.expect(member.stages[stage])
                network.load_trained_state(member.stages[stage])
                rows = feature_rows(network, texts.take(part.unseen.tolist())).double()
                logits = rows.logits(network.head.trained_mean.double())
                answers.append((GaussianLogits.point(logits), rows.targets))
        losses.append(best_scale(answers, num_samples=0)[2])
    return losses


def _averaged(
    average: Average,
    network: Network,
    train: LabelledExamples,
    scale: ChosenScale,
    further: Further | None,
) -> tuple[Further | None, int]:
    """Return from what the fit to all rows goes on, and the number of averaged networks."""
    if average.count < 2:
        return further, 0
    average.load(network)
    if not _holds(network, train, scale, average.count):
        return further, 0
    # It has seen all rows: further steps would only make it surer than its scale knows.
    return Further([network.trained_state()], 0.0), average.count


def _holds(network: Network, train: LabelledExamples, scale: ChosenScale, count: int) -> bool:
    """Return whether an average of networks is no worse than they are.

    Each network was fitted to most of the training rows, so the average should have a lower loss on
    them than the networks have on rows that they have not seen. It fails if its loss is higher by
    more than two standard errors: then a barrier of the loss lies between the networks.

    Args:
        network: The average.
        train: The training rows.
        scale: The scale of the networks' logits, and their NLL on held-out rows.
        count: Number of networks.
    """
    texts = prepare(network.encoder, train, progress=False, say=False)
    rows = feature_rows(network, texts).double()
    logits = scale.factor * rows.logits(network.head.trained_mean.double())
    losses = torch.nn.functional.cross_entropy(logits, rows.targets, reduction="none").cpu()
    error = losses.std(correction=0) * math.sqrt(1 / len(losses) + 1 / scale.num_rows)
    holds = current().told(bool(losses.mean() <= scale.nll + 2 * error))
    if holds:
        logger.info("averaged %d networks", count)
    else:
        logger.warning(
            "the average of %d networks is not used, since its NLL on training rows, %.3f nats, is "
            "above theirs on held-out rows, %.3f; the first of them is trained further. More "
            "epochs may help",
            *(count, losses.mean(), scale.nll),
        )
    return bool(holds)


@dataclass(frozen=True)
class HeldOut:
    """Options for the fit to all rows, chosen on held-out rows.

    Attributes:
        num_rows: Number of held-out rows.
        epochs: Best epoch of each network, counted from 1; 0 without an adapter.
        logit_scale: Factor of all logits.
        nll: NLL of the held-out rows under the fit without them, in nats per row.
        accuracy: Accuracy on these rows under the same fit.
    """

    num_rows: int
    epochs: tuple[int, ...]
    logit_scale: float
    nll: float
    accuracy: float


def split_off(data: TrainingData, share: float, seed: int) -> TrainingData:
    """Split validation rows off the training rows; see `split_examples`."""
    examples, labels = data.train
    train_rows, validation_rows = split_examples(examples, labels.numpy(), share, seed)
    train, validation = (
        (examples.take(rows), labels[rows]) for rows in (train_rows, validation_rows)
    )
    return dataclasses.replace(data, train=train, validation=validation)


def what_was_chosen(
    fitted: tuple[Network, Sequence[Mapping[str, Tensor]], Sequence[FitResult]],
    posterior: Posterior,
    held_out: LabelledExamples,
) -> HeldOut:
    """Return the options for the fit to all rows, chosen by a fit with held-out rows.

    Args:
        fitted: Return value of `fit_members`.
        posterior: The fitted posterior.
        held_out: The held-out rows.
    """
    network, members, results = fitted
    texts = prepare(network.encoder, held_out, progress=False, say=False)
    drawing = drawing_of(posterior)
    parts = [
        link_probabilities(piece.logits, **drawing).probs.cpu()
        for piece in answer(network, members, posterior, texts)
    ]
    probs, labels = torch.cat(parts), held_out[1]
    return HeldOut(
        num_rows=len(labels),
        epochs=tuple(result.best_epoch for result in results),
        logit_scale=float(results[0].posterior.get("logit_scale", 1.0)),
        nll=nll(probs, labels),
        accuracy=float((probs.argmax(1) == labels).double().mean()),
    )
