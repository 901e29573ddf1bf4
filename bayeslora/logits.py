"""Distributions of the logits of each row: a Gaussian, samples, or a mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ABSENT = -1e4
"""Logit of a class or an option that a row lacks: its probability is exactly zero, without
overflow."""


@dataclass(frozen=True)
class GaussianLogits:
    """Logits of N rows and C classes that are jointly Gaussian within a row.

    Attributes:
        mean: [N, C] float64.
        covariance: [N, C] variances if a row's logits are independent, else [N, C, C].
            Zeros stand for a point estimate.
    """

    mean: Tensor
    covariance: Tensor

    @classmethod
    def point(cls, mean: Tensor) -> GaussianLogits:
        """Return logits [N, C] without variance."""
        return cls(mean, torch.zeros_like(mean))

    @property
    def variance(self) -> Tensor:
        """[N, C]: the marginal variance of every logit."""
        if self.covariance.ndim == 2:
            return self.covariance
        return torch.diagonal(self.covariance, dim1=-2, dim2=-1)

    def spread_of(self, present: Tensor | None = None) -> Tensor:
        """Return [N], the variance of the logits about their class mean, summed over classes.

        This is Σ_c v_c less the part shared by all logits, to which softmax is invariant.

        Args:
            present: [N, C] bool, the classes of each row; None for all.
        """
        covariance, count = self.covariance, self.mean.new_tensor(self.mean.shape[1])
        if present is not None:
            present = present.to(covariance)
            count = present.sum(-1)
            pairs = present if covariance.ndim == 2 else present[:, None] * present[..., None]
            covariance = covariance * pairs
        total = covariance if covariance.ndim == 2 else covariance.diagonal(dim1=-2, dim2=-1)
        total = total.sum(-1)
        shared = total if covariance.ndim == 2 else covariance.sum((-2, -1))
        return (total - shared / count).clamp_min(0)

    @property
    def is_point(self) -> bool:
        """Whether no logit has any variance."""
        return not bool(torch.any(self.variance > 0))

    def rows(self, block: slice) -> GaussianLogits:
        """Return the distribution of some rows."""
        return GaussianLogits(self.mean[block], self.covariance[block])

    def scaled(self, factor: float) -> GaussianLogits:
        """Return the distribution of `factor` times the logits."""
        return GaussianLogits(_times(self.mean, factor), self.covariance * factor**2)

    def sharpened(self, factor: float) -> GaussianLogits:
        """Return the distribution with `factor` times the mean and unchanged deviations."""
        return GaussianLogits(_times(self.mean, factor), self.covariance)

    def root(self, jitter: float = 1e-6) -> Tensor:
        """Return R with R Rᵀ = covariance: [N, C] deviations, or [N, C, C] lower triangles.

        Args:
            jitter: Added to the diagonal, relative to its mean, before a Cholesky factorisation.
        """
        if self.covariance.ndim == 2:
            return self.covariance.clamp_min(0).sqrt()
        scale = self.variance.mean(-1).clamp_min(torch.finfo(self.mean.dtype).tiny)
        jittered = self.covariance.clone()
        jittered.diagonal(dim1=-2, dim2=-1).add_(jitter * scale[:, None])
        root: Tensor = torch.linalg.cholesky(jittered)
        return root


@dataclass(frozen=True)
class SampledLogits:
    """Logits of N rows and C classes under S draws of the weights.

    Attributes:
        samples: [S, N, C] float64; S = 1 stands for a point estimate.
        exact: [N, C] float64, logits whose softmax is the limit of the draws' mean softmax, if it
            is known in closed form; else None. Probabilities then come from it, and the draws only
            decompose their uncertainty.
    """

    samples: Tensor
    exact: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """[N, C]: the mean over draws."""
        return self.samples.mean(0)

    @property
    def variance(self) -> Tensor:
        """[N, C]: the variance over draws (population form, zero for one draw)."""
        return self.samples.var(0, correction=0)

    @property
    def covariance(self) -> Tensor:
        """[N, C, C]: the covariance over draws (population form)."""
        centred = self.samples - self.mean
        return torch.einsum("snc,snk->nck", centred, centred) / len(centred)

    def spread_of(self, present: Tensor | None = None) -> Tensor:
        """Return [N], as `GaussianLogits.spread_of`, over draws."""
        if present is None:
            centred = self.samples - self.samples.mean(-1, keepdim=True)
            return centred.var(0, correction=0).sum(-1)
        present = present.to(self.samples.device)
        samples = torch.where(present, self.samples, 0.0)
        centre = samples.sum(-1, keepdim=True) / present.sum(-1, keepdim=True)
        return torch.where(present, samples - centre, 0.0).var(0, correction=0).sum(-1)

    @property
    def is_point(self) -> bool:
        """Whether no logit varies between draws."""
        return not bool(torch.any(self.variance > 0))

    def scaled(self, factor: float) -> SampledLogits:
        """Return the draws of `factor` times the logits, without a closed form."""
        return SampledLogits(_times(self.samples, factor))

    def sharpened(self, factor: float) -> SampledLogits:
        """Return draws with `factor` times the mean and unchanged deviations."""
        moved = self.samples + (factor - 1) * self.mean
        return SampledLogits(torch.where(self.mean <= ABSENT / 2, self.samples, moved))

    def at_mean(self) -> GaussianLogits:
        """Return the exact logits, else the mean over draws, as a point estimate."""
        mean = self.mean if self.exact is None else self.exact
        return GaussianLogits.point(mean)

    def thinned(self, most: int) -> SampledLogits:
        """Return at most `most` of the draws, evenly spaced; the same object if there are fewer.

        Args:
            most: At least 1.
        """
        if len(self.samples) <= most:
            return self
        return SampledLogits(self.samples[evenly(len(self.samples), most)], self.exact)


@dataclass(frozen=True)
class MixtureLogits:
    """Logits of N rows and C classes under one of several equally likely networks.

    Attributes:
        parts: Logits of the rows by each network.
    """

    parts: tuple[GaussianLogits | SampledLogits, ...]

    @property
    def mean(self) -> Tensor:
        """[N, C]: the mean over networks."""
        return self._means.mean(0)

    @property
    def variance(self) -> Tensor:
        """[N, C]: the mean of their variances and the variance of their means."""
        within = torch.stack([part.variance for part in self.parts]).mean(0)
        return within + self._means.var(0, correction=0)

    def spread_of(self, present: Tensor | None = None) -> Tensor:
        """Return [N], as `GaussianLogits.spread_of`, within networks and between them."""
        within = torch.stack([part.spread_of(present) for part in self.parts]).mean(0)
        return within + SampledLogits(self._means).spread_of(present)

    @property
    def is_point(self) -> bool:
        """Whether no logit varies within a network or between networks."""
        return not bool(torch.any(self.variance > 0))

    @property
    def _means(self) -> Tensor:
        return torch.stack([part.mean for part in self.parts])

    def scaled(self, factor: float) -> MixtureLogits:
        """Return the distribution of `factor` times the logits."""
        return MixtureLogits(tuple(part.scaled(factor) for part in self.parts))

    def sharpened(self, factor: float) -> MixtureLogits:
        """Return the mixture with `factor` times the mean of each network."""
        return MixtureLogits(tuple(part.sharpened(factor) for part in self.parts))


def _times(values: Tensor, factor: float) -> Tensor:
    """Return logits multiplied by a factor; those of absent classes are unchanged."""
    return torch.where(values <= ABSENT / 2, values, values * factor)


def mixed(parts: Sequence[GaussianLogits | SampledLogits]) -> SampledLogits | MixtureLogits:
    """Return the logits of several networks on the same rows; point estimates become samples."""
    if all(isinstance(part, GaussianLogits) and part.is_point for part in parts):
        return SampledLogits(torch.stack([part.mean for part in parts]))
    return MixtureLogits(tuple(parts))


def evenly(total: int, most: int) -> Tensor:
    """Return at most `most` of the indices 0 to `total` − 1, evenly spaced, int64."""
    return torch.arange(min(total, most)) * total // min(total, most)


Logits = GaussianLogits | SampledLogits
"""Logits predicted by a last layer or a weight posterior."""

AnyLogits = Logits | MixtureLogits
"""Logits predicted by one network or several."""
