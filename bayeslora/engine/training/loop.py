"""Training of one network with its posterior on labelled texts.

Each step computes the batch's features once, updates the head on the detached features, and then
takes one step of the adapter with the updated head.

Source: the alternation of Xiang, Li and Lu 2026, arXiv 2604.03388.
"""

from __future__ import annotations

import copy
import logging
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader

from bayeslora.adapters.base import Adapter, StepHook
from bayeslora.adapters.optimizers import AlternatingOptimizer, build_optimizer
from bayeslora.adapters.spectrum import summary
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.tokens import Batch
from bayeslora.engine.network import Network, under
from bayeslora.engine.progress import Report, open_bar, tracker
from bayeslora.engine.rows import Collator, LengthBatchSampler, feature_rows, set_feature_scale
from bayeslora.engine.training.adapter_start import begin_adapter
from bayeslora.engine.training.checkpoints import (
    Checkpoint,
    apart,
    read_checkpoint,
    together,
    write_checkpoint,
)
from bayeslora.engine.training.final_fit import LastFit, drawing_of, final_fit, fit_posterior
from bayeslora.engine.training.head_updates import HeadUpdate, Moment, Retained, Retaining
from bayeslora.engine.training.layer_sampling import LayerSwitches, layer_sampler
from bayeslora.engine.training.starts import ClassPrior
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.errors import DivergedError, InputError
from bayeslora.links import link_probabilities, nll
from bayeslora.plain_text import counted
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.types import TrainingRun, WeightTraining
from bayeslora.processes import current
from bayeslora.runtime import restored_random_state

logger = logging.getLogger(__name__)

_NETWORK, _BEST, _STAGE, _HEAD = "network.", "best.", "stage.", "head update."
"""Prefixes of the tensors of a checkpoint."""
_METRIC = "validation_nll"

Validate = Callable[[Network], dict[str, float]]
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
    validation: PreparedTexts,
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
    rows = feature_rows(network, validation)
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
        title: Title of the progress bar; None shows none.
        on_epoch: Called after each epoch with its number, from 1, and the network.
        begin: Gives the network its weights before the first step; None leaves the fresh ones.
        rate: Factor of all learning rates; 0 takes no step.
    """

    network: Network
    train: PreparedTexts
    validation: PreparedTexts | None
    adapter: Adapter
    last: LastFit
    settings: TrainingSettings
    directory: Path | None = None
    prior: ClassPrior | None = None
    tasks: Mapping[str, int] = field(default_factory=dict)
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
    checkpoint = current().first(lambda: read_checkpoint(fit.directory))
    if network.conditioning is not None and fit.train.contexts is not None:
        network.conditioning.begin(fit.train.contexts)
    begin_adapter(
        network,
        fit.adapter,
        posterior,
        fit.train,
        seed=fit.settings.seed,
        trained=None if checkpoint is None else under(_NETWORK, checkpoint.tensors),
        shown=fit.title is not None,
    )
    set_feature_scale(network, fit.train)
    # A final fit that starts over computes the prior mean from the final features: the language
    # model's answer would be a poor start for training the adapters.
    leads = prior is not None and prior.leads
    waits = posterior.starts_over(adapter_trains=True) and not leads
    factor = None if prior is None or waits else prior.centre(network, fit.train)
    if fit.begin is not None:
        fit.begin(network)
    if fit.title is not None and fit.rate:
        _announce(fit)
    result = Loop(fit, checkpoint).train() if fit.rate else FitResult()
    if not all(item.isfinite().all() for item in network.parameters() if item.requires_grad):
        raise DivergedError(
            "the weights of the adapter are not finite: training diverged; lower its lr"
        )
    chosen: dict[str, float | str] = {}
    if fit_last:
        chosen, late = _fit_posterior(fit, centres=waits)
        factor = late if waits else factor
    adapted = _adapted(network, fit.train)
    return replace(result, posterior=chosen, adapter=adapted, prior_factor=factor)


def _fit_posterior(fit: Training, *, centres: bool) -> tuple[dict[str, float | str], float | None]:
    """Fit the posterior; return its options, and the factor of a class prior centred here."""
    network, prior, factor = fit.network, fit.prior, None
    fit.posterior.before_last_layer(final_fit(network, fit.last, fit.train, fit.validation))
    if prior is not None and centres:
        network.eval()
        factor = prior.centre(network, fit.train, start=False)
    return fit_posterior(network, fit.last, fit.train, fit.validation), factor


def _announce(fit: Training) -> None:
    """Log the number of training steps."""
    settings, num_train = fit.settings, fit.num_train
    logger.info(
        "%s, %s%s of %s: %s",
        counted(num_train, "row"),
        counted(settings.epochs, "epoch"),
        "" if fit.validation is None else " at most",
        counted(math.ceil(num_train / settings.batch_size), "step"),
        counted(settings.num_steps(num_train), "step"),
    )


def _adapted(network: Network, train: PreparedTexts) -> dict[str, float]:
    """Return the record's figures on the change of the weights."""
    figures = summary(network.sites) if network.full is None else network.full.summary()
    if network.conditioning is not None and train.contexts is not None:
        figures |= network.conditioning.figures(train.contexts)
        gate = sum(parameter.numel() for parameter in network.conditioning.parameters())
        figures["num_parameters"] += gate
    return figures


