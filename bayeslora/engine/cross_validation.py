"""Train the networks of a classifier in turn: without a part of the rows, which choose; for all."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.adapters.low_rank import summary
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.load import Backbone
from bayeslora.data.examples import Examples, encode_labels
from bayeslora.data.splits import folds_of, split_examples
from bayeslora.engine.build import build_network, rows_to_fit
from bayeslora.engine.data import LabelledExamples, TrainingData
from bayeslora.engine.final_fit import fit_frozen, fit_posterior, scale_logits
from bayeslora.engine.loop import train_network
from bayeslora.engine.network import Network, feature_rows, prepare, targets_of
from bayeslora.engine.plan import Plan
from bayeslora.engine.predict import Answer, answer, to_predictions
from bayeslora.engine.starts import Average, ClassPrior, LinearProbes, can_average
from bayeslora.engine.training import FitResult, Training
from bayeslora.engine.training_options import FINISHING_RATE, TrainingSettings
from bayeslora.errors import InputError
from bayeslora.links import best_scale, hard, link_probabilities, nll
from bayeslora.logits import AnyLogits, GaussianLogits
from bayeslora.option_checks import LARGEST_SEED
from bayeslora.plain_text import counted
from bayeslora.posteriors.feature_scores import check_middle
from bayeslora.posteriors.fitted_scores import FeatureScores
from bayeslora.predictions.files import HELD_OUT_ROWS
from bayeslora.predictions.record import Predictions
from bayeslora.processes import current, restored_random_state

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
        held_out: Predictions of the rows that networks were fitted without, after
            cross-validation.
    """

    plan: Plan
    data: TrainingData
    backbone: Backbone
    claim: Callable[[], Path | None] = lambda: None
    prior: ClassPrior | None = None
    notes: bool = True
    probes: LinearProbes = field(default_factory=LinearProbes)
    held_out: Predictions | None = None
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
            states.append(fit.network.trained_state())
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
            says, shows = self.notes, self.plan.progress and self.notes
            ready = partial(prepare, network.encoder, progress=shows, say=says)
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
        adapter.merge_for(fit.network, fit.train)
        return replace(fit_frozen(fit), adapter=summary(fit.network.sites) | figures)
    if not adapter.trains:
        return fit_frozen(fit)
    with restored_random_state():
        result = train_network(fit)
        # A stage is chosen before the last layer is fitted.
        return result if fit.settings.choose_epochs else fit_posterior(fit, result)


_PARTS, _ENOUGH_ROWS = 5, 128

Starts = Sequence[State]
"""Trained tensors of each member, from which its training goes on."""


def fit_networks(fitter: Fitter, final: TrainingData) -> tuple[Fitted, dict[str, Any]]:
    """Fit to all rows, after fits to parts of them if held-out rows choose options.

    Args:
        fitter: What was chosen, and the data divided into training and validation rows.
        final: Data of the last fit.

    Returns:
        The fitted networks, and entries for the record.

    Raises:
        InputError: Folds were chosen, but no row can be held out.
    """
    plan, settings = fitter.plan, fitter.plan.training
    held_out = fitter.data.validation
    if held_out is not None:
        if plan.posterior.scales_logits:
            plan = replace(plan, logit_scale=None)
        return refit(fitter, plan, held_out, final) if settings.refit else (fitter.fit(plan), {})
    folds = divided(*fitter.data.train, settings)
    if folds:
        return cross_validate(fitter, plan, folds)
    if settings.keep_folds or settings.cv not in (0, "auto"):
        raise InputError(
            "no row can be held out: every text occurs in several rows or is the only one of its "
            "class; leave cv and keep_folds out"
        )
    return fitter.fit(plan), {}


