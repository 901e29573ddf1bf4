"""Training of one network with its posterior on labelled texts."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.layer_sampling import LayerSampler
from bayeslora.adapters.optimizers import AlternatingOptimizer, build_optimizer
from bayeslora.adapters.spectrum import summary
from bayeslora.engine.network import Network
from bayeslora.engine.progress import quiet_transformers
from bayeslora.engine.rows import LabelledTexts, feature_rows, set_feature_scale
from bayeslora.engine.training.adapter_start import begin_adapter
from bayeslora.engine.training.callbacks import (
    FIGURE,
    Figures,
    Patience,
    StopAfter,
    TrainingBar,
    what_is_left,
)
from bayeslora.engine.training.checkpoints import last_checkpoint
from bayeslora.engine.training.class_prior import ClassPrior
from bayeslora.engine.training.final_fit import (
    LastFit,
    announce_training,
    drawing_of,
    final_fit,
    fit_posterior,
)
from bayeslora.engine.training.head_updates import (
    GradientSteps,
    HeadUpdate,
    JointSteps,
    Refits,
    TrainingFeatures,
)
from bayeslora.engine.training.layer_sampling import LayerSwitches, layer_sampler
from bayeslora.engine.training.retaining import Retained, Retaining
from bayeslora.engine.training.trainer import (
    AlternatingTrainer,
    Restore,
    Validate,
    nothing_to_restore,
    plain_environment,
)
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.errors import DivergedError
from bayeslora.links import link_probabilities, nll
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.types import TrainingRun, WeightTraining
from bayeslora.processes import current
from bayeslora.runtime import restored_random_state

logger = logging.getLogger(__name__)

EpochHook = Callable[[int, Network], None]


@dataclass
class FitResult:
    """Results of a fit besides the network.

    Attributes:
        history: One mapping per epoch: training loss, validation NLL and accuracy, and figures of
            the gates on the training rows, if there are gates.
        best_epoch: The epoch kept, counted from 1.
        posterior: Options chosen by the last layer, and figures of its fit.
        adapter: Size, stable rank and drift from orthogonality over all sites, and figures of the
            gates on the training rows, if there are gates.
        layer_sampling: The draws of layer sampling, if used.
        prior_factor: c of the language model's rows in the prior mean; None if that is zero.
        stages: Trained tensors at the end of each stage, if there are several; not in the record.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    posterior: dict[str, float | str] = field(default_factory=dict)
    adapter: dict[str, float] = field(default_factory=dict)
    layer_sampling: dict[str, Any] = field(default_factory=dict)
    prior_factor: float | None = None
    stages: list[dict[str, Tensor]] = field(default_factory=list, compare=False)