class Loop:
    """The epochs of a training.

    Attributes:
        optimizer: Optimiser of adapter and head.
        hooks: What follows the steps, in this order.
        step: Number of steps taken.
        epoch: Number of finished epochs.
    """

    def __init__(self, fit: Training, checkpoint: Checkpoint | None = None) -> None:
        """Set up a training, or the rest of an interrupted one."""
        network, settings = fit.network, fit.settings
        self._fit = fit
        self._network = network
        self._batches = LengthBatchSampler(
            fit.train.tokens.lengths, settings.batch_size, settings.seed
        )
        self._num_steps = settings.num_steps(fit.num_train)
        weights = fit.posterior.training(
            TrainingRun(network, fit.adapter, fit.num_train, self._num_steps, settings.batch_size)
        )
        self._sampler = layer_sampler(
            network, fit.adapter, fit.posterior, settings, fit.num_train, further=fit.rate < 1
        )
        self._noise = weights.noise
        self._validate = _validation(fit)
        self._update_head = _head_update(fit)
        self.optimizer = _optimizer(fit, weights)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"] * fit.rate
        self._rate = learning_rate(settings, len(self._batches), weights.schedule)
        self.hooks: list[StepHook] = [*fit.adapter.callbacks(network), *weights.callbacks]
        if self._sampler is not None:
            self.hooks.append(LayerSwitches(self._sampler, network.full))
        self.step = self.epoch = self._best_epoch = 0
        self._history: list[dict[str, float]] = []
        self._best: dict[str, Tensor] = {}
        self._stages: dict[int, dict[str, Tensor]] = {}
        torch.manual_seed(settings.seed)
        if checkpoint is not None:
            self._resume(checkpoint)

    def train(self) -> FitResult:
        """Train to the end, and load the best epoch if validation rows choose one.

        Returns the history, the epoch kept, the draws of layer sampling, and the stages.

        Raises:
            DivergedError: The loss is not finite.
            InputError: No adapter influences the features.
        """
        fit, network, device = self._fit, self._network, self._network.feature_scale.device
        loader: DataLoader[Batch] = DataLoader(
            range(fit.num_train),  # type: ignore[arg-type]
            batch_sampler=self._batches,
            collate_fn=Collator(fit.train),
            # Copied while the GPU still works on the previous step.
            pin_memory=device.type == "cuda",
        )
        network.zero_grad()
        with (
            open_bar(fit.title, self._num_steps, unit="step", done=self.step) as bar,
            _tracker(fit) as report,
            ExitStack() as stack,
        ):
            for hook in self.hooks:
                stack.callback(hook.finish)
            while not self._has_ended:
                self._batches.set_epoch(self.epoch)
                network.train()
                loss = torch.zeros((), device=device)
                for batch in loader:
                    for group in self.optimizer.param_groups:
                        group["lr"] = group["initial_lr"] * self._rate(self.step)
                    for hook in self.hooks:
                        hook.before_step(self.step, self._num_steps, self.optimizer)
                    on_device = {
                        name: item.to(device, non_blocking=True) for name, item in batch.items()
                    }
                    loss += self.backward(on_device)
                    clip_grad_norm_(network.parameters(), fit.settings.max_grad_norm)
                    self.optimizer.step()
                    for hook in self.hooks:
                        hook.after_step(self.step, self.optimizer)
                    network.zero_grad()
                    self.step += 1
                    bar.update(1)
                figures = self._end_epoch(loss.item() / len(self._batches))
                report(figures, self.step)
                if _METRIC in figures:
                    bar.set_postfix({"validation NLL": f"{figures[_METRIC]:.3f}"})
        if self._best:
            network.load_trained_state(self._best)
        return FitResult(
            history=self._history,
            best_epoch=self._best_epoch or self.epoch,
            layer_sampling={} if self._sampler is None else self._sampler.record(self.step),
            stages=[self._stages[stage] for stage in sorted(self._stages)],
        )

    def backward(self, batch: Batch) -> Tensor:
        """Update the head on a batch, then compute the adapter's gradient; return the loss.

        Each of several processes runs a part of the rows, and the head sees all of them.

        Raises:
            InputError: No adapter influences the features.
        """
        world, labels = current(), batch.pop("labels")
        with self._noise(batch):
            with world.own_noise(self.step):
                rows: Features = self._network(batch)
            if not rows.values.requires_grad:
                raise InputError("no feature depends on the adapters; choose other target_modules")
            rows = rows.map(lambda values: world.joined(values, len(labels)))
            rows = replace(rows, labels=labels)
            now = Moment(self._network, self.optimizer, rows.detach())
            self._update_head(now)
            loss = self._update_head.adapter_loss(now, rows)
            torch.autograd.backward(loss)
            world.sum_(_adapter_gradients(self.optimizer) if world.size > 1 else ())
        return loss.detach()

    @property
    def _has_ended(self) -> bool:
        settings = self._fit.settings
        last = settings.epochs
        if settings.stop_after is not None:
            last = min(last, max(1, settings.stop_after))
        return self.epoch >= last or epochs_without_gain(self._history) >= settings.patience

    def _end_epoch(self, loss: float) -> dict[str, float]:
        """Validate an epoch and write a checkpoint; return the entry of the history."""
        fit, network, world = self._fit, self._network, current()
        if not math.isfinite(loss):
            raise DivergedError("the training loss is not finite; lower the adapter's lr")
        self.epoch += 1
        if fit.on_epoch is not None:
            fit.on_epoch(self.epoch, network)
        entry = {"epoch": self.epoch, "loss": loss} | _figures(fit, self.epoch)
        self._history.append(entry)
        if self._validate is not None:
            network.eval()
            # All processes must agree on the best epoch and on when to stop.
            scores = world.told(self._validate(network))
            entry |= {f"validation_{name}": value for name, value in scores.items()}
        # Rounding may differ between machines; broadcasting keeps it from accumulating over epochs.
        world.broadcast_(item for group in self.optimizer.param_groups for item in group["params"])
        if self._validate is not None and not epochs_without_gain(self._history):
            self._best_epoch = self.epoch
            self._best = network.trained_state()
        stages = fit.settings.stages
        if len(stages) > 1 and self.epoch in stages:
            self._stages[stages.index(self.epoch)] = network.trained_state()
        if (directory := fit.directory) is not None:
            world.first(lambda: write_checkpoint(directory, self._checkpoint()))
        return entry

    def _checkpoint(self) -> Checkpoint:
        network, device = self._network, self._network.feature_scale.device
        tensors = {f"{_NETWORK}{name}": item for name, item in network.trained_state().items()}
        tensors |= {f"{_BEST}{name}": item for name, item in self._best.items()}
        for stage, trained in self._stages.items():
            tensors |= {f"{_STAGE}{stage}.{name}": item for name, item in trained.items()}
        tensors |= {f"{_HEAD}{name}": item for name, item in self._update_head.state().items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(device)
        state = {
            "epoch": self.epoch,
            "best_epoch": self._best_epoch,
            "history": self._history,
            "optimizer": apart(self.optimizer.state_dict(), "optimizer", tensors),
        }
        return Checkpoint(tensors, state)

    def _resume(self, checkpoint: Checkpoint) -> None:
        tensors, state = checkpoint.tensors, checkpoint.state
        self.epoch, self._best_epoch = state["epoch"], state["best_epoch"]
        self.step = self.epoch * len(self._batches)
        self._history = state["history"]
        self._network.load_trained_state(under(_NETWORK, tensors))
        self._update_head.load(under(_HEAD, tensors))
        self._best = under(_BEST, tensors)
        for stage in range(len(self._fit.settings.stages)):
            if trained := under(f"{_STAGE}{stage}.", tensors):
                self._stages[stage] = trained
        self.optimizer.load_state_dict(together(state["optimizer"], tensors))
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and self._network.feature_scale.is_cuda:
            torch.cuda.set_rng_state(tensors["random.cuda"], self._network.feature_scale.device)


def _tracker(fit: Training) -> AbstractContextManager[Report]:
    """Return the tracker of a network: a run in the project named as the output directory."""
    project, run = "bayeslora", fit.title or "fit"
    if fit.directory is not None:
        project, run = fit.directory.parent.parent.name, fit.directory.name
    settings = fit.settings
    options = {"adapter": fit.adapter.name, "posterior": fit.posterior.name}
    numbers = {name: getattr(settings, name) for name in ("epochs", "batch_size", "seed")}
    return tracker(settings.report_to, project, run, options | numbers)


def _optimizer(fit: Training, weights: WeightTraining) -> AlternatingOptimizer:
    network, adapter = fit.network, fit.adapter
    own_lr = fit.posterior.head_lr
    head_lr = fit.settings.head_lr if own_lr is None else own_lr
    return build_optimizer(
        network.sites,
        network.head.parameters(),
        adapter,
        head_lr,
        more=weights.parameters,
        euclidean=weights.optimizer,
        beside=adapter.further_optimizers(network),
    )


def _validation(fit: Training) -> Validate | None:
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

    def validate(network: Network) -> dict[str, float]:
        fits = network.head.uses_training_features
        train = feature_rows(network, fit.train) if fits else None
        return validation_metrics(network, train, held_out, drawing)

    return validate


def _head_update(fit: Training) -> HeadUpdate:
    steps = (fit.posterior.head_steps, fit.num_train)
    options = fit.settings.quality_retaining
    if options is None:
        return HeadUpdate(*steps)
    sizes = torch.tensor([*fit.tasks.values()] or [len(fit.network.head.mean_weight)])
    task_of = torch.arange(len(sizes)).repeat_interleave(sizes)
    return Retaining(*steps, Retained(options, task_of.to(fit.network.feature_scale.device)))


def _figures(fit: Training, epoch: int) -> dict[str, float]:
    """Return and log how much the contexts of the training rows matter, if there are any."""
    conditioning, contexts = fit.network.conditioning, fit.train.contexts
    if conditioning is None or contexts is None:
        return {}
    figures = conditioning.figures(contexts)
    words = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items())
    logger.info("epoch %d: %s", epoch, words)
    return figures


