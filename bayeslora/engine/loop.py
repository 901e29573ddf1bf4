"""The training loop of one network: adapter and head in alternation.

Each step computes the batch's features once, updates the head on the detached features, and then
takes one step of the adapter with the updated head.

Source: the alternation of Xiang, Li and Lu 2026, arXiv 2604.03388.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader

from bayeslora.adapters.base import StepHook
from bayeslora.adapters.optimizers import build_optimizer
from bayeslora.backbones.tokens import Batch
from bayeslora.engine.final_fit import validation_metrics
from bayeslora.engine.network import LengthBatchSampler, Network, collate, set_feature_scale, under
from bayeslora.engine.progress import open_bar
from bayeslora.engine.training import (
    FitResult,
    Training,
    apart,
    learning_rate,
    read_checkpoint,
    together,
    write_checkpoint,
)
from bayeslora.errors import DivergedError, InputError
from bayeslora.posteriors.registry import build_weights
from bayeslora.posteriors.types import Features, TrainingRun
from bayeslora.processes import current

logger = logging.getLogger(__name__)

_METRIC = "validation_nll"
Checkpoint = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by `part/name`, and everything else, JSON-ready."""


def train_network(fit: Training) -> FitResult:
    """Train adapter and head in alternation, and keep the best epoch; fit no posterior yet.

    A checkpoint is written to the directory, if there is one, after each epoch. Training resumes
    from the last one in it, with the same result as without interruption.
    """
    network = fit.network
    torch.manual_seed(fit.plan.seed)
    checkpoint = current().first(lambda: read_checkpoint(fit.directory))
    if checkpoint is not None:
        done = (checkpoint[1]["epoch"], fit.settings.epochs)
        if done[0] < done[1]:  # else a later stage of the same fit begins
            logger.info("%s: resumed after epoch %d of %d", fit.title, *done)
    _begin_adapter(fit, None if checkpoint is None else under("network/", checkpoint[0]))
    set_feature_scale(network, fit.train)
    factor = None
    if fit.prior is not None and not fit.prior_waits:
        factor = fit.prior.centre(network, fit.train)
    if fit.begin is not None:
        fit.begin(network)
    result = FitResult()
    if fit.rate:
        result = Loop(fit, checkpoint).train()
    if not all(item.isfinite().all() for item in network.parameters() if item.requires_grad):
        raise DivergedError(
            "the weights of the adapter are not finite: training diverged; lower its lr"
        )
    return replace(result, prior_factor=factor)


def _begin_adapter(fit: Training, trained: Mapping[str, Tensor] | None) -> None:
    """Initialise the adapter of a fresh network if its start depends on the rows.

    A resumed training runs no rows again. The posterior over weights is built again if the sites'
    parameters change shape.

    Args:
        fit: A training whose network's sites change nothing yet.
        trained: Tensors of a training to resume; None starts anew.
    """
    network, plan = fit.network, fit.plan
    if not plan.adapter.starts_from_rows:
        return
    shapes = _shapes(network)
    if trained is None:
        plan.adapter.begin(fit)
    else:
        network.expect(trained)
    if _shapes(network) == shapes:
        return
    weights = build_weights(plan.posterior, network, plan.seed)
    if weights is not None:
        network.weights = weights.to(network.feature_scale.device)


def _shapes(network: Network) -> list[torch.Size]:
    return [value.shape for site in network.sites for value in site.trainable().values()]


