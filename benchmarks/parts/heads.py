"""VBLL whose deviations reach their optimum while the adapter trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bayeslora.posteriors.features import Features
from bayeslora.posteriors.last_layer.vbll import bounds
from bayeslora.posteriors.last_layer.vbll.covariance import Trainable
from bayeslora.posteriors.last_layer.vbll.families import TRAINABLE
from bayeslora.posteriors.last_layer.vbll.head import VBLLHead
from bayeslora.posteriors.last_layer.vbll.independent import Diagonal
from bayeslora.posteriors.last_layer.vbll.options import VBLL
from bayeslora.posteriors.types import LastLayer

_FASTER, _DECAY = 5.0, 0.95


@dataclass(frozen=True)
class VBLLVariant(VBLL):
    """VBLL with other steps of its deviations.

    Attributes:
        deviations: `fast`: their logarithms step at five times the head's rate. `running`: they
            are the optimum of the bound given running sums, see `RunningHead`.
    """

    deviations: Literal["fast", "running"] = "running"
    name: ClassVar[str] = "vbll_variant"
    summary: ClassVar[str] = "VBLL with other steps of its deviations"

    def make_head(self, num_features: int, num_classes: int, **options: Any) -> LastLayer:
        """Return the head."""
        kind = FastHead if self.deviations == "fast" else RunningHead
        return kind.of(self, num_features, num_classes, **options)


class FastDiagonal(Diagonal):
    """Independent weights, whose log standard deviations are five times the parameters."""

    @staticmethod
    def free_start(num_classes: int, size: int, rank: int, log_std: float) -> dict[str, Tensor]:
        """Return the parameters."""
        return Diagonal.free_start(num_classes, size, rank, log_std / _FASTER)

    @classmethod
    def from_free(cls, spread: Tensor, factor: Tensor | None) -> FastDiagonal:
        """Return the covariance with these parameters."""
        return cls(Diagonal.from_free(_FASTER * spread, factor).scale)

    @staticmethod
    def shift_log_std(spread: Tensor, factor: Tensor | None, change: float) -> None:
        """Add `change` to the log standard deviations."""
        Diagonal.shift_log_std(spread, factor, change / _FASTER)


class FastHead(VBLLHead):
    """VBLL whose log standard deviations step at five times the rate of the means."""

    trainable: ClassVar[Mapping[str, type[Trainable]]] = {**TRAINABLE, "diagonal": FastDiagonal}


class RunningHead(VBLLHead):
    """VBLL whose diagonal S is the optimum of the bound, by running sums over batches.

        S_c⁻¹ = I/σ0² + diag R_c,   R_c ← .95 R_c + .05 (N/B) Σ_batch w_nc φ_n²

    w is the curvature of the bound in training (q for Jensen's, q (1 − q) at the best tilt), and R
    is divided by 1 − .95^t, since it starts at zero. The cost is C·d a step. At a fixed batch of
    all rows it is the closed form of `Diagonal.blocks`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.spread.requires_grad_(False)
        self._sums = torch.zeros(())
        self._num_steps = 0

    def loss(self, rows: Features, num_train: int) -> Tensor:
        """Move the deviations, then return the loss of the means."""
        self._advance(rows.detach(), num_train)
        return super().loss(rows, num_train)

    @torch.no_grad()
    def _advance(self, rows: Features, num_train: int) -> None:
        values = rows.values.to(self.mean.dtype)
        mean, variance = rows.logits(self.mean), self.covariance.of_logits(values)
        jensen = self.config.bound == "jensen"
        tilt = torch.zeros_like(mean) if jensen else bounds.best_tilt(mean, variance)
        weights = bounds.curvature(mean, variance, tilt)
        sums = num_train / len(values) * weights.T @ values.square()
        self._sums = _DECAY * self._sums + (1 - _DECAY) * sums
        self._num_steps += 1
        total = self._sums / (1 - _DECAY**self._num_steps)
        self.spread.copy_(-0.5 * (1 / self.prior_variance + total).log())
