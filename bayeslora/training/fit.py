"""One fit: from labelled texts to a trained network with its posterior."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from bayeslora.adapters.config import AdapterConfig
from bayeslora.adapters.config_starts import CorDA
from bayeslora.adapters.spectrum import summary
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.links import link_probabilities
from bayeslora.logits import Logits
from bayeslora.optim.alternating import build_optimizer
from bayeslora.posteriors.build import Head
from bayeslora.posteriors.config import VBLL, PosteriorConfig
from bayeslora.posteriors.feature_scores import Familiar, FeatureScores
from bayeslora.posteriors.laplace_lora import LaplaceLoRAWeights
from bayeslora.posteriors.nuts import NUTSHead
from bayeslora.posteriors.scores import nll
from bayeslora.posteriors.vbll import VBLLHead
from bayeslora.training.context import begin_from_context
from bayeslora.training.heads import (
    GradientSteps,
    HeadUpdate,
    JointSteps,
    Refits,
    TrainingFeatures,
)
from bayeslora.training.linearised import fit_laplace_lora, linearised_logits
from bayeslora.training.network import Network
from bayeslora.training.patience import Patience, what_is_left
from bayeslora.training.progress import TrainingBar, progress_bar, quiet_transformers
from bayeslora.training.resume import last_checkpoint
from bayeslora.training.settings import TrainingSettings
from bayeslora.training.trainer import AlternatingTrainer, Validate
from bayeslora.training.weights import weight_training

logger = logging.getLogger(__name__)

EpochHook = Callable[[int, Network], None]


@dataclass(frozen=True)
class LabelledTexts:
    """Prepared texts with their labels [N] int64."""

    texts: PreparedTexts
    labels: Tensor


@dataclass
class FitResult:
    """What a fit left behind besides the network itself.

    Attributes:
        history: One mapping an epoch: training loss, validation NLL and accuracy.
        best_epoch: The epoch kept, counted from 1.
        posterior: What the last layer chose and reached.
        adapter: Size, stable rank and drift from orthogonality, over all sites.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    posterior: dict[str, float | str] = field(default_factory=dict)
    adapter: dict[str, float] = field(default_factory=dict)


def set_feature_scale(network: Network, texts: PreparedTexts) -> None:
    """Divide features by their root mean square norm, so that prior scales mean logits."""
    network.eval()
    features = network.encoder.features(texts)
    network.feature_scale.fill_(features.double().square().sum(-1).mean().sqrt().item())


def scaled_features(network: Network, texts: PreparedTexts) -> Tensor:
    """Return features [N, d] float32 as the head sees them, in evaluation mode."""
    network.eval()
    return network.scaled(network.encoder.features(texts))


@dataclass(frozen=True)
class FeatureRows:
    """Rows as the last layer sees them.

    Attributes:
        source: The texts and labels.
        features: [N, d] float32, where the head is.
        labels: [N] int64, where the head is.
    """

    source: LabelledTexts
    features: Tensor
    labels: Tensor

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """Features and labels."""
        return self.features, self.labels


def feature_rows(network: Network, rows: LabelledTexts) -> FeatureRows:
    """Return rows with the features that the network gives them in evaluation mode."""
    features = scaled_features(network, rows.texts)
    return FeatureRows(rows, features, rows.labels.to(features.device))


def fit_posterior(
    network: Network,
    train: LabelledTexts,
    validation: LabelledTexts | None,
    *,
    feature_scores: Sequence[str] = (),
    progress: bool = False,
) -> dict[str, float | str]:
    """Fit the last layer to the features of the finished adapter; see `fit_last_layer`."""
    return fit_last_layer(
        network,
        feature_rows(network, train),
        None if validation is None else feature_rows(network, validation),
        feature_scores=feature_scores,
        progress=progress,
    )