def refit(
    fitter: Fitter, plan: Plan, held_out: LabelledExamples, final: TrainingData
) -> tuple[Fitted, dict[str, Any]]:
    """Fit without the held-out rows, and then to all rows with the options chosen on them."""
    everything = np.arange(len(fitter.data.rows))
    fold = Fold("without-held-out", "fit without held-out rows", everything)
    network, members, results = fitter.fit(replace(plan, feature_scores=()), fold)
    texts = prepare(network.encoder, held_out, progress=False, say=False)
    labels = texts.labels
    pieces = answer(network, members, plan.posterior, texts)
    drawing, posterior = plan.posterior.drawing, results[0].posterior
    probs = torch.cat([link_probabilities(piece.logits, **drawing).probs.cpu() for piece in pieces])
    epochs = tuple(result.best_epoch for result in results)
    scale = float(posterior.get("logit_scale", 1.0))
    chosen = {
        "num_rows": len(labels),
        "epochs": epochs,
        "logit_scale": scale,
        "nll": nll(probs, labels),
        "accuracy": float((probs.argmax(1) == hard(labels)).double().mean()),
    }
    plan = replace(plan, posterior=plan.posterior.as_chosen(posterior), logit_scale=scale)
    whole = Fitter(plan, final, fitter.backbone, fitter.claim, fitter.prior, notes=False)
    return whole.fit(plan, stops=epochs), {"held_out": chosen}


def cross_validate(
    fitter: Fitter, plan: Plan, folds: Sequence[Fold]
) -> tuple[Fitted, dict[str, Any]]:
    """Train without each fold, choose options on the rows that it holds out, and fit to all rows.

    Args:
        fitter: Fits networks to the rows.
        plan: What was chosen.
        folds: The folds.

    Returns:
        As `fit_networks`.
    """
    settings, train = plan.training, fitter.data.train
    logger.info(
        "cross-validation: %s to part of the rows; the others choose %sthe scale%s",
        counted(len(folds), "fit"),
        "epochs and " if settings.choose_epochs else "",
        ", and all networks are kept" if settings.keep_folds else "",
    )
    learnt: dict[str, Any] = {}
    starts: list[Starts | None] = [None] * len(folds)
    if settings.choose_epochs:
        learnt["epochs"], starts = choose_epochs(fitter, plan, folds)
    trained = train_folds(fitter, plan, folds, starts)
    scale = learnt["logit_scale"] = choose_scale(trained, plan, folds)
    fitter.held_out = held_out_predictions(
        trained.answers,
        [fold.unseen for fold in folds],
        fitter.data.rows,
        plan,
        fitter.data.classes,
        factor=scale["factor"],
        means_alone=trained.network.head.scales_mean,
    )
    average = averaged(trained, train, scale)
    if cheaper := baselines(train, folds, fitter.probes, scale["nll"]):
        learnt["baselines"] = cheaper
    if settings.keep_folds:
        return kept(trained, scale["factor"]), learnt
    scaled = replace(plan, logit_scale=scale["factor"])
    if average is not None:
        learnt["averaged"] = trained.average.count
        # It has seen all rows: further steps would only make it surer than its scale knows.
        return fitter.fit(scaled, starts=[average], rate=0.0), learnt
    if trained.states:
        return fitter.fit(scaled, starts=trained.states, rate=FINISHING_RATE), learnt
    return fitter.fit(scaled), learnt


@dataclass(frozen=True)
class Trained:
    """What is needed of the networks that were trained without a fold.

    Attributes:
        network: The last of them.
        answers: Logits of the held-out rows and their labels, in pieces.
        states: Trained tensors: of every network if the folds are kept; else of the first fold, if
            training can go on from them.
        results: Results of these networks.
        average: The average of all networks, as far as they can be averaged.
    """

    network: Network
    answers: list[tuple[AnyLogits, Tensor]]
    states: list[dict[str, Tensor]]
    results: list[FitResult]
    average: Average


def train_folds(
    fitter: Fitter, plan: Plan, folds: Sequence[Fold], starts: Sequence[Starts | None]
) -> Trained:
    """Train a network without each fold, and predict the rows that it holds out.

    Args:
        fitter: Fits networks to the rows.
        plan: What was chosen.
        folds: The folds.
        starts: For each fold, where a training that has ended stands; None trains.
    """
    bare, train = replace(plan, feature_scores=()), fitter.data.train
    answers: list[tuple[AnyLogits, Tensor]] = []
    kept_states: list[dict[str, Tensor]] = []
    kept_results: list[FitResult] = []
    average = Average()
    for fold, start in zip(folds, starts, strict=True):
        rate = 1.0 if start is None else 0.0
        network, states, results = fitter.fit(bare, fold, starts=start, rate=rate)
        texts = prepare(network.encoder, train, progress=False, say=False)
        unseen = texts.take(fold.unseen.tolist())
        logits = [piece.logits for piece in answer(network, states, plan.posterior, unseen)]
        labels = torch.split(texts.labels[fold.unseen], [len(piece.mean) for piece in logits])
        answers += zip(logits, labels, strict=True)
        if plan.training.keep_folds:
            kept_states += states
            kept_results += results
        elif plan.posterior.chooses_epoch:
            kept_states = kept_states or states
            if len(states) == 1 and can_average(network):
                average.add(network)
    return Trained(network, answers, kept_states, kept_results, average)