def validation_metrics(
    network: Network,
    train: Features | None,
    validation: LabelledTexts,
    drawing: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Return NLL (nats) and accuracy on validation rows, for comparing epochs.

    Last layers fitted to training features are fitted first, under the training prior: the prior
    and temperatures are chosen only once, after the last epoch. With random weights, the mean
    network is scored.

    Args:
        network: The network as trained so far.
        train: The training rows; None to score the head as trained.
        validation: The rows to score.
        drawing: `link` and `num_samples` of the prediction; None for the defaults.
    """
    # Fit a copy: training state and checkpoints stay those of an unfitted head.
    head = copy.deepcopy(network.head)
    rows = feature_rows(network, validation).features
    if train is not None:
        head.fit(train, rows, choose_prior=False)
    probs = link_probabilities(head.predict(rows), **(drawing or {})).probs
    accuracy = (probs.argmax(1) == rows.targets).double().mean()
    return {"nll": nll(probs, rows.targets), "accuracy": accuracy.item()}


@dataclass(frozen=True)
class Training:
    """What a network is trained on, and how.

    Attributes:
        network: A fresh network.
        train: Training rows.
        validation: Held-out rows. Training stops after `settings.patience` epochs without a better
            NLL on them, and keeps the best epoch; without them the last epoch is kept.
        adapter: Learning rates and constraints.
        last: Options of the posterior's fit at the end; the posterior determines how the head is
            updated in training.
        settings: Epochs, batch size, seed.
        directory: Directory for checkpoints; None writes none.
        prior: The language model's rows for the classes; None for a prior mean of zero.
        tasks: Number of classes of each of several tasks, in the order of the classes.
        restore: Called before each checkpoint; see `AlternatingTrainer`.
        title: Title of the progress bar; None shows none.
        on_epoch: Called after each epoch with its number, from 1, and the network.
        begin: Gives the network its weights before the first step; None leaves the fresh ones.
        rate: Factor of all learning rates; 0 takes no step.
    """

    network: Network
    train: LabelledTexts
    validation: LabelledTexts | None
    adapter: Adapter
    last: LastFit
    settings: TrainingSettings
    directory: Path | None = None
    prior: ClassPrior | None = None
    tasks: Mapping[str, int] = field(default_factory=dict)
    restore: Restore = nothing_to_restore
    title: str | None = "fit"
    on_epoch: EpochHook | None = None
    begin: Callable[[Network], None] | None = None
    rate: float = 1.0

    @property
    def posterior(self) -> Posterior:
        """Options of the posterior."""
        return self.last.posterior

    @property
    def num_train(self) -> int:
        """Number of training rows."""
        return len(self.train.labels)


@restored_random_state()
def train_network(fit: Training, *, fit_last: bool = True) -> FitResult:
    """Train adapter and head in alternation, keep the best epoch, fit the posterior.

    A checkpoint is written to the directory, if there is one, after each epoch. Training resumes
    from the last one in it, with the same result as without interruption.

    Args:
        fit: Network, rows and options.
        fit_last: Whether to fit the posterior at the end; otherwise the head stays as trained.
    """
    network, posterior, prior = fit.network, fit.posterior, fit.prior
    torch.manual_seed(fit.settings.seed)
    checkpoint = current().first(lambda: last_checkpoint(fit.directory))
    if network.conditioning is not None and fit.train.texts.contexts is not None:
        network.conditioning.begin(fit.train.texts.contexts)
    begin_adapter(
        network,
        fit.adapter,
        posterior,
        fit.train,
        seed=fit.settings.seed,
        last=checkpoint,
        shown=fit.title is not None,
    )
    began = time.perf_counter()
    num_passed = set_feature_scale(network, fit.train.texts)
    pass_seconds = (time.perf_counter() - began) * fit.num_train / num_passed
    # A final fit that starts over computes the prior mean from the final features: the language
    # model's answer would be a poor start for training the adapters.
    leads = prior is not None and prior.leads
    waits = posterior.starts_over(adapter_trains=True) and not leads
    factor = None if prior is None or waits else prior.centre(network, fit.train)
    if fit.begin is not None:
        fit.begin(network)
    if fit.title is not None and fit.rate:
        _announce(fit, pass_seconds=pass_seconds)
    trainer, sampler = _trained(fit, checkpoint) if fit.rate else (None, None)
    if not all(item.isfinite().all() for item in network.parameters() if item.requires_grad):
        raise DivergedError(
            "the weights of the adapter are not finite: training diverged; lower its lr"
        )
    chosen: dict[str, float | str] = {}
    if fit_last:
        chosen, late = _fit_posterior(fit, centres=waits)
        factor = late if waits else factor
    return FitResult(
        [] if trainer is None else _history(trainer.state.log_history),
        0 if trainer is None else _best_epoch(trainer),
        chosen,
        _adapted(network, fit.train),
        {} if trainer is None or sampler is None else sampler.record(trainer.state.global_step),
        factor,
        [] if trainer is None else [trainer.stages[stage] for stage in sorted(trainer.stages)],
    )


def _fit_posterior(fit: Training, *, centres: bool) -> tuple[dict[str, float | str], float | None]:
    """Fit the posterior; return its options, and the factor of a class prior centred here."""
    network, prior, factor = fit.network, fit.prior, None
    fit.posterior.before_last_layer(final_fit(network, fit.last, fit.train, fit.validation))
    if prior is not None and centres:
        network.eval()
        factor = prior.centre(network, fit.train, start=False)
    return fit_posterior(network, fit.last, fit.train, fit.validation), factor


def _announce(fit: Training, *, pass_seconds: float) -> None:
    """Log the estimated time of the training."""
    num_validation = 0 if fit.validation is None else len(fit.validation.labels)
    announce_training(fit.settings, fit.num_train, num_validation, pass_seconds=pass_seconds)


def _adapted(network: Network, train: LabelledTexts) -> dict[str, float]:
    """Return the record's figures on the change of the weights."""
    figures = summary(network.sites) if network.full is None else network.full.summary()
    if network.conditioning is not None and train.texts.contexts is not None:
        figures |= network.conditioning.figures(train.texts.contexts)
        gate = sum(parameter.numel() for parameter in network.conditioning.parameters())
        figures["num_parameters"] += gate
    return figures


def _trained(
    fit: Training, checkpoint: str | None
) -> tuple[AlternatingTrainer, LayerSampler | None]:
    """Train the network and load its best epoch.

    Returns:
        The trainer, and the policy of layer sampling, if used.
    """
    network, settings = fit.network, fit.settings
    steps = settings.num_steps(fit.num_train)
    run = TrainingRun(network, fit.adapter, fit.num_train, steps, settings.batch_size)
    weights = fit.posterior.training(run)
    sampler = layer_sampler(
        network, fit.adapter, fit.posterior, settings, fit.num_train, further=fit.rate < 1
    )
    with quiet_transformers(), plain_environment(), ExitStack() as stack:
        if network.encoder.backbone.device.type == "cuda":
            # The Trainer makes the network's GPU the current one.
            stack.callback(torch.cuda.set_device, torch.cuda.current_device())
        trainer = _trainer(fit, checkpoint, weights, sampler)
        if sampler is not None:
            stack.callback(sampler.finish)
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.load_best()
    return trainer, sampler


def _trainer(
    fit: Training,
    checkpoint: str | None,
    weights: WeightTraining,
    sampler: LayerSampler | None,
) -> AlternatingTrainer:
    """Return the trainer of a fit, which chooses the epoch on held-out rows, if there are any."""
    rows = TrainingFeatures(fit.train)
    validate = _validation(fit, rows)
    return AlternatingTrainer(
        fit.network,
        _optimizer(fit, weights),
        train=fit.train,
        update_head=_head_update(fit, rows),
        settings=what_is_left(fit.settings, checkpoint),
        directory=fit.directory,
        validate=validate,
        callbacks=[
            *_callbacks(fit, validate is not None),
            *fit.adapter.callbacks(fit.network),
            *_figures(fit),
            *weights.callbacks,
            # Last, since it restores the learning rates that a posterior's own steps use.
            *([] if sampler is None else [LayerSwitches(sampler, fit.network)]),
        ],
        noise=weights.noise,
        schedule=weights.schedule,
        restore=fit.restore,
        rate=fit.rate,
    )


def _optimizer(fit: Training, weights: WeightTraining) -> AlternatingOptimizer:
    network, adapter = fit.network, fit.adapter
    lr = fit.posterior.head_training().lr
    head_lr = fit.settings.head_lr if lr is None else lr
    return build_optimizer(
        network.sites,
        network.head.parameters(),
        adapter,
        head_lr,
        more=weights.parameters,
        euclidean=weights.optimizer,
        beside=adapter.further_optimizers(network),
    )


def _validation(fit: Training, rows: TrainingFeatures) -> Validate | None:
    """Return the metrics function that chooses the epoch; None for no choice."""
    held_out = fit.validation
    if held_out is None:
        return None
    if not fit.posterior.chooses_epoch:
        logger.warning(
            "posterior %r trains for all epochs: validation rows do not choose one",
            fit.posterior.name,
        )
        return None
    # Epochs are chosen under the link of the predictions.
    drawing = drawing_of(fit.posterior)

    def validate(network: Network, step: int) -> dict[str, float]:
        train = rows.at(network, step) if network.head.uses_training_features else None
        return validation_metrics(network, train, held_out, drawing)

    return validate


def _head_update(fit: Training, rows: TrainingFeatures) -> HeadUpdate:
    update = _posteriors_update(fit, rows)
    options = fit.settings.quality_retaining
    if options is None:
        return update
    sizes = torch.tensor([*fit.tasks.values()] or [len(fit.network.head.mean_weight)])
    task_of = torch.arange(len(sizes)).repeat_interleave(sizes)
    return Retaining(update, Retained(options, task_of.to(fit.network.feature_scale.device)))


def _posteriors_update(fit: Training, rows: TrainingFeatures) -> HeadUpdate:
    training = fit.posterior.head_training()
    if training.step == "refit":
        steps_per_epoch = math.ceil(fit.num_train / fit.settings.batch_size)
        every = max(1, steps_per_epoch // training.count)
        return Refits(fit.network.head, every, rows)
    if training.step == "joint":
        return JointSteps(fit.num_train)
    return GradientSteps(training.count, fit.num_train)


class _AfterEpoch(TrainerCallback):
    def __init__(self, hook: EpochHook) -> None:
        self._hook = hook

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hook(round(state.epoch), kwargs["model"])


def _callbacks(fit: Training, validates: bool) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = []
    if fit.title is not None:
        callbacks.append(TrainingBar(fit.title))
    if validates:
        callbacks.append(Patience(fit.settings.patience))
    if fit.settings.stop_after is not None:
        callbacks.append(StopAfter(fit.settings.stop_after))
    if fit.on_epoch is not None:
        callbacks.append(_AfterEpoch(fit.on_epoch))
    return callbacks


def _figures(fit: Training) -> list[TrainerCallback]:
    conditioning, contexts = fit.network.conditioning, fit.train.texts.contexts
    if conditioning is None or contexts is None:
        return []
    return [Figures(conditioning, contexts)]


def _history(log: list[dict[str, float]]) -> list[dict[str, float]]:
    """Group the Trainer's log, which has one entry per event, by epoch."""
    epochs: dict[int, dict[str, float]] = {}
    names = {"loss": "loss", "eval_nll": "validation_nll", "eval_accuracy": "validation_accuracy"}
    for entry in log:
        metrics = {name: float(entry[key]) for key, name in names.items() if key in entry}
        metrics |= {
            key.removeprefix(FIGURE): value
            for key, value in sorted(entry.items())  # as in checkpoints, whose keys are sorted
            if key.startswith(FIGURE)
        }
        if metrics:
            epoch = round(entry["epoch"])
            epochs.setdefault(epoch, {"epoch": epoch}).update(metrics)
    return [epochs[epoch] for epoch in sorted(epochs)]


def _best_epoch(trainer: AlternatingTrainer) -> int:
    steps = trainer.state.best_global_step or trainer.state.global_step
    return math.ceil(steps / len(trainer.get_train_dataloader()))