def epochs_without_gain(history: Sequence[Mapping[str, float]]) -> int:
    """Return the number of epochs after the one with the lowest validation NLL."""
    losses = [entry[_METRIC] for entry in history if _METRIC in entry]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def learning_rate(settings: TrainingSettings, steps: int, schedule: str) -> Callable[[int], float]:
    """Return the factor of all learning rates as a function of the number of steps taken.

    Args:
        settings: Epochs, warm-up and stages. Each of several stages ends in a cosine of its own.
        steps: Steps per epoch.
        schedule: `cosine` or `constant`, after the warm-up.

    Source: Loshchilov and Hutter 2017, arXiv 1608.03983.
    """
    ends = [epoch * steps for epoch in settings.stages]
    begins = [0, *ends[:-1]]
    warmup = round(settings.warmup * steps * settings.epochs)

    def in_stages(step: int) -> float:
        stage = min(bisect_right(ends, step), len(ends) - 1)
        share = (step - begins[stage]) / (ends[stage] - begins[stage])
        return min(1.0, step / max(1, warmup)) * _cosine(share)

    def factor(step: int) -> float:
        if len(ends) > 1:
            return in_stages(step)
        if step < warmup:
            return step / warmup
        if schedule == "constant":
            return 1.0
        return _cosine((step - warmup) / max(1, ends[-1] - warmup))

    return factor


def _cosine(share: float) -> float:
    """Return the factor after a share of a decay from 1 to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))


def _adapter_gradients(optimizer: AlternatingOptimizer) -> list[Tensor]:
    """Return the gradients of all trained parameters except the head's, which are complete.

    The gradient is zero for layers that no row of this process has used, as with experts.
    """
    gradients = []
    for group in optimizer.param_groups:
        if group.get("name") == "head":
            continue
        for parameter in group["params"]:
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
    return gradients