def choose_scale(trained: Trained, plan: Plan, folds: Sequence[Fold]) -> dict[str, Any]:
    """Return the scale of the logits with the lowest NLL on held-out rows, for the record.

    Returns:
        `factor` of all logits; `nll` of the held-out rows with it and `nll_before` without it, in
        nats per row; `num_rows` that were held out, and `num_fits` that held them out.
    """
    head, drawing = trained.network.head, plan.posterior.drawing
    factor, before, after = best_scale(trained.answers, means_alone=head.scales_mean, **drawing)
    logger.info("logit scale %.2f: held-out NLL %.3f nats, without it %.3f", factor, after, before)
    return {
        "factor": factor,
        "nll": after,
        "nll_before": before,
        "num_rows": sum(len(fold.unseen) for fold in folds),
        "num_fits": len(folds),
    }


def held_out_predictions(
    answers: Sequence[tuple[AnyLogits, Tensor]],
    folds: Sequence[NDArray[np.int64]],
    rows: Examples,
    plan: Plan,
    classes: Sequence[str],
    *,
    factor: float,
    means_alone: bool,
) -> Predictions:
    """Return the predictions of all held-out rows, in the order of the data.

    They are those of single networks, and so less accurate than those of the final one, which is
    fitted to more rows or averages them. The scale was chosen on the same rows: one parameter, by
    which they look slightly better than rows that chose nothing.

    Args:
        answers: The networks' logits of the rows that each did not see, and their labels.
        folds: Places of these rows in `rows`, fold by fold.
        rows: The training rows.
        plan: The posterior, with the link that the classifier predicts by.
        classes: C names.
        factor: Scale of the logits.
        means_alone: Whether it scales only their means.
    """
    unseen = np.concatenate([*folds])
    chosen, posterior = rows.take(unseen), plan.posterior
    predictions = to_predictions(
        (
            Answer(logits.sharpened(factor) if means_alone else logits.scaled(factor))
            for logits, _ in answers
        ),
        classes,
        link=posterior.link or "mc",
        num_samples=posterior.num_samples or 0,
        seed=0,
        feature_scores=FeatureScores(),
        available=chosen.available(len(classes)),
        notes={"held_out": "cross-validation", HELD_OUT_ROWS: f"{len(unseen)} of {len(rows)}"},
        labels=torch.cat([hard(labels).cpu() for _, labels in answers]).numpy(),
        soft_labels=None if chosen.shares is None else np.array(chosen.shares),
        ids=chosen.ids,
        columns=chosen.further,
    )
    return predictions.take(np.argsort(unseen))


def kept(trained: Trained, factor: float) -> Fitted:
    """Return the networks of all folds as an ensemble, each with its logits scaled."""
    network, scaled = trained.network, []
    for state in trained.states:
        network.load_trained_state(state)
        scale_logits(network, factor)
        scaled.append(network.trained_state())
    network.load_trained_state(scaled[0])
    return network, scaled, trained.results


def choose_epochs(
    fitter: Fitter, plan: Plan, folds: Sequence[Fold]
) -> tuple[dict[str, float], list[Starts | None]]:
    """Train a network without each fold, and choose the stage that is best for all of them.

    Returns:
        NLL of all held-out rows by the number of epochs, and the networks at the end of the best
        stage, whose last layers are not fitted yet.
    """
    bare, trained = replace(plan, feature_scores=()), []
    for fold in folds:
        network, _, results = fitter.fit(bare, fold)
        trained.append(results)
    losses = _by_stage(trained, network, fitter.data.train, folds)
    best = current().told(int(np.argmin(losses)))
    starts: list[Starts | None] = [[fit.stages[best] for fit in results] for results in trained]
    epochs = dict(zip(map(str, plan.training.stages), losses, strict=True))
    shown = ", ".join(f"{number}: {loss:.3f}" for number, loss in epochs.items())
    logger.info("held-out NLL by epochs: %s%s", shown, "" if losses[best:-1] else "; try more")
    return epochs, starts