def fit_last_layer(
    network: Network,
    train: FeatureRows,
    held_out: FeatureRows | None,
    *,
    feature_scores: Sequence[str] = (),
    progress: bool = False,
) -> dict[str, float | str]:
    """Fit the last layer to features of the finished adapter; return what it chose.

    A Laplace approximation over the adapter's weights is fitted here too.

    Args:
        network: Holds the last layer.
        train: Rows to fit to.
        held_out: Held-out rows, for choosing the prior.
        feature_scores: Names of scores to fit to the same features.
        progress: Whether to show a bar where the fit takes long: the steps of Markov chains, the
            gradients of a Laplace approximation.

    Raises:
        InputError: The features or the curvature are not finite.
    """
    features, labels = train.pair
    if not network.sites:
        # Somebody else's features come in a scale of their own.
        network.head.set_mean_sq_norm(features.double().square().sum(-1).mean().item())
    with _watched(network.head, shown=progress):
        network.head.fit(features, labels, None if held_out is None else held_out.pair)
    chosen = network.head.report()
    if isinstance(network.head, VBLLHead):
        chosen["bound_gap"] = network.head.bound_gap(features, labels)
    if isinstance(network.weights, LaplaceLoRAWeights):
        held = None if held_out is None else held_out.source
        _fit_linearised(network, network.weights, train.source, held, shown=progress)
    network.feature_scores = FeatureScores()
    if feature_scores:
        split, rows = ("train", train) if held_out is None else ("validation", held_out)
        drawing = drawing_of(getattr(network.head, "config", None))
        logits: Logits = network.head.predict(rows.features)
        if isinstance(network.weights, LaplaceLoRAWeights):
            texts = rows.source.texts
            logits = linearised_logits(network, network.weights, texts, logits.mean)
            drawing = drawing_of(network.weights.config)
        familiar = Familiar(logits, split, drawing)
        network.feature_scores = FeatureScores.fitted(feature_scores, features, labels, familiar)
    return chosen if network.weights is None else chosen | network.weights.report()


def _fit_linearised(
    network: Network,
    weights: LaplaceLoRAWeights,
    train: LabelledTexts,
    validation: LabelledTexts | None,
    *,
    shown: bool,
) -> None:
    held = None if validation is None else (validation.texts, validation.labels)
    tunes = weights.config.prior_precision == "validation" and validation is not None
    total = len(train.texts) + (len(validation.texts) if validation is not None and tunes else 0)
    with progress_bar("curvature", total, shown=shown, unit="text") as advance:
        fit_laplace_lora(network, weights, (train.texts, train.labels), held, advance)


def drawing_of(posterior: object) -> dict[str, Any]:
    """Return `link` and `num_samples` of a posterior's predictions, where they are its options."""
    names = ("link", "num_samples") if hasattr(posterior, "link") else ()
    return {name: getattr(posterior, name) for name in names}


@contextmanager
def _watched(head: Head, *, shown: bool) -> Iterator[None]:
    """Show a bar of the chains' steps while the context lasts."""
    if not isinstance(head, NUTSHead):
        yield
        return
    ignore = head.advance
    try:
        with progress_bar("chains", head.num_steps, shown=shown, unit="step") as head.advance:
            yield
    finally:
        head.advance = ignore


