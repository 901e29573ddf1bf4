"""One score for near and far shifts: how rare are a row's probability and its logit variance?

    combined = a(1 − max_c p_c) + max(0, a(v) − log 5),   a(s) = −log P(S ≥ s)

with v = Σ_c Var(z_c − z̄) and both tail probabilities taken among rows of the distribution itself.
Rows near the border of two classes have a low probability and an ordinary variance; rows far from
all training rows may be classified confidently and have a variance beyond all others. A sum of the
two (Fisher's method) would spoil the first kind, because the variance of familiar rows says nothing
about it and near rows tend to have a smaller one; so only the upper fifth of the variances counts.
The fifth was chosen on synthetic features, and nothing here ever sees an out-of-distribution row.

P is the empirical tail (1 + #{S_i ≥ s}) / (n + 1) up to the 90 % quantile u, and beyond it the
exponential tail P(S > u) exp(−(s − u) / m), m the mean excess: so the score goes on rising where no
familiar row has been (Pickands 1975, Annals of Statistics 3, with shape 0).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora.errors import InputError

MAX_ROWS = 10_000
"""Values kept of each score, at most, evenly spaced in order."""

_COUNTS = 0.2  # the share of the variances that counts
_TAIL = 0.1  # the share of the values that the exponential tail stands for


class TailCombination(nn.Module):
    """The score; fitted on rows of the distribution.

    Attributes:
        doubt: [M] float64, 1 − highest probability of those rows, ascending.
        variance: [M] float64, their logit variances, ascending.
        split: Which rows they were: `validation` or `train`.
    """

    doubt: Tensor
    variance: Tensor

    def __init__(self, num_rows: int, split: str) -> None:
        super().__init__()
        self.split = split
        for name in ("doubt", "variance"):
            self.register_buffer(name, torch.zeros(num_rows, dtype=torch.float64))

    @classmethod
    def fitted(cls, doubt: Tensor, variance: Tensor, split: str) -> TailCombination:
        """Keep the values [N] of both scores.

        Args:
            doubt: 1 − highest probability.
            variance: The logit variance of each.
            split: Which rows these are. A network is surer of the rows it was trained on than of
                others like them, so validation rows are the better ones.

        Raises:
            InputError: All logit variances are zero.
        """
        if not bool((variance > 0).any()):
            raise InputError("score 'combined' needs logit variance, and all of it is zero here")
        kept = min(len(doubt), MAX_ROWS)
        places = torch.linspace(0, len(doubt) - 1, kept, dtype=torch.float64).round().long()
        found = cls(kept, split)
        found.doubt.copy_(doubt.cpu().double().sort().values[places])
        found.variance.copy_(variance.cpu().double().sort().values[places])
        return found

    @classmethod
    def empty(cls, extra: Mapping[str, Any]) -> TailCombination:
        """Return a score of the shape that `extra_config` states, to load tensors into."""
        return cls(int(extra["rows"]), str(extra["split"]))

    def forward(self, doubt: Tensor, variance: Tensor) -> Tensor:
        """Return the score [N] of rows with these two scores, [N] float64 each."""
        rare = surprise(self.variance, variance) + math.log(_COUNTS)
        return surprise(self.doubt, doubt) + rare.clamp_min(0)

    def extra_config(self) -> dict[str, Any]:
        """Return how many rows it was fitted on, and which."""
        return {"rows": len(self.doubt), "split": self.split}


def surprise(known: Tensor, values: Tensor) -> Tensor:
    """Return −log of the tail probability of values [N] among known ones [M], ascending."""
    known, values = known.contiguous(), values.to(known).contiguous()
    count = len(known)
    above = count - torch.searchsorted(known, values)
    inside = -((above + 1) / (count + 1)).log()
    threshold = known[min(count - 1, int((1 - _TAIL) * count))]
    excess = known[known > threshold] - threshold
    if not len(excess):
        return inside
    beyond = math.log(count / len(excess)) + (values - threshold) / excess.mean()
    return torch.where(values > threshold, beyond, inside)