def _by_stage(
    fits: Sequence[Sequence[FitResult]],
    network: Network,
    train: LabelledExamples,
    folds: Sequence[Fold],
) -> list[float]:
    """Return the NLL of all held-out rows at its best scale, after each stage.

    One stage is chosen for all folds: the best of each would look better than it is, on its few
    rows, and the scale chosen on the same rows would be too large.

    Args:
        fits: Results of the members, for each fold.
        network: A network of these fits.
        train: The training rows.
        folds: The folds.
    """
    texts = prepare(network.encoder, train, progress=False, say=False)
    network.eval()
    losses = []
    for stage in range(len(fits[0][0].stages)):
        answers = []
        for members, fold in zip(fits, folds, strict=True):
            for member in members:
                network.load_trained_state(member.stages[stage])
                rows = feature_rows(network, texts.take(fold.unseen.tolist())).double()
                logits = rows.logits(network.head.trained_mean.double())
                answers.append((GaussianLogits.point(logits), rows.targets))
        losses.append(best_scale(answers, num_samples=0)[2])
    return losses


def averaged(
    trained: Trained, train: LabelledExamples, scale: Mapping[str, Any]
) -> dict[str, Tensor] | None:
    """Return the average of the networks if it is no worse than they are, else None.

    Each network was fitted to most of the training rows, so the average should have a lower loss on
    them than the networks have on rows that they have not seen. It fails if its loss is higher by
    more than two standard errors: then a barrier of the loss lies between the networks.

    Args:
        trained: The networks.
        train: The training rows.
        scale: The scale of the networks' logits, and their NLL on held-out rows.
    """
    network, count, highest = trained.network, trained.average.count, scale["nll"]
    if count < 2:
        return None
    trained.average.load(network)
    texts = prepare(network.encoder, train, progress=False, say=False)
    rows = feature_rows(network, texts).double()
    logits = scale["factor"] * rows.logits(network.head.trained_mean.double())
    losses = torch.nn.functional.cross_entropy(logits, rows.targets, reduction="none").cpu()
    error = losses.std(correction=0) * math.sqrt(1 / len(losses) + 1 / scale["num_rows"])
    holds = current().told(bool(losses.mean() <= highest + 2 * error))
    if holds:
        logger.info("averaged %d networks", count)
        return network.trained_state()
    logger.warning(
        "the average of %d networks is not used, since its NLL on training rows, %.3f nats, is "
        "above theirs on held-out rows, %.3f; the first of them is trained further. More "
        "epochs may help",
        *(count, losses.mean(), highest),
    )
    return None


def held_out_parts(
    examples: Examples, labels: NDArray[np.int64], cv: int | str, seed: int
) -> list[NDArray[np.int64]]:
    """Return the row numbers of each held-out part; a class's only input is never held out.

    Args:
        examples: N examples; those of a group, or of equal inputs, are held out together.
        labels: [N] class indices.
        cv: Number of parts; `auto` for as many of five parts as contain 128 rows.
        seed: Seed of the division.

    Raises:
        InputError: There are fewer rows or groups than parts.
    """
    if cv == 0:
        return []
    rows = len(labels)
    count = min(_PARTS, rows) if isinstance(cv, str) else cv
    used = count
    if isinstance(cv, str):
        used = math.ceil(_ENOUGH_ROWS * count / rows)
    if count > rows:
        raise InputError(f"cv must be at most {rows}, the number of training rows, got {count}")
    if count < 2:
        return []
    strata = examples.strata(labels)
    fold = folds_of(examples, strata, count, seed)
    parts = []
    for own in (fold == part for part in range(min(used, count))):
        others = np.bincount(strata[~own], minlength=strata.max() + 1)
        parts.append(np.flatnonzero(own & (others[strata] > 0)))
    return [part for part in parts if len(part)]


