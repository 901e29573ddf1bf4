"""Links from the distribution of a row's logits to probabilities and their uncertainty.

    mc      mean of softmax(m + V^{1/2} ε) over antithetic draws; unbiased for every V
    probit  p_c ∝ 1 / Σ_j exp(−(m_c − m_j) / √(1 + π/8 · Var(z_c − z_j)))
    bridge  a Dirichlet matched to the Gaussian; rough where variances are large or unequal

`probit` compares logits in pairs. Like softmax, and unlike the usual softmax(m / √(1 + π/8 · diag
V)), it is invariant to a shift shared by all logits of a row; with two classes it is the binary
probit approximation of the logits' difference.

Sources: MacKay 1992 (Neural Computation 4, the evidence framework applied to classification
networks) for the probit approximation; Hobbhahn, Kristiadi and Hennig 2022, arXiv 2003.01227, for
the bridge; Depeweg et al. 2018, arXiv 1710.07283, for the decomposition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayeslora.logits import ABSENT, AnyLogits, GaussianLogits, MixtureLogits, SampledLogits
from bayeslora.processes import row_slices

# Draws x rows x classes in memory at a time: 32 MB in float64.
_AT_A_TIME = 1 << 22


@dataclass(frozen=True)
class LinkResult:
    """Probabilities of N rows and their uncertainty; float64, entropies in nats.

    Attributes:
        probs: [N, C], rows sum to one.
        total: [N], the entropy of `probs`.
        aleatoric: [N], total − epistemic: the uncertainty left if the weights were known.
        epistemic: [N], mutual information of label and weights, in [0, total].
    """

    probs: Tensor
    total: Tensor
    aleatoric: Tensor
    epistemic: Tensor


def link_probabilities(
    logits: AnyLogits, link: str = "mc", num_samples: int = 1000, seed: int = 0
) -> LinkResult:
    """Return probabilities and the decomposition of their uncertainty.

    All rows share one block of noise, so results depend neither on batch size nor on row order.
    The epistemic part always comes from draws, as no closed form is known.

    Args:
        logits: Distribution of the logits. Weight samples are averaged, unless they come with
            exact logits; `link` and the number of draws then have no effect. The parts of a
            mixture are averaged.
        link: `mc`, `probit` or `bridge`.
        num_samples: Number of draws; 0 uses the mean logits as if they were certain.
        seed: Seed of the draws.

    Example:
        The same mean logits, with and without variance:

        >>> mean = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        >>> for variance in (0.0, 4.0):
        ...     logits = GaussianLogits(mean, torch.full_like(mean, variance))
        ...     result = link_probabilities(logits, "probit")
        ...     print([round(p, 2) for p in result.probs[0].tolist()])
        [0.73, 0.27]
        [0.62, 0.38]
    """
    if isinstance(logits, SampledLogits):
        return _average_samples(logits)
    if isinstance(logits, MixtureLogits):
        parts = [link_probabilities(part, link, num_samples, seed) for part in logits.parts]
        return _average_parts(parts)
    if num_samples == 0 or logits.is_point:
        return _decompose(logits.mean.double().softmax(-1), None)
    rows, classes = logits.mean.shape
    noise = antithetic_noise(num_samples, (classes,), seed, logits.mean.double())
    blocks = [
        _gaussian_rows(logits.rows(block), noise, _CLOSED_FORMS.get(link))
        for block in row_slices(rows, max(num_samples, classes) * classes, _AT_A_TIME)
    ]
    probs, information = map(torch.cat, zip(*blocks, strict=True))
    return _decompose(probs, information)


def at_label(values: Tensor, labels: Tensor) -> Tensor:
    """Return the values [N] of the labels, or their means under shares.

    Args:
        values: [N, C].
        labels: [N] int64 class indices, or [N, C] shares of the classes.
    """
    if labels.ndim == 2:
        return (values * labels).sum(1)
    return values.gather(1, labels[:, None])[:, 0]


def hard(labels: Tensor) -> Tensor:
    """Return class indices [N] int64: of shares [N, C] the most frequent class."""
    return labels.argmax(1) if labels.ndim == 2 else labels


def nll_by_row(probs: Tensor, labels: Tensor) -> Tensor:
    """Return the negative log-likelihoods [N] of [N, C] float64 probabilities, in nats."""
    return -at_label(probs.clamp_min(torch.finfo(probs.dtype).tiny).log(), labels)


def nll(probs: Tensor, labels: Tensor) -> float:
    """Return the mean negative log-likelihood of [N, C] float64 probabilities, in nats per row."""
    return float(nll_by_row(probs, labels).mean())


def entropy(probs: Tensor) -> Tensor:
    """Return the entropy of [..., C] probabilities in nats, [...]."""
    terms: Tensor = torch.special.entr(probs)
    return terms.sum(-1)


def antithetic_noise(
    num_samples: int, shape: tuple[int, ...], seed: int, like: Tensor | None = None
) -> Tensor:
    """Return [num_samples, *shape] standard normal draws in pairs ±ε.

    Args:
        num_samples: Number of draws; an odd number leaves the last pair incomplete.
        shape: Shape of one draw.
        seed: Seed of the draws, which are made on the CPU so that they are equal on all devices.
        like: Tensor that determines dtype and device; None uses float64 on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(((num_samples + 1) // 2, *shape), generator=generator, dtype=torch.float64)
    noise = torch.cat([half, -half])[:num_samples]
    return noise if like is None else noise.to(like)


def probit(mean: Tensor, covariance: Tensor) -> Tensor:
    """Return [N, C] probabilities by the pairwise probit approximation.

    Args:
        mean: [N, C].
        covariance: [N, C, C].
    """
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    pair_variance = variance[:, :, None] + variance[:, None, :] - 2 * covariance
    gap = mean[:, :, None] - mean[:, None, :]
    scaled = gap / (1 + math.pi / 8 * pair_variance.clamp_min(0)).sqrt()
    inverse: Tensor = (-scaled).logsumexp(-1)
    return (-inverse).softmax(-1)


def bridge(mean: Tensor, covariance: Tensor) -> Tensor:
    """Return [N, C] probabilities of the Dirichlet matched by the Laplace bridge.

    The logits are first conditioned on a zero sum, since a Dirichlet is invariant to their shift.
    Exact for a Gaussian that is the Laplace approximation of a Dirichlet; otherwise the coarsest
    link, because each probability is inversely proportional to its logit's variance. Classes that
    a row lacks are ignored.

    Args:
        mean: [N, C].
        covariance: [N, C, C].
    """
    present = mean > ABSENT / 2
    if not present.all():
        return _among_present(bridge, mean, covariance, present)
    classes = mean.shape[1]
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    certain = (variance <= 0).all(-1, keepdim=True)
    row_sums = covariance.sum(-1)
    total = row_sums.sum(-1, keepdim=True)
    # Where the sum of the logits is certain, centring is a plain shift.
    share = torch.where(total > 0, row_sums / total, 1 / classes)
    centred = mean - share * mean.sum(-1, keepdim=True)
    conditional = (variance - share * row_sums).clamp_min(torch.finfo(mean.dtype).tiny)
    # Logarithms: e^m alone would overflow for confident rows.
    constant = math.log(1 - 2 / classes) if classes > 2 else -math.inf
    growth = centred + (-centred).logsumexp(-1, keepdim=True) - 2 * math.log(classes)
    concentration = torch.logaddexp(growth, torch.full_like(growth, constant)) - conditional.log()
    return torch.where(certain, mean, concentration).softmax(-1)


ClosedForm = Callable[[Tensor, Tensor], Tensor]
"""Maps [N, C] means and [N, C, C] covariances to [N, C] probabilities."""


def _among_present(link: ClosedForm, mean: Tensor, covariance: Tensor, present: Tensor) -> Tensor:
    """Return [N, C] probabilities over each row's present classes, [N, C] bool; 0 elsewhere."""
    probs = torch.zeros_like(mean)
    for mask in torch.unique(present, dim=0):
        rows = (present == mask).all(1)
        cells = rows[:, None] & mask
        pairs = covariance[rows][:, mask][:, :, mask]
        probs[cells] = link(mean[rows][:, mask], pairs).flatten()
    return probs


_CLOSED_FORMS: dict[str, ClosedForm] = {"bridge": bridge, "probit": probit}


def _gaussian_rows(
    logits: GaussianLogits, noise: Tensor, closed_form: ClosedForm | None
) -> tuple[Tensor, Tensor]:
    """Return probabilities [N, C], by draws or in closed form, and mutual information [N]."""
    mean, root = logits.mean.double(), logits.root().double()
    diagonal = root.ndim == 2
    shift = noise[:, None] * root if diagonal else torch.einsum("ncd,sd->snc", root, noise)
    log_probs = (mean + shift).log_softmax(-1)
    probs = log_probs.exp()
    sampled, conditional = probs.mean(0), -(probs * log_probs).sum(-1).mean(0)
    information = entropy(sampled) - conditional
    if closed_form is None:
        return sampled, information
    covariance = logits.covariance.double()
    return closed_form(mean, torch.diag_embed(covariance) if diagonal else covariance), information


def _average_samples(logits: SampledLogits) -> LinkResult:
    """Return the mean of the softmax over draws, in closed form if available."""
    samples = logits.samples.double()
    draws, rows, classes = samples.shape
    means, conditional = samples.new_zeros(rows, classes), samples.new_zeros(rows)
    for block in row_slices(rows, draws * classes, _AT_A_TIME):
        probs = samples[:, block].softmax(-1)
        means[block], conditional[block] = probs.mean(0), entropy(probs).mean(0)
    probs = means if logits.exact is None else logits.exact.double().softmax(-1)
    return _decompose(probs, entropy(means) - conditional)


def _average_parts(parts: Sequence[LinkResult]) -> LinkResult:
    """Return the mean over networks; their disagreement is epistemic uncertainty."""
    probs = torch.stack([part.probs for part in parts]).mean(0)
    aleatoric = torch.stack([part.aleatoric for part in parts]).mean(0)
    return _decompose(probs, entropy(probs) - aleatoric)


def _decompose(probs: Tensor, information: Tensor | None) -> LinkResult:
    """Return the result with entropies; `information` is None for certain weights."""
    total = entropy(probs)
    epistemic = torch.zeros_like(total) if information is None else information
    epistemic = torch.minimum(epistemic.clamp_min(0), total)
    return LinkResult(probs, total, total - epistemic, epistemic)


# Prior standard deviation of the factor's logarithm: about a factor of two.
_PRIOR_STD = 0.7
_LARGEST_FACTOR = 8.0
# Draws for the probabilities of Gaussian logits, the same for every factor.
_DRAWS = 200


def best_scale(
    batches: Sequence[tuple[AnyLogits, Tensor]], *, means_alone: bool = False, **options: Any
) -> tuple[float, float, float]:
    """Return the factor of maximal posterior density, and the mean NLL without and with it.

    It is the inverse of a temperature (Guo et al. 2017, arXiv 1706.04599, section 4.2). The prior
    keeps it near 1 for few rows, and finite if all of them are right. Scaling means and deviations
    alike keeps their ratio, so logits that vary more than they differ stay unsure.

    The prior on its logarithm is a Gaussian around 0 with standard deviation 0.7; the factor is
    between 1/8 and 8.

    Args:
        batches: Pairs of logits of N rows and C classes and labels [N] int64.
        means_alone: Whether to scale the means only, not the deviations from them.
        **options: `link` and `num_samples` of the posterior's predictions.
    """
    from scipy.optimize import minimize_scalar

    link_options = options | {"num_samples": min(options.get("num_samples", _DRAWS), _DRAWS)}
    rows = sum(len(labels) for _, labels in batches)

    def nll(factor: float) -> float:
        total = 0.0
        for logits, labels in batches:
            rescale = logits.sharpened if means_alone else logits.scaled
            probs = link_probabilities(rescale(factor), **link_options).probs.cpu()
            total += float(nll_by_row(probs, labels.cpu()).sum())
        return total

    def loss(log_factor: float) -> float:
        return nll(math.exp(log_factor)) + 0.5 * (log_factor / _PRIOR_STD) ** 2

    bound = math.log(_LARGEST_FACTOR)
    result = minimize_scalar(
        loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-3}
    )
    factor = math.exp(float(result.x))
    return factor, nll(1.0) / rows, nll(factor) / rows