def validation_metrics(
    network: Network,
    train: tuple[Tensor, Tensor] | None,
    validation: LabelledTexts,
    drawing: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Return NLL (nats) and accuracy on validation rows, with the posterior a fit would end in.

    These rows choose the epoch here, under the prior of the training; the prior itself is chosen
    once, after the last epoch.

    Args:
        network: The network as trained so far.
        train: Features [N, d] and labels [N] of the training rows; None where the head is as
            training left it.
        validation: The rows to score.
        drawing: `link` and `num_samples` of the prediction; None takes the usual ones.
    """
    # A copy is fitted: training state and checkpoints stay those of an unfitted head.
    head = copy.deepcopy(network.head)
    if train is not None:
        head.fit(*train, choose_prior=False)
    rows = feature_rows(network, validation)
    features, labels = rows.pair
    probs = link_probabilities(head.predict(features), **(drawing or {})).probs
    accuracy = (probs.argmax(1) == labels).double().mean()
    return {"nll": nll(probs, labels), "accuracy": accuracy.item()}


def train_network(
    network: Network,
    train: LabelledTexts,
    validation: LabelledTexts | None,
    *,
    adapter: AdapterConfig,
    posterior: PosteriorConfig,
    settings: TrainingSettings,
    directory: Path,
    early_stopping: bool = True,
    fit_last: bool = True,
    feature_scores: Sequence[str] = (),
    on_epoch: EpochHook | None = None,
    description: str | None = "fit",
) -> FitResult:
    """Train adapter and head in alternation, keep the best epoch, fit the posterior.

    Checkpoints are written to `directory` after each epoch; where it holds some already, training
    goes on from the last one and ends as if it had never stopped.

    Args:
        network: A fresh network.
        train: Training rows.
        validation: Held-out rows; without them the last epoch is kept.
        adapter: Learning rates and constraints.
        posterior: Decides how the head follows the adapter.
        settings: Epochs, batch size, seed.
        directory: For checkpoints.
        early_stopping: Whether to stop after `settings.patience` epochs without a better
            validation NLL, and keep the best epoch; otherwise the last one is kept.
        fit_last: Whether to fit the posterior at the end; otherwise the head stays as trained.
        feature_scores: Names of scores to fit beside the posterior at the end.
        on_epoch: Called with the epoch's number, from 1, and the network after each epoch.
        description: Title of the progress bar; None shows none.
    """
    torch.manual_seed(settings.seed)
    last = last_checkpoint(directory)
    if isinstance(adapter, CorDA) and last is None:
        begin_from_context(network, adapter, train.texts, shown=description is not None)
    set_feature_scale(network, train.texts)
    rows = TrainingFeatures(train.texts)
    weights = weight_training(
        posterior,
        network,
        adapter,
        len(train.labels),
        settings,
        progress=description is not None,
    )
    validate = None
    if validation is not None and not weights.early_stopping:
        logger.warning(
            "posterior %r trains for all its epochs: the validation rows choose nothing",
            posterior.name,
        )
    elif validation is not None and early_stopping:
        validate = _validation(rows, train.labels, validation, posterior)
    callbacks = _callbacks(settings, validate is not None, on_epoch, description)
    head_lr = posterior.head_lr if isinstance(posterior, VBLL) else settings.head_lr
    optimizer = build_optimizer(
        network.sites,
        list(network.head.parameters()),
        adapter,
        head_lr,
        more=weights.parameters,
        euclidean=weights.optimizer,
    )
    with quiet_transformers():
        trainer = AlternatingTrainer(
            network,
            optimizer,
            train=train.texts,
            labels=train.labels,
            update_head=_head_update(posterior, rows, train.labels, settings),
            settings=what_is_left(settings, last),
            directory=directory,
            validate=validate,
            callbacks=[*callbacks, *weights.callbacks],
            noise=weights.noise,
            schedule=weights.schedule,
        )
        trainer.train(resume_from_checkpoint=last)
    chosen: dict[str, float | str] = {}
    if fit_last:
        weights.finish(train.texts, train.labels)
        chosen = fit_posterior(
            network,
            train,
            validation,
            feature_scores=feature_scores,
            progress=description is not None,
        )
    return FitResult(
        _history(trainer.state.log_history), _best_epoch(trainer), chosen, summary(network.sites)
    )


def _validation(
    rows: TrainingFeatures, labels: Tensor, held: LabelledTexts, posterior: PosteriorConfig
) -> Validate:
    # Epochs are chosen under the link that predictions will be made with.
    drawing = drawing_of(posterior)

    def validate(network: Network, step: int) -> dict[str, float]:
        train = None
        if network.head.uses_training_features:
            features = rows.at(network, step)
            train = (features, labels.to(features.device))
        return validation_metrics(network, train, held, drawing)

    return validate


def _head_update(
    posterior: PosteriorConfig, rows: TrainingFeatures, labels: Tensor, settings: TrainingSettings
) -> HeadUpdate:
    if isinstance(posterior, VBLL) and posterior.head_step == "refit":
        steps_per_epoch = math.ceil(len(labels) / settings.batch_size)
        return Refits(max(1, steps_per_epoch // posterior.refits_per_epoch), rows, labels)
    if isinstance(posterior, VBLL) and posterior.head_step == "joint":
        return JointSteps(len(labels))
    steps = posterior.head_steps if isinstance(posterior, VBLL) else 1
    return GradientSteps(steps, len(labels))


class _AfterEpoch(TrainerCallback):
    def __init__(self, hook: EpochHook) -> None:
        self._hook = hook

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hook(round(state.epoch), kwargs["model"])


def _callbacks(
    settings: TrainingSettings, validates: bool, on_epoch: EpochHook | None, title: str | None
) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = []
    if title is not None:
        callbacks.append(TrainingBar(title))
    if validates:
        callbacks.append(Patience(settings.patience))
    if on_epoch is not None:
        callbacks.append(_AfterEpoch(on_epoch))
    return callbacks


def _history(log: list[dict[str, float]]) -> list[dict[str, float]]:
    """Gather the Trainer's log, which has an entry for each kind of event, by epoch."""
    epochs: dict[int, dict[str, float]] = {}
    names = {"loss": "loss", "eval_nll": "validation_nll", "eval_accuracy": "validation_accuracy"}
    for entry in log:
        found = {names[key]: float(value) for key, value in entry.items() if key in names}
        if found:
            epoch = round(entry["epoch"])
            epochs.setdefault(epoch, {"epoch": epoch}).update(found)
    return [epochs[epoch] for epoch in sorted(epochs)]


def _best_epoch(trainer: AlternatingTrainer) -> int:
    steps = trainer.state.best_global_step or trainer.state.global_step
    return math.ceil(steps / len(trainer.get_train_dataloader()))