def divided(examples: Examples, labels: Tensor, settings: TrainingSettings) -> list[Fold]:
    """Return the folds of cross-validation, each of which holds some rows out.

    A row whose text also occurs outside of the held-out rows is fitted to.
    """
    parts = held_out_parts(examples, labels.numpy(), settings.cv, settings.seed)
    text = examples.input_numbers
    unseen = [part[~np.isin(text[part], np.delete(text, part))] for part in parts]
    unseen = [part for part in unseen if len(part)]
    folds = []
    for number, part in enumerate(unseen):
        title = f"part {number + 1} of {len(unseen)}"
        others = np.setdiff1d(np.arange(len(labels)), part)
        folds.append(Fold(f"without-{number}", title, others, part))
    return folds


def split_off(data: TrainingData, share: float, seed: int) -> TrainingData:
    """Split validation rows off the training rows; see `split_examples`."""
    examples, labels = data.train
    split = split_examples(examples, labels.numpy(), share, seed)
    train, validation = ((examples.take(rows), labels[rows]) for rows in split)
    return replace(data, train=train, validation=validation)


_BASELINES = ("linear_probe", "bag_of_words")
# TF-IDF with logistic regression stays within seconds.
_MOST_ROWS = 4096
_ABSENT = math.log(1e-6)


def baselines(
    train: LabelledExamples, folds: Sequence[Fold], probes: LinearProbes, own: float
) -> dict[str, float]:
    """Return the NLL of held-out rows under cheaper models; see `baseline_losses`.

    `linear_probe` is a last layer on features of the backbone without an adapter, `bag_of_words` a
    logistic regression on TF-IDF. Both are fitted to the rows of each part and have the scale of
    lowest NLL, as the fit has.

    Args:
        train: Training rows.
        folds: Parts of the rows, with the rows that they hold out.
        probes: Logits of the linear probes.
        own: NLL of the fit, in nats per row.
    """
    answers: dict[str, list[tuple[AnyLogits, Tensor]]] = {name: [] for name in _BASELINES}
    for fold in folds:
        labels, probed = targets_of(*train)[fold.unseen], probes.answers.get(fold.name)
        if probed is not None:
            answers["linear_probe"].append((GaussianLogits.point(probed[fold.unseen]), labels))
        examples, of = train
        counts = bag_of_words((examples.take(fold.rows), of[fold.rows]), examples.take(fold.unseen))
        if counts is not None:
            answers["bag_of_words"].append((GaussianLogits.point(counts), labels))
    return baseline_losses(answers, own)


def baseline_losses(
    answers: Mapping[str, Sequence[tuple[AnyLogits, Tensor]]], own: float
) -> dict[str, float]:
    """Return the NLL of cheaper models at their best scale; warn if one is better than the fit.

    Args:
        answers: Logits of held-out rows and their labels, by model and part.
        own: NLL of the fit, in nats per row.
    """
    scores = {name: best_scale(known, num_samples=0)[2] for name, known in answers.items() if known}
    for name, score in scores.items():
        if score < own:
            logger.warning(
                "on held-out rows, the NLL of the fit, %.3f, is above that of a %s, %.3f",
                *(own, name.replace("_", " "), score),
            )
    return scores


def tfidf() -> Any:
    """Return scikit-learn's logistic regression on TF-IDF of words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    return make_pipeline(words, LogisticRegression(C=10.0, max_iter=200))


def bag_of_words(train: LabelledExamples, unseen: Examples) -> Tensor | None:
    """Return logits [n, C] of unseen rows by logistic regression on TF-IDF.

    None for images, questions, several tasks, texts without a word, and a single class.

    Args:
        train: Training rows, of which at most 4,096 are used.
        unseen: Rows to predict.
    """
    examples, labels = train
    if examples.choices is not None or examples.images or examples.among is not None:
        return None
    used = np.unique(np.linspace(0, len(labels) - 1, _MOST_ROWS).round().astype(int))
    model = tfidf()
    try:
        model.fit(_whole_texts(examples.take(used)), labels[used])
    except ValueError:  # no word, or one class
        return None
    known = torch.from_numpy(model.predict_log_proba(_whole_texts(unseen))).double()
    logits = torch.full((len(known), int(labels.max()) + 1), _ABSENT, dtype=torch.float64)
    logits[:, torch.from_numpy(model.classes_)] = known
    return logits


def _whole_texts(rows: Examples) -> list[str]:
    return list(map(" ".join, zip(rows.texts, rows.pairs or [""] * len(rows), strict=True)))
