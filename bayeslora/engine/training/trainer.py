"""Hugging Face Trainer that trains adapter and head in alternation.

Each step computes the batch's features once, updates the head (gradient steps on the detached
features), and then takes one step of the adapter with the updated head. The Trainer provides the
loop, checkpoints, resumption and the learning rate schedule.

Source: the alternation of Xiang, Li and Lu 2026, arXiv 2604.03388.
"""

from __future__ import annotations

import logging
import math
import os
import re
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from bayeslora.adapters.optimizers import AlternatingOptimizer
from bayeslora.backbones.tokens import Batch
from bayeslora.engine.network import Network, under
from bayeslora.engine.rows import LabelledTexts
from bayeslora.engine.training.checkpoints import (
    WEIGHTS,
    best_state,
    checkpoint_state,
    forget_old,
    seal,
    write_best,
)
from bayeslora.engine.training.head_updates import HeadUpdate, Moment
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.errors import InputError
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.types import PassNoise
from bayeslora.processes import current

logger = logging.getLogger(__name__)

_BESIDE = "training."
_STAGE = "stage."
"""Prefixes of tensors that are in a checkpoint, but not in a model."""

_LAUNCHER_VARIABLES = re.compile(
    r"(ACCELERATE|FSDP|OMPI_COMM_WORLD|MV2_COMM_WORLD)_.*"
    r"|LOCAL_RANK|RANK|WORLD_SIZE|PMI_(RANK|SIZE)|MPI_LOCAL(RANKID|NRANKS)"
)

Validate = Callable[[Network, int], dict[str, float]]
Restore = Callable[[], bool]
"""Recreates the checkpoint directory if it was deleted; returns whether it was."""


def nothing_to_restore() -> bool:
    """Return false: the directory is a temporary one of this process."""
    return False


@contextmanager
def plain_environment() -> Iterator[None]:
    """Hide the environment variables by which launchers and schedulers configure accelerate.

    Their precision and compiler would change the results of a fit without a trace in the record,
    and a rank left over from a scheduler makes accelerate wait for other processes. With several
    processes, `AlternatingTrainer` synchronises them; to the Trainer each is alone.
    """
    names = [name for name in os.environ if _LAUNCHER_VARIABLES.fullmatch(name)]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