class Loop:
    """The epochs of a training.

    Attributes:
        fit: Network, rows and options.
        optimizer: Optimiser of adapter and head.
        hooks: What takes part in the steps, in this order.
        step: Number of steps taken.
        epoch: Number of finished epochs.
    """

    def __init__(self, fit: Training, checkpoint: Checkpoint | None = None) -> None:
        """Set up a training, or the rest of an interrupted one."""
        network, plan, settings = fit.network, fit.plan, fit.settings
        self.fit = fit
        self.step = self.epoch = self._best_epoch = 0
        self._history: list[dict[str, float]] = []
        # Trained tensors of the best epoch, and of the ends of stages.
        self._kept: dict[str, dict[str, Tensor]] = {}
        self._batches = LengthBatchSampler(
            fit.train.tokens.lengths, settings.batch_size, settings.seed
        )
        weights = plan.posterior.own_weights(network).weight_training(
            TrainingRun(network, plan.adapter, fit.num_train, fit.num_steps)
        )
        self._noise = weights.noise  # opened around each pass, with the batch
        head_lr = plan.posterior.head_lr
        self.optimizer = build_optimizer(
            network.sites,
            network.head.parameters(),
            plan.adapter,
            settings.head_lr if head_lr is None else head_lr,
            more=weights.parameters,
            euclidean=weights.optimizer,
            beside=[] if network.companion is None else network.companion.optimizers(),
        )
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"] * fit.rate
        self._rate = learning_rate(settings, len(self._batches), weights.schedule)
        self.hooks: list[StepHook] = [*plan.adapter.hooks(fit), *weights.callbacks]
        self._validates = fit.validation is not None and plan.posterior.chooses_epoch
        torch.manual_seed(settings.seed)
        if checkpoint is not None:
            self._resume(*checkpoint)

    def train(self) -> FitResult:
        """Train to the end, and load the best epoch if validation rows choose one.

        Returns the history, the epoch kept, what the hooks record, and the stages.

        Raises:
            DivergedError: The loss is not finite.
            InputError: No adapter influences the features.
        """
        fit, network, title = self.fit, self.fit.network, self.fit.title
        device = network.feature_scale.device
        loader: DataLoader[Batch] = DataLoader(
            range(fit.num_train),  # type: ignore[arg-type]
            batch_sampler=self._batches,
            collate_fn=partial(collate, fit.train),
            # Copied while the GPU still works on the previous step.
            pin_memory=device.type == "cuda",
        )
        network.zero_grad()
        with (
            open_bar(
                title, fit.num_steps, shown=fit.plan.progress, unit="step", done=self.step
            ) as bar,
            fit.tracker() as report,
            ExitStack() as stack,
        ):
            for hook in self.hooks:
                stack.callback(hook.finish)
            while not self._has_ended:
                self._batches.set_epoch(self.epoch)
                network.train()
                loss = torch.zeros((), device=device)
                for batch in loader:
                    loss += self.take_step(batch)
                    bar.update(1)
                entry = self.end_epoch(loss.item() / len(self._batches))
                report(entry, self.step)
                if _METRIC in entry:
                    bar.set_postfix({"validation NLL": f"{entry[_METRIC]:.3f}"}, refresh=False)
        if "best" in self._kept:
            network.load_trained_state(self._kept["best"])
        ends = (f"epoch {epoch}" for epoch in fit.settings.stages)
        return FitResult(
            history=self._history,
            best_epoch=self._best_epoch or self.epoch,
            hooks={
                key: value for hook in self.hooks for key, value in hook.record(self.step).items()
            },
            stages=[self._kept[end] for end in ends if end in self._kept],
        )

    def take_step(self, batch: Batch) -> Tensor:
        """Take one step of head and adapter; return the loss."""
        network, optimizer = self.fit.network, self.optimizer
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self._rate(self.step)
        for hook in self.hooks:
            hook.before_step(self.step, self.fit.num_steps, optimizer)
        device = network.feature_scale.device
        loss = self.backward(
            {name: item.to(device, non_blocking=True) for name, item in batch.items()}
        )
        clip_grad_norm_(network.parameters(), self.fit.settings.max_grad_norm)
        optimizer.step()
        for hook in self.hooks:
            hook.after_step(self.step, optimizer)
        network.zero_grad()
        self.step += 1
        return loss

    def backward(self, batch: Batch) -> Tensor:
        """Update the head on a batch, then compute the adapter's gradient; return the loss."""
        head, world = self.fit.network.head, current()
        with self._noise(batch):
            rows = self._features(batch)
            self.update_head(rows.detach())
            loss = head.data_loss(rows)
            for hook in self.hooks:
                more = hook.loss(rows, head.mean_weight)
                loss = loss if more is None else loss + more
            torch.autograd.backward(loss)
            if world.size > 1:
                world.sum_(self.optimizer.adapter_gradients())
        return loss.detach()

    def _features(self, batch: Batch) -> Features:
        """Return the labelled features of a batch.

        Each of several processes runs a part of the rows, and the head sees all of them.

        Raises:
            InputError: No adapter influences the features.
        """
        world, labels = current(), batch.pop("labels")
        with world.own_noise(self.step):
            rows: Features = self.fit.network(batch)
        if not rows.values.requires_grad:
            raise InputError("no feature depends on the adapters; choose other target_modules")
        rows = rows.map(lambda values: world.joined(values, len(labels)))
        return replace(rows, labels=labels)

    def update_head(self, rows: Features) -> None:
        """Step the head by its own loss on detached features, before the adapter's step."""
        head = self.fit.network.head
        head.zero_grad()
        torch.autograd.backward(head.loss(rows, self.fit.num_train))
        self.optimizer.head_step()
        # Clipping must see the norm of the adapter's gradient alone.
        head.zero_grad()

    @property
    def _has_ended(self) -> bool:
        settings = self.fit.settings
        last = settings.epochs
        if settings.stop_after is not None:
            last = min(last, max(1, settings.stop_after))
        return self.epoch >= last or epochs_without_gain(self._history) >= settings.patience

    def end_epoch(self, loss: float) -> dict[str, float]:
        """Validate an epoch and write a checkpoint; return the entry of the history."""
        fit, network, world = self.fit, self.fit.network, current()
        if not math.isfinite(loss):
            raise DivergedError("the training loss is not finite; lower the adapter's lr")
        self.epoch += 1
        entry = {"epoch": self.epoch, "loss": loss} | fit.figures()
        if self._validates:
            # All processes must agree on the best epoch and on when to stop.
            scores = world.told(validation_metrics(fit))
            entry |= {f"validation_{name}": value for name, value in scores.items()}
        self._history.append(entry)
        # Rounding may differ between machines; broadcasting keeps it from accumulating over epochs.
        world.broadcast_(item for group in self.optimizer.param_groups for item in group["params"])
        if self._validates and not epochs_without_gain(self._history):
            self._best_epoch = self.epoch
            self._kept["best"] = network.trained_state()
        if len(fit.settings.stages) > 1 and self.epoch in fit.settings.stages:
            self._kept[f"epoch {self.epoch}"] = network.trained_state()
        if (directory := fit.directory) is not None:
            world.first(lambda: write_checkpoint(directory, *self._checkpoint()))
        return entry

    def _checkpoint(self) -> Checkpoint:
        network, device = self.fit.network, self.fit.network.feature_scale.device
        parts = self._kept | {
            "network": network.trained_state(),
            "random": {"cpu": torch.get_rng_state()},
        }
        parts |= {f"hook {number}": hook.state() for number, hook in enumerate(self.hooks)}
        if device.type == "cuda":
            parts["random"]["cuda"] = torch.cuda.get_rng_state(device)
        tensors = {
            f"{part}/{name}": item for part, state in parts.items() for name, item in state.items()
        }
        state = {
            "epoch": self.epoch,
            "best_epoch": self._best_epoch,
            "history": self._history,
            "optimizer": apart(self.optimizer.state_dict(), "optimizer", tensors),
            "kept": list(self._kept),
        }
        return tensors, state

    def _resume(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        network = self.fit.network
        self.epoch, self._best_epoch = state["epoch"], state["best_epoch"]
        self.step = self.epoch * len(self._batches)
        self._history = state["history"]
        self._kept = {name: under(f"{name}/", tensors) for name in state["kept"]}
        network.load_trained_state(under("network/", tensors))
        for number, hook in enumerate(self.hooks):
            hook.load(under(f"hook {number}/", tensors))
        self.optimizer.load_state_dict(together(state["optimizer"], tensors))
        random = under("random/", tensors)
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and network.feature_scale.is_cuda:
            torch.cuda.set_rng_state(random["cuda"], network.feature_scale.device)


def epochs_without_gain(history: Sequence[Mapping[str, float]]) -> int:
    """Return the number of epochs after the one with the lowest validation NLL."""
    losses = [entry[_METRIC] for entry in history if _METRIC in entry]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0
