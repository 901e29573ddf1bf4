"""What the training of one network needs, its schedule, and its results."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.engine.network import Network
from bayeslora.engine.plan import Plan
from bayeslora.engine.progress import Report, tracker
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.plain_text import counted

if TYPE_CHECKING:  # not needed to load a model
    from bayeslora.engine.training.starts import ClassPrior


@dataclass(frozen=True)
class Training:
    """What a network is trained on, and how.

    Attributes:
        network: A fresh network.
        plan: What was chosen; its seed is that of this network.
        train: Training rows.
        validation: Held-out rows. Training stops after `patience` epochs without a better NLL on
            them, and keeps the best epoch; without them the last epoch is kept.
        directory: Directory for checkpoints; None writes none.
        prior: The language model's rows for the classes; None for a prior mean of zero.
        tasks: Number of classes of each of several tasks, in the order of the classes.
        title: Title of the progress bar.
        begin: Gives the network its weights before the first step; None leaves the fresh ones.
        rate: Factor of all learning rates; 0 takes no step.
    """

    network: Network
    plan: Plan
    train: PreparedTexts
    validation: PreparedTexts | None = None
    directory: Path | None = None
    prior: ClassPrior | None = None
    tasks: Mapping[str, int] = field(default_factory=dict)
    title: str = "fit"
    begin: Callable[[Network], None] | None = None
    rate: float = 1.0

    @property
    def settings(self) -> TrainingSettings:
        """Epochs, batch size and further options of training."""
        return self.plan.training

    @property
    def num_train(self) -> int:
        """Number of training rows."""
        return len(self.train.labels)

    @property
    def num_steps(self) -> int:
        """Number of steps without early stopping."""
        return self.settings.num_steps(self.num_train)

    @property
    def prior_waits(self) -> bool:
        """Whether the prior is centred after training, on the final features.

        This is the case if the final fit starts over, because the language model's answer would be
        a poor start for training the adapters.
        """
        starts_over = self.plan.posterior.starts_over(adapter_trains=True)
        return self.prior is not None and starts_over and not self.prior.leads

    @property
    def summary(self) -> str:
        """Numbers of rows, epochs and steps, such as `30 rows, 2 epochs of 4 steps: 8 steps`."""
        epochs = counted(self.settings.epochs, "epoch")
        at_most = "" if self.validation is None else " at most"
        steps = counted(math.ceil(self.num_train / self.settings.batch_size), "step")
        rows, total = counted(self.num_train, "row"), counted(self.num_steps, "step")
        return f"{rows}, {epochs}{at_most} of {steps}: {total}"

    def figures(self) -> dict[str, float]:
        """Return the figures of the adapter's companion, if it has one, on the training rows."""
        companion = self.network.companion
        return {} if companion is None else companion.figures(self.train.columns)

    def tracker(self) -> AbstractContextManager[Report]:
        """Return the tracker: a run in the project named as the output directory."""
        plan, project, run = self.plan, "bayeslora", self.title
        if self.directory is not None:
            project, run = self.directory.parent.parent.name, self.directory.name
        options: dict[str, str | int] = {
            "adapter": plan.adapter.name,
            "posterior": plan.posterior.name,
            "epochs": plan.training.epochs,
            "batch_size": plan.training.batch_size,
            "seed": plan.seed,
        }
        return tracker(plan.training.report_to, project, run, options)


@dataclass
class FitResult:
    """Results of a fit besides the network.

    Attributes:
        history: One mapping per epoch: training loss, validation NLL and accuracy, and figures of
            the adapter's companion on the training rows.
        best_epoch: The epoch kept, counted from 1.
        posterior: Options chosen by the last layer, and figures of its fit.
        adapter: Size, stable rank and drift from orthogonality over all sites, and figures of the
            adapter's companion.
        hooks: What the hooks of the steps record.
        prior_factor: c of the language model's rows in the prior mean; None if that is zero.
        stages: Trained tensors at the end of each stage, if there are several; not in the record.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    posterior: dict[str, float | str] = field(default_factory=dict)
    adapter: dict[str, float] = field(default_factory=dict)
    hooks: dict[str, Any] = field(default_factory=dict)
    prior_factor: float | None = None
    stages: list[dict[str, Tensor]] = field(default_factory=list, compare=False)

    def recorded(self) -> dict[str, Any]:
        """Return the entries of a model's record."""
        entries = asdict(replace(self, stages=[], hooks={}))
        del entries["stages"], entries["hooks"]
        return {**entries, **self.hooks}


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