class AlternatingTrainer(Trainer):
    """Trains a `Network`: head steps and adapter steps in turn."""

    def __init__(
        self,
        network: Network,
        optimizer: AlternatingOptimizer,
        *,
        train: LabelledTexts,
        update_head: HeadUpdate,
        settings: TrainingSettings,
        directory: Path | None,
        validate: Validate | None = None,
        callbacks: list[TrainerCallback] | None = None,
        noise: PassNoise = nullcontext,
        schedule: str = "cosine",
        restore: Restore = nothing_to_restore,
        rate: float = 1.0,
    ) -> None:
        """Set up the loop; `stages` will hold the trained tensors at the end of each stage.

        Args:
            network: The network to train; its adapter and head parameters are in `optimizer`.
            optimizer: Optimiser of adapter and head.
            train: The training rows.
            update_head: Update of the head in each step.
            settings: Epochs, batch size, warm-up, seed.
            directory: Directory for checkpoints, one per epoch; None writes none.
            validate: Returns the metrics, including `nll`, of a network after a number of steps;
                training then keeps the best epoch.
            callbacks: Further Trainer callbacks.
            noise: Context of each training pass, forward and backward.
            schedule: Learning rates after the warm-up: `cosine` or `constant`.
            restore: Called before each checkpoint; recreates the directory if it was deleted.
            rate: Factor of all learning rates.
        """
        for group in optimizer.param_groups:
            group["lr"] *= rate
        sampler = LengthBatchSampler(train.texts.tokens.lengths, settings.batch_size, settings.seed)
        # Accelerate wraps nothing: to the Trainer, each of several processes is alone.
        self.network = network
        self._batches = sampler
        self._validate = validate
        self._update_head = update_head
        self._noise = noise
        self._restore = restore
        self._directory = directory
        self._best: dict[str, Tensor] | None = None
        self._ends = [epoch * len(sampler) for epoch in settings.stages]
        self.stages: dict[int, dict[str, Tensor]] = {}
        super().__init__(
            model=network,
            args=training_arguments(
                settings,
                directory,
                len(sampler),
                validates=validate is not None,
                device=network.feature_scale.device,
                schedule=schedule,
            ),
            data_collator=Collator(train),
            train_dataset=RowNumbers(len(train.labels)),
            eval_dataset=RowNumbers(0) if validate is not None else None,
            optimizers=(optimizer, _in_stages(optimizer, settings, len(sampler))),
            callbacks=callbacks,
        )
        # It prints to stdout, which belongs to results.
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """Return batches of similar length in an order fixed by seed and epoch."""
        loader = DataLoader(
            RowNumbers(len(self._batches.lengths)),
            batch_sampler=self._batches,
            collate_fn=self.data_collator,
            # Copied while the GPU still works on the previous step.
            pin_memory=self.args.dataloader_pin_memory,
        )
        prepared: DataLoader[Batch] = self.accelerator.prepare(loader)
        return prepared

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Update the head on the batch's features, then compute the adapter's gradient.

        Raises:
            InputError: No adapter influences the features.
        """
        model.train()
        batch = self._prepare_inputs(inputs)
        labels = batch.pop("labels")
        with self._noise(batch):
            return self._pass(model, batch, labels)

    def _pass(self, model: torch.nn.Module, batch: Batch, labels: Tensor) -> Tensor:
        world = current()
        with world.own_noise(self._step):
            rows: Features = model(batch)
        if not rows.values.requires_grad:
            raise InputError("no feature depends on the adapters; choose other target_modules")
        # Each of several processes has run a part of the rows; the head needs all of them.
        rows = replace(rows.map(lambda values: world.joined(values, len(labels))), labels=labels)
        optimizer = _unwrapped(self.optimizer)
        now = Moment(self.network, optimizer, rows.detach(), self._step)
        self._update_head(now)
        loss = self._update_head.adapter_loss(now, rows)
        loss = loss / self.current_gradient_accumulation_steps
        self.accelerator.backward(loss)
        world.sum_(_adapter_gradients(optimizer) if world.size > 1 else ())
        self._update_head.after(now)
        return loss.detach()

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return the metrics of the current network, and notify the callbacks."""
        if self._validate is None:
            return {}
        self.network.eval()
        # All processes must agree on the best epoch and on when to stop.
        scores = current().told(self._validate(self.network, self._step))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    @property
    def _step(self) -> int:
        return int(self.state.global_step)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        extra = {f"{_BESIDE}{name}": item for name, item in self._update_head.state().items()}
        for stage, state in self.stages.items():
            extra |= {f"{_STAGE}{stage}.{name}": item for name, item in state.items()}
        save_file(self.network.trained_state() | extra, folder / WEIGHTS)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        world = current()
        # Rounding may differ between machines; broadcasting keeps it from accumulating over epochs.
        world.broadcast_(_parameters(_unwrapped(self.optimizer)))
        if self.state.best_global_step == self._step:
            self._best = self.network.trained_state()
        if len(self._ends) > 1 and self._step in self._ends:
            self.stages[self._ends.index(self._step)] = self.network.trained_state()
        if self._directory is not None:
            directory = self._directory
            world.first(lambda: self._try_checkpoint(model, trial, directory))

    def _try_checkpoint(self, model: torch.nn.Module, trial: Any, directory: Path) -> None:
        try:
            self._recreate(directory)
        except (InputError, OSError) as error:
            logger.warning(
                "no checkpoint after step %d: %s; the fit continues without it", self._step, error
            )
            return
        try:
            self._write_checkpoint(model, trial, directory)
        except (OSError, RuntimeError, SafetensorError):
            if not self._recreate(directory):
                raise
            self._write_checkpoint(model, trial, directory)

    def _write_checkpoint(self, model: torch.nn.Module, trial: Any, directory: Path) -> None:
        super()._save_checkpoint(model, trial)
        seal(directory / f"checkpoint-{self._step}")
        forget_old(directory)

    def _recreate(self, directory: Path) -> bool:
        """Recreate the checkpoint directory if it was deleted; return whether it was."""
        if not self._restore():
            return False
        logger.warning("%s was deleted; it is created again, and the fit continues", directory)
        best = self.state.best_global_step
        if self._best is not None and best is not None and best != self._step:
            write_best(directory, best, self._best)
        return True

    def load_best(self) -> None:
        """Load the tensors of the best epoch, if validation rows chose one."""
        if self._best is not None:
            self.network.load_trained_state(self._best)

    def _load_from_checkpoint(
        self,
        resume_from_checkpoint: str,
        model: torch.nn.Module | None = None,
    ) -> None:
        state = checkpoint_state(resume_from_checkpoint)
        self.network.load_trained_state(state)
        self._update_head.load(under(_BESIDE, state))
        stages = [under(f"{_STAGE}{stage}.", state) for stage in range(len(self._ends))]
        self.stages = {stage: tensors for stage, tensors in enumerate(stages) if tensors}
        self._best = best_state(resume_from_checkpoint)


