"""One last layer over the classes of several tasks, each row's among the classes of its task.

    p(y | φ, t) = softmax over the classes of task t of W φ,        W = (W_1; …; W_T)

With rows classified among their own task's classes, the likelihood is a product over tasks, and the
posterior over W is one of independent blocks W_t, each given its own rows: those of T last layers
of the same kind on the same features. Laplace's curvature is block-diagonal then, and a variational
bound is a sum over tasks. So this works with every last layer, whose own equations stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora.logits import AnyLogits, GaussianLogits, Logits, MixtureLogits, SampledLogits
from bayeslora.posteriors.types import LastLayerDefaults

# What a last layer may have beside the verbs of `LastLayer`; there where the blocks have it.
_OPTIONAL = ("refit", "scale_mean", "set_prior_mean", "solve")


class PerTask(LastLayerDefaults, nn.Module):
    """Last layers of several tasks behind the interface of one.

    Attributes:
        blocks: The last layer of each task.
        tasks: How many classes each task has, in the order of the classes.
    """

    task_of: Tensor

    def __init__(self, blocks: Mapping[str, Any]) -> None:
        """Take the last layer of each task, by name."""
        super().__init__()
        self.blocks = nn.ModuleList(blocks.values())
        self.uses_training_features = any(one.uses_training_features for one in blocks.values())
        self.tasks = {task: len(block.mean_weight) for task, block in blocks.items()}
        sizes = torch.tensor([*self.tasks.values()])
        of = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        self.register_buffer("task_of", of, persistent=False)
        self._num_train: list[int] = []
        for name in _OPTIONAL:
            if all(hasattr(block, name) for block in self._each):
                setattr(self, name, getattr(self, f"_{name}"))
        if hasattr(self._each[0], "config"):
            self.config = self._each[0].config

    @property
    def _each(self) -> list[Any]:
        return [*self.blocks]

    @property
    def fit_steps(self) -> int:
        """Steps of a fit that a bar shows, over all tasks."""
        return sum(block.fit_steps for block in self._each)

    @property
    def mean_weight(self) -> Tensor:
        """[C, d]: the posterior's mean, detached."""
        return torch.cat([block.mean_weight for block in self._each])

    @property
    def prior_mean(self) -> Tensor | None:
        """[C, d]; None for zero, and where there is no prior."""
        found = [getattr(block, "prior_mean", None) for block in self._each]
        known = [one for one in found if one is not None]
        return torch.cat(known) if len(known) == len(found) else None

    def see(self, labels: Tensor) -> None:
        """Take from the labels [N] of a training how many rows each task has."""
        tasks = self.task_of[labels.to(self.task_of.device)]
        self._num_train = tasks.bincount(minlength=len(self.tasks)).tolist()

    def loss(self, features: Tensor, labels: Tensor, num_train: int) -> Tensor:
        """Return the objective: mean nats a row, each task's KL / its own rows."""
        sizes = self._num_train or [num_train] * len(self.tasks)
        return self._mean(labels, lambda t, own, y: self._each[t].loss(features[own], y, sizes[t]))

    def data_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return mean nats a row, without the KL; the blocks' parameters count as constants."""
        return self._mean(labels, lambda t, own, y: self._each[t].data_loss(features[own], y))

    def _mean(self, labels: Tensor, of_task: Callable[[int, Tensor, Tensor], Tensor]) -> Tensor:
        parts = [
            len(own) / len(labels) * of_task(place, own, found)
            for place, own, found in self.rows_of(labels)
        ]
        return torch.stack(parts).sum()

    def rows_of(self, labels: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield for each task with rows its number, its rows, and their labels within it.

        Args:
            labels: [N] int64 among the classes of all tasks.
        """
        tasks, first = self.task_of.to(labels.device)[labels], 0
        for place, size in enumerate(self.tasks.values()):
            own = (tasks == place).nonzero()[:, 0]
            if len(own):
                yield place, own, labels[own] - first
            first += size

    def fit(
        self,
        features: Tensor,
        labels: Tensor,
        validation: tuple[Tensor, Tensor] | None = None,
        *,
        choose_prior: bool = True,
    ) -> None:
        """Fit the posterior of each task to its rows."""
        held = {}
        if validation is not None:
            held = {
                place: (validation[0][own], found)
                for place, own, found in self.rows_of(validation[1])
            }
        for place, own, found in self.rows_of(labels):
            block = self._each[place]
            block.advance = self.advance
            block.fit(features[own], found, held.get(place), choose_prior=choose_prior)
            block.advance = LastLayerDefaults.advance

    def predict(self, features: Tensor) -> Logits:
        """Return the logits of all classes, independent between tasks; see `by_task`."""
        return side_by_side([block.predict(features) for block in self._each])

    def set_mean(self, weight: Tensor) -> None:
        """Start from given [C, d] weights."""
        for block, rows in self._split(weight):
            block.set_mean(rows)

    def set_mean_sq_norm(self, value: float) -> None:
        """Set mean ‖φ‖² of the training features."""
        for block in self._each:
            block.set_mean_sq_norm(value)

    def extra_config(self) -> dict[str, Any]:
        """Return what `prepare` of each task's block needs."""
        return {"tasks": [block.extra_config() for block in self._each]}

    def prepare(self, extra: Mapping[str, Any]) -> None:
        """Allocate what `extra` describes."""
        for block, own in zip(self._each, extra.get("tasks", ()), strict=False):
            block.prepare(own)

    def report(self) -> dict[str, float | str]:
        """Return what the fit of each task chose and reached, by its name and the task's."""
        return {
            f"{name} ({task})": value
            for task, block in zip(self.tasks, self._each, strict=True)
            for name, value in block.report().items()
        }

    def fit_report(self, features: Tensor, labels: Tensor) -> dict[str, float]:
        """Return what the fit to each task's rows reached, by its name and the task's."""
        names = [*self.tasks]
        return {
            f"{name} ({names[place]})": value
            for place, own, found in self.rows_of(labels)
            for name, value in self._each[place].fit_report(features[own], found).items()
        }

    def _split(self, weight: Tensor) -> Iterator[tuple[Any, Tensor]]:
        yield from zip(self._each, torch.split(weight, [*self.tasks.values()]), strict=True)

    def _refit(self, features: Tensor, labels: Tensor) -> None:
        for place, own, found in self.rows_of(labels):
            self._each[place].refit(features[own], found)

    def _solve(self, features: Tensor, labels: Tensor) -> None:
        for place, own, found in self.rows_of(labels):
            self._each[place].solve(features[own], found)

    def _scale_mean(self, factor: float) -> None:
        for block in self._each:
            block.scale_mean(factor)

    def _set_prior_mean(self, weight: Tensor, *, start: bool = True) -> None:
        for block, rows in self._split(weight):
            block.set_prior_mean(rows, start=start)


def side_by_side(parts: Sequence[Logits]) -> Logits:
    """Return the logits of all tasks' classes, independent between tasks."""
    if all(isinstance(part, SampledLogits) for part in parts):
        exact = [part.exact for part in parts if isinstance(part, SampledLogits)]
        samples = torch.cat([part.samples for part in parts if isinstance(part, SampledLogits)], -1)
        known = [one for one in exact if one is not None]
        return SampledLogits(samples, torch.cat(known, -1) if len(known) == len(parts) else None)
    mean = torch.cat([part.mean for part in parts], -1)
    if all(part.covariance.ndim == 2 for part in parts):
        return GaussianLogits(mean, torch.cat([part.covariance for part in parts], -1))
    covariance = mean.new_zeros(*mean.shape, mean.shape[1])
    first = 0
    for part in parts:
        own = slice(first, first + part.mean.shape[1])
        full = part.covariance
        covariance[:, own, own] = torch.diag_embed(full) if full.ndim == 2 else full
        first = own.stop
    return GaussianLogits(mean, covariance)


def restricted(logits: AnyLogits, rows: Tensor, classes: slice) -> AnyLogits:
    """Return the distribution of some rows' logits of some classes.

    Args:
        logits: Of N rows and C classes.
        rows: [n] int64.
        classes: Which of the classes.
    """
    if isinstance(logits, MixtureLogits):
        parts = [restricted(part, rows, classes) for part in logits.parts]
        return MixtureLogits(tuple(part for part in parts if not isinstance(part, MixtureLogits)))
    if isinstance(logits, SampledLogits):
        exact = None if logits.exact is None else logits.exact[rows][:, classes]
        return SampledLogits(logits.samples[:, rows][..., classes], exact)
    covariance = logits.covariance[rows][:, classes]
    if covariance.ndim == 3:
        covariance = covariance[..., classes]
    return GaussianLogits(logits.mean[rows][:, classes], covariance)


def by_task(head: Any, logits: AnyLogits, labels: Tensor) -> list[tuple[AnyLogits, Tensor]]:
    """Return logits of labelled rows [N], task by task, each with labels within its task.

    Args:
        head: The last layer; where it is of one task, the rows are returned as they are.
        logits: Of N rows and all classes.
        labels: [N] int64.
    """
    if not isinstance(head, PerTask):
        return [(logits, labels)]
    ends = torch.tensor([0, *head.tasks.values()]).cumsum(0).tolist()
    return [
        (restricted(logits, own.to(logits.mean.device), slice(ends[place], ends[place + 1])), found)
        for place, own, found in head.rows_of(labels)
    ]
