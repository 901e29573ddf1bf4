"""The quality-retaining loss: logits stay near recent ones of their class while adapters train."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, one_hot

from bayeslora.engine.training.base import Training
from bayeslora.engine.training_options import QualityRetaining
from bayeslora.logits import ABSENT
from bayeslora.posteriors.features import Features

_KEPT = 0.95
_FIRST_LOSS = 10.0
_PUBLISHED_ENTRIES = 2


class Retained:
    """Recent logits of each class and the running loss of each task: the quality-retaining loss.

    L = CE + mean_s w_t Σ_j T² KL( softmax(Z_{y_s,j} / T) ‖ softmax(z_s / T) )
    w_t = min(1 / ℓ_t, largest),  ℓ_t ← .95 ℓ_t + .05 CE_t,  loss of the row's task, initially 10
    Z_c ← m Z_c + (1 − m) mean of z over the batch's correctly predicted rows of class c

    Z and ℓ have no gradient; a class without Z contributes nothing. The logits are those of the
    last layer's mean weights, and the loss trains the adapter alone: the last layer follows by its
    own objective with an unchanged likelihood. `published` keeps the last two vectors, initially
    zero, in place of the mean, for all rows, with w_t = 1/ℓ_t.

    Source: Zhong et al. 2024, arXiv 2501.06884, section 3.3, and the code published with it.

    Attributes:
        logits: Z [C, J, C], float32.
        known: [C, J] bool, which of them are set.
        losses: ℓ [T], nats.
    """

    def __init__(self, options: QualityRetaining, task_of: Tensor) -> None:
        """Initialise without logits.

        Args:
            options: Options of the loss.
            task_of: [C] int64, the task of each class, from 0.
        """
        classes = len(task_of)
        entries = _PUBLISHED_ENTRIES if options.published else 1
        self._options = options
        self._task_of = task_of
        device = task_of.device
        self.logits = torch.zeros(classes, entries, classes, device=device)
        self.known = torch.full((classes, entries), options.published, device=device)
        self.losses = torch.full((int(task_of.max()) + 1,), _FIRST_LOSS, device=device)

    @classmethod
    def of(cls, fit: Training) -> Retained | None:
        """Return the loss of a training; None if it was not chosen."""
        options = fit.settings.quality_retaining
        if options is None:
            return None
        sizes = torch.tensor([*fit.tasks.values()] or [len(fit.network.head.mean_weight)])
        task_of = torch.arange(len(sizes)).repeat_interleave(sizes)
        return cls(options, task_of.to(fit.network.feature_scale.device))

    def seen(self, rows: Features, weight: Tensor) -> Tensor:
        """Return the loss of a batch under mean weights [C, d], and update the state with it."""
        logits = rows.to(torch.float32).logits(weight.float())
        penalty = self.loss(logits, rows.targets)
        self.see(logits, rows.targets)
        return penalty

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean penalty over rows, in nats, for leaving the logits of their class.

        Args:
            logits: [B, C], with a graph; `ABSENT` for classes of other tasks.
            labels: [B] int64.
        """
        T = self._options.temperature
        absent = logits <= ABSENT / 2
        targets = self.logits[labels].masked_fill(absent[:, None], ABSENT)
        expected = (targets / T).log_softmax(-1)
        log_probs = (logits / T).log_softmax(-1)[:, None].expand_as(expected)
        divergences = (
            kl_div(log_probs, expected, log_target=True, reduction="none").sum(-1)
            * self.known[labels]
        )
        weight = 1 / self.losses[self._task_of[labels]]
        if not self._options.published:
            weight = weight.clamp_max(self._options.largest)
        row_losses: Tensor = weight * T**2 * divergences.sum(1)
        return row_losses.mean()

    @torch.no_grad()
    def see(self, logits: Tensor, labels: Tensor) -> None:
        """Update the running losses, and then the classes' logits, from a batch's logits [B, C]."""
        tasks = one_hot(self._task_of[labels], len(self.losses)).to(logits)
        counts = tasks.sum(0)
        sums = tasks.T @ cross_entropy(logits, labels, reduction="none")
        means = sums / counts.clamp_min(1)
        moved = _KEPT * self.losses + (1 - _KEPT) * means
        self.losses = torch.where(counts > 0, moved, self.losses)
        if self._options.published:
            self._push(logits, labels)
        else:
            self._average(logits, labels, logits.argmax(1) == labels)

    def _average(self, values: Tensor, labels: Tensor, correct: Tensor) -> None:
        members = one_hot(labels, len(self.logits)).to(values)
        if self._options.only_correct:
            members = members * correct[:, None]
        counts = members.sum(0)
        means = (members.T @ values) / counts.clamp_min(1)[:, None]
        m = self._options.momentum
        old, seen = self.logits[:, 0], counts > 0
        moved = torch.where(self.known, m * old + (1 - m) * means, means)
        self.logits = torch.where(seen[:, None], moved, old)[:, None]
        self.known = self.known | seen[:, None]

    def _push(self, values: Tensor, labels: Tensor) -> None:
        for c in sorted(set(labels.tolist())):
            rows = torch.cat([self.logits[c], values[labels == c]])
            self.logits[c] = rows[-self.logits.shape[1] :]

    def state(self) -> dict[str, Tensor]:
        """Return the tensors for a checkpoint."""
        return {"logits": self.logits, "known": self.known, "losses": self.losses}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        device = self._task_of.device
        self.logits, self.known, self.losses = (
            state[name].to(device) for name in ("logits", "known", "losses")
        )