def _unwrapped(optimizer: Any) -> AlternatingOptimizer:
    """Return our optimizer from accelerate's wrapper."""
    inner: AlternatingOptimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def _parameters(optimizer: AlternatingOptimizer) -> list[Tensor]:
    return [item for group in optimizer.param_groups for item in group["params"]]


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


def _in_stages(
    optimizer: AlternatingOptimizer, settings: TrainingSettings, steps: int
) -> LambdaLR | None:
    """Return a cosine for each of several stages; None leaves the schedule to the arguments.

    Source: Loshchilov and Hutter 2017, arXiv 1608.03983.
    """
    ends = [epoch * steps for epoch in settings.stages]
    if len(ends) == 1:
        return None
    begins = [0, *ends[:-1]]
    rise = max(1, round(settings.warmup * ends[-1]))

    def factor(step: int) -> float:
        stage = min(bisect_right(ends, step), len(ends) - 1)
        share = (step - begins[stage]) / (ends[stage] - begins[stage])
        return min(1.0, step / rise) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))

    return LambdaLR(optimizer, factor)


_SCHEDULES = {"cosine": "cosine", "constant": "constant_with_warmup"}


def training_arguments(
    settings: TrainingSettings,
    directory: Path | None,
    steps: int,
    *,
    validates: bool,
    device: torch.device,
    schedule: str,
) -> TrainingArguments:
    """Return the Trainer's arguments for a fit.

    Args:
        settings: Epochs, batch size, warm-up, seed.
        directory: Directory for checkpoints; None for none.
        steps: Steps per epoch.
        validates: Whether validation rows choose the epoch.
        device: Device of the network.
        schedule: `cosine` or `constant`.
    """
    strategy = "epoch" if validates else "no"
    arguments = _Arguments(
        # Created by the Trainer in any case, so without checkpoints one that exists.
        output_dir=str(directory or tempfile.gettempdir()),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        lr_scheduler_type=_SCHEDULES[schedule],
        warmup_steps=round(settings.warmup * steps * settings.epochs),
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        eval_strategy=strategy,
        save_strategy="epoch",
        # `forget_old` deletes old checkpoints and `load_best` loads the best epoch, since they do
        # not depend on the path of a directory when it was written.
        save_total_limit=None,
        load_best_model_at_end=False,
        metric_for_best_model="nll" if validates else None,
        greater_is_better=False if validates else None,
        logging_strategy="epoch",
        # It would read the loss of every step, which synchronises the GPU.
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        accelerator_config={"non_blocking": device.type == "cuda"},
        use_cpu=device.type == "cpu",
    )
    # Several GPUs in one process would share a network whose layers are swapped in place.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    if device.type == "cuda" and arguments.world_size == 1:
        _stay(arguments, device)
    return arguments


class _Arguments(TrainingArguments):
    """Arguments of a Trainer that leaves a network on its GPU."""

    chosen: torch.device | None = None

    @property
    def device(self) -> torch.device:
        """The network's device, in place of the first GPU."""
        default = super().device
        return default if self.chosen is None else self.chosen


def _stay(arguments: _Arguments, device: torch.device) -> None:
    """Make Trainer and Accelerate, which move network and batches, use `device`."""
    arguments.chosen = device
    # All Accelerate states share these attributes.
    arguments.distributed_state.device = device
    torch.cuda.set_device(device)


_POOL_BATCHES = 8


class RowNumbers(Dataset[int]):
    """The row numbers 0 to N - 1, which the collator turns into batches."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, row: int) -> int:
        return row


class LengthBatchSampler(Sampler[list[int]]):
    """Random batches of similar length, determined by seed and epoch.

    Rows are shuffled, sorted by length within pools of a few batches, and cut into batches, which
    are shuffled. Padding stays low and every epoch sees every row once.
    """

    def __init__(self, lengths: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self.drop_last = False
        self.lengths = lengths
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, which determines the order."""
        self._epoch = int(epoch)

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(len(self.lengths))
        pool = self.batch_size * _POOL_BATCHES
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            rows = order[start : start + pool]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += [
                rows[first : first + self.batch_size].tolist()
                for first in range(0, len(rows), self.batch_size)
            ]
        for index in rng.permutation(len(batches)):
            yield batches[index]


class Collator:
    """Turns row numbers into a padded batch with labels."""

    def __init__(self, rows: LabelledTexts) -> None:
        """Store the rows."""
        self._rows = rows

    def __call__(self, rows: list[int]) -> Batch:
        """Return the batch of `rows`, with `labels` [B] int64.

        Each of several processes gets its share of the texts, at least one, and all labels.
        """
        part = rows[current().share(len(rows))] or rows[:1]
        labels = self._rows.labels[torch.tensor(rows)]
        return {**self._rows.texts.collate(part), "labels": labels}
