"""The Trainer's arguments for a fit: one process, one device, a checkpoint per epoch."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainingArguments

from bayeslora.training.settings import TrainingSettings

_SCHEDULES = {"cosine": "cosine", "constant": "constant_with_warmup"}


def training_arguments(
    settings: TrainingSettings,
    directory: Path,
    steps: int,
    *,
    validates: bool,
    device: torch.device,
    schedule: str,
) -> TrainingArguments:
    """Return the Trainer's arguments for a fit.

    Args:
        settings: Epochs, batch size, warm-up, seed.
        directory: Where checkpoints go.
        steps: Of an epoch.
        validates: Whether validation rows choose the epoch.
        device: Where the network is.
        schedule: `cosine` or `constant`.
    """
    when = "epoch" if validates else "no"
    arguments = _Arguments(
        output_dir=str(directory),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        lr_scheduler_type=_SCHEDULES[schedule],
        warmup_steps=round(settings.warmup * steps * settings.epochs),
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        eval_strategy=when,
        save_strategy="epoch",
        # Old checkpoints are deleted by `forget_old`, and the best epoch is loaded by `load_best`,
        # which do not depend on where a directory was when it was written.
        save_total_limit=None,
        load_best_model_at_end=False,
        metric_for_best_model="nll" if validates else None,
        greater_is_better=False if validates else None,
        logging_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=device.type == "cpu",
    )
    # Several GPUs in one process would share one network whose layers are swapped in place.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    if device.type == "cuda" and arguments.world_size == 1:
        _stay(arguments, device)
    return arguments


class _Arguments(TrainingArguments):
    """Arguments of a Trainer that leaves a network on the GPU that it is on."""

    chosen: torch.device | None = None

    @property
    def device(self) -> torch.device:
        """Where the network is, in the place of the first GPU."""
        first = super().device
        return first if self.chosen is None else self.chosen


def _stay(arguments: _Arguments, device: torch.device) -> None:
    """Let Trainer and Accelerate, which move network and batches, both take `device`."""
    arguments.chosen = device
    # All states of Accelerate share this one's attributes.
    arguments.distributed_state.device = device
    torch.cuda.set_device(device)
