"""Laplace-LoRA: a Laplace approximation over the adapter's weights, linearised for prediction.

    q(θ) = N(θ̂, (H + δI)⁻¹),   H = Σ_n J_nᵀ (diag p_n − p_n p_nᵀ) J_n,   J = ∂z/∂θ [C, P]
    z(x) ~ N( f(x; θ̂), J(x) (H + δI)⁻¹ J(x)ᵀ )

θ are the free weights of the adapters (A and B of LoRA, the columns of S²FT, and the core Θ of
PoLAR, whose X and Y are point estimates) and those of the last layer. The mean is the trained
network itself; predicting with draws of the weights instead would leave the region where the
quadratic approximation is valid. The prior is N(θ₀, δ⁻¹I), with θ₀ where the adapter has no effect.

The frozen prefix is shared with all other passes; a batch takes one forward pass of the adapted
layers and one backward pass per class, down to the lowest random layer.

Source: Yang, Robeyns, Wang and Aitchison 2024, arXiv 2308.13111; Immer, Korzepa and Bauer 2021,
arXiv 2008.08216, for the linearisation.

*Curvature* of softmax cross-entropy in the weights of linear layers.

    H = Σ_n J_nᵀ (diag p_n − p_n p_nᵀ) J_n = Σ_n Σ_k j_nk j_nkᵀ,   j_nk = J_nᵀ (R_n)_·k
    R_n = diag(√p_n) − p_n √p_nᵀ,   R_n R_nᵀ = diag p_n − p_n p_nᵀ

H is the generalised Gauss-Newton matrix, equal to the Fisher matrix, summed over all rows. Each
structure stores eigenvalues e and rotates Jacobians to the eigenvectors, so that a prior of
precision δ enters exactly: log|H + δI| = Σ log(e + δ), and V = J (H + δI)⁻¹ Jᵀ weighs directions by
1 / (e + δ).

Source of the Kronecker form: Martens and Grosse 2015, arXiv 1503.05671; with many tokens per row,
the `expand` form of Eschenhagen et al. 2023, arXiv 2311.00636.

*Gradients* of the logits for each row, with respect to the weights of linear layers.

A linear layer `h = W a` that is called once per forward pass has, for a row with tokens t,

    ∂(vᵀz) / ∂W = Σ_t g_t a_tᵀ,   g_t = ∂(vᵀz) / ∂h_t

so inputs a and output gradients g, recorded by hooks, yield it for every row of a batch at once.
Each vector v costs one backward pass, down to the lowest of the layers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bayeslora.adapters.site import Site
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.tokens import real_tokens
from bayeslora.links import link_probabilities, nll
from bayeslora.logits import GaussianLogits
from bayeslora.option_checks import Draws, Link, Positive
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.last_layer.algebra import (
    LOG10_GRID,
    best_on_grid,
    log_marginal_likelihood,
    refine,
)
from bayeslora.posteriors.types import (
    Advance,
    Features,
    FinalFit,
    Network,
    Rows,
    WeightPosterior,
    feature_gradient,
)
from bayeslora.posteriors.weights.draws import random_layers


@dataclass(frozen=True)
class LaplaceLoRA(Posterior):
    """Laplace approximation over the adapter's weights, linearised for prediction.

    Random are the factors A and B of LoRA, or the core Θ of PoLAR, and the last layer. The mean
    network is trained by maximum likelihood and stays as it is.
    """

    structure: Literal["diag", "kron"] = "kron"
    """Curvature: `kron`, two Kronecker factors per layer, or `diag`."""
    prior_precision: Positive | Literal["marglik", "validation"] = "validation"
    """Precision δ of the Gaussian prior on every random weight. `validation` minimises the
    validation NLL, or means `marglik` if there are no validation rows; `marglik` maximises the
    marginal likelihood, which assumes that the mean weights are its optimum."""
    link: Link = "mc"
    """Link from logits to probabilities, also used for tuning."""
    num_samples: Draws = 1000
    """Number of draws of the `mc` link; 0 predicts with the mean weights."""

    name: ClassVar[str] = "laplace_lora"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.laplace_lora:LaplaceLoRAWeights.of"
    calls_once: ClassVar[bool] = True
    over_trained: ClassVar[bool] = True
    summary: ClassVar[str] = "linearised Laplace approximation over the adapter's weights"
    use: ClassVar[str] = "Uncertainty for a finished LoRA or PoLAR model with few classes."
    source: ClassVar[str] = "Yang et al. 2024, arXiv 2308.13111"
    passes: ClassVar[str] = "2, and one backward pass per class"

    def num_passes(self, num_samples: int | None = None) -> int:
        """Return 2 forward passes: the mean has its own, to be bitwise identical."""
        return 2 if self.num_draws(num_samples) > 0 else 1


class Seen(NamedTuple):
    """Record of a layer's last forward pass by a hook.

    Attributes:
        inputs: [..., in], detached.
        outputs: [..., out], in the graph.
    """

    inputs: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class LayerGradients:
    """Inputs and output gradients of one linear layer for a batch; zero at padding.

    Attributes:
        inputs: [B, T, in].
        gradients: [K, B, T, out], for each of K vectors v.
        num_tokens: Number of real tokens in the batch.
    """

    inputs: Tensor
    gradients: Tensor
    num_tokens: int

    def matrices(self) -> Tensor:
        """Return ∂(vᵀz)/∂W of each row, [B, K, out, in] float64."""
        return torch.einsum("kbto,bti->bkoi", self.gradients.double(), self.inputs.double())


@contextmanager
def watched(layers: Sequence[nn.Linear]) -> Iterator[list[Seen | None]]:
    """Yield the records of each layer's last call in a forward pass, None before it."""
    seen: list[Seen | None] = [None] * len(layers)

    def recorder(index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
            seen[index] = Seen(inputs[0].detach(), outputs)

        return hook

    with ExitStack() as hooks:
        for index, layer in enumerate(layers):
            hooks.enter_context(layer.register_forward_hook(recorder(index)))
        yield seen


def backward(
    features: Tensor,
    seen: Sequence[Seen | None],
    names: Sequence[str],
    directions: Tensor,
    mask: Tensor,
) -> list[LayerGradients]:
    """Return the gradients of `directions · features` for every layer, by K backward passes.

    Args:
        features: [B, ...], with their graph.
        seen: Records of the hooks in the pass that computed `features`.
        names: Names of the layers, for messages.
        directions: [K, B, ...], multiplied with the features; Wᵀv for the gradient of vᵀWφ.
        mask: [B, T], 1 at real tokens.

    Raises:
        InputError: The inputs of a layer are neither per token nor per row.
    """
    records = [cast("Seen", record) for record in seen]
    outputs = [record.outputs for record in records]
    by_direction = [
        torch.autograd.grad(features, outputs, direction, retain_graph=True, materialize_grads=True)
        for direction in directions.to(features.dtype)
    ]
    return [
        _masked(record.inputs, torch.stack(gradients), mask, name)
        for record, gradients, name in zip(
            records, zip(*by_direction, strict=True), names, strict=True
        )
    ]


def _masked(inputs: Tensor, gradients: Tensor, mask: Tensor, name: str) -> LayerGradients:
    """Return both as [..., B, T, ·] with zeros at padding; a layer may see one state per row."""
    real = real_tokens(f"adapter layer {name}", inputs, mask)
    # Filled, not multiplied: values at padding need not be finite.
    a, g = (values.masked_fill(~real[..., None], 0) for values in (inputs, gradients))
    rows = len(mask)
    return LayerGradients(
        a.reshape(rows, -1, a.shape[-1]), g.reshape(len(g), rows, -1, g.shape[-1]), int(real.sum())
    )


class KronLayers(nn.Module):
    """B ⊗ A for each layer: A = mean over tokens of aaᵀ, B = sum over tokens and k of ggᵀ."""

    def __init__(self, shapes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(_Factor(size) for _, size in shapes)
        self.outputs = nn.ModuleList(_Factor(size) for size, _ in shapes)
        self._num_tokens = [0] * len(shapes)

    def add(self, layers: Sequence[LayerGradients]) -> None:
        """Add rows, whose gradients are j_nk for all k."""
        for index, (layer, (a, b)) in enumerate(zip(layers, self._factors(), strict=True)):
            inputs, gradients = layer.inputs.double(), layer.gradients.double()
            a.basis += torch.einsum("bti,btj->ij", inputs, inputs)
            b.basis += torch.einsum("kbto,kbtp->op", gradients, gradients)
            self._num_tokens[index] += layer.num_tokens

    def finish(self) -> None:
        """Decompose the sums, once all rows are added."""
        for (a, b), count in zip(self._factors(), self._num_tokens, strict=True):
            a.decompose(max(count, 1))
            b.decompose(1)

    def eigenvalues(self) -> list[Tensor]:
        """Return the products of both factors' eigenvalues, [out · in] for each layer."""
        return [torch.outer(b.values, a.values).flatten() for a, b in self._factors()]

    def turned(self, layers: Sequence[LayerGradients]) -> Iterator[Tensor]:
        """Yield Q_Bᵀ G Q_A for each layer, as [B, C, out · in]."""
        for layer, (a, b) in zip(layers, self._factors(), strict=True):
            yield (b.basis.T @ (layer.matrices() @ a.basis)).flatten(-2)

    def _factors(self) -> list[tuple[_Factor, _Factor]]:
        """Return the factors A and B of each layer."""
        pairs = zip(self.inputs, self.outputs, strict=True)
        return [cast("tuple[_Factor, _Factor]", pair) for pair in pairs]


class DiagLayers(nn.Module):
    """The diagonal of H: h_i = Σ_n Σ_k (j_nk)_i²."""

    def __init__(self, shapes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        for index, shape in enumerate(shapes):
            self.register_buffer(f"h{index}", torch.zeros(shape, dtype=torch.float64))
        self._names = [f"h{index}" for index in range(len(shapes))]

    def add(self, layers: Sequence[LayerGradients]) -> None:
        """Add rows, whose gradients are j_nk for all k."""
        for name, layer in zip(self._names, layers, strict=True):
            self.get_buffer(name).add_(layer.matrices().square().sum((0, 1)))

    def finish(self) -> None:
        """Do nothing: the sums are the eigenvalues."""

    def eigenvalues(self) -> list[Tensor]:
        """Return h, [out · in] for each layer."""
        return [self.get_buffer(name).flatten() for name in self._names]

    def turned(self, layers: Sequence[LayerGradients]) -> Iterator[Tensor]:
        """Yield the unchanged Jacobians, [B, C, out · in]."""
        return (layer.matrices().flatten(-2) for layer in layers)


class _Factor(nn.Module):
    """A symmetric matrix [n, n] while it is summed, then its eigenvectors and eigenvalues."""

    basis: Tensor
    values: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("basis", torch.zeros(size, size, dtype=torch.float64))
        self.register_buffer("values", torch.zeros(size, dtype=torch.float64))

    def decompose(self, count: int) -> None:
        values, basis = torch.linalg.eigh(self.basis / count)
        self.basis, self.values = basis.contiguous(), values.clamp_min(0)


AnyLayers = KronLayers | DiagLayers
"""Structures of H over layers of shapes [(out, in), …], with float64 buffers.

`add` adds rows with gradients j_nk for all k, and `finish` decomposes the sums.
"""

LAYER_STRUCTURES: dict[str, type[AnyLayers]] = {"diag": DiagLayers, "kron": KronLayers}


def fisher_columns(logits: Tensor) -> Tensor:
    """Return the columns of R for each row, [C, B, C], with R Rᵀ = diag p − p pᵀ."""
    probs = logits.softmax(-1)
    root = probs.sqrt()
    return (torch.diag_embed(root) - probs[:, :, None] * root[:, None, :]).permute(2, 0, 1)


logger = logging.getLogger(__name__)

# The same limit as for the covariances of VBLL.
_MOST_BYTES = 1 << 30

_BATCH = 64
# Numbers of gradients or Jacobians in memory at a time: 256 MB in float64.
_NUMBERS = 1 << 25


class LaplaceLoRAWeights(WeightPosterior):
    """The posterior's covariance; the mean is in the adapters and the last layer.

    Attributes:
        layers: The random layers of the adapters.
        curvature: H, None before the fit.
        structure: Structure of the curvature; `diag` if `kron` would take too much memory.
        prior_precision: δ, float64; NaN before the fit.
        log_evidence: Laplace estimate of the log marginal likelihood at δ in nats per row.
    """

    prior_precision: Tensor
    log_evidence: Tensor

    def __init__(
        self, config: LaplaceLoRA, sites: Sequence[Site], last_shape: tuple[int, int]
    ) -> None:
        """Start without a covariance.

        Args:
            config: Options.
            sites: The adapters, which are not registered as submodules.
            last_shape: (C, d) of the last layer.
        """
        super().__init__()
        self.config = config
        # A tuple: the layers belong to the adapters, not to this module.
        self.layers = tuple(layer for site in sites for layer in random_layers(site))
        self._shapes = [
            (random_layer.layer.out_features, random_layer.layer.in_features)
            for random_layer in self.layers
        ]
        self._shapes.append(last_shape)
        self.structure = affordable_structure(config.structure, self._shapes)
        self.curvature: AnyLayers | None = None
        for name in ("prior_precision", "log_evidence"):
            self.register_buffer(name, torch.tensor(math.nan, dtype=torch.float64))

    @classmethod
    def of(cls, config: LaplaceLoRA, network: Network, **options: Any) -> Self:
        """Return an empty curvature of the adapter's weights and the last layer's."""
        classes, width = network.head.mean_weight.shape
        weights = cls(config, network.sites, (classes, width))
        if options["fitted"]:
            weights.prepare()
        return weights

    def after_last_layer(self, fit: FinalFit) -> None:
        """Fit the curvature around the trained weights, and choose the prior precision."""
        total = len(fit.train[0])
        if fit.held_out is not None and self.config.prior_precision == "validation":
            total += len(fit.held_out[0])
        with fit.open_bar("curvature", total) as advance:
            self.fit(fit.network, fit.train, fit.held_out, advance)

    def gaussian_logits(
        self, network: Network, texts: PreparedTexts, rows: Features, advance: Advance
    ) -> GaussianLogits:
        """Return the logits linearised in the random weights, around those of the mean network."""
        network.eval()
        mean: Tensor = network.head.predict(rows).mean
        result = torch.empty(*mean.shape, mean.shape[1], dtype=torch.float64)
        precision = float(self.prior_precision)
        for places, layers in self._batches(network, texts, unit_vectors, advance):
            result[places] = self._covariances(layers, [precision])[0].cpu()
        return GaussianLogits(mean, result.to(mean.device))

    @property
    def num_weights(self) -> int:
        """P, the number of random weights."""
        return sum(out * size for out, size in self._shapes)

    def prepare(self) -> AnyLayers:
        """Allocate an empty curvature, for a fit or to load tensors into."""
        curvature = LAYER_STRUCTURES[self.structure](self._shapes)
        self.curvature = curvature.to(self.prior_precision.device)
        return self.curvature

    @torch.no_grad()
    def fit(
        self,
        network: Network,
        train: Rows,
        validation: Rows | None,
        advance: Advance = lambda _: None,
    ) -> None:
        """Fit the curvature to training rows and choose the prior precision.

        Args:
            network: Trained; its weights do not change.
            train: Texts and labels [N] int64.
            validation: Held-out texts and labels, for choosing the prior if configured.
            advance: Called with the number of texts after each batch of gradients.
        """
        network.eval()
        texts, labels = train
        curvature = self.prepare()
        for _, layers in self._batches(network, texts, fisher_columns, advance):
            curvature.add(layers)
        curvature.finish()
        mean = network_logits(network, texts)
        log_likelihood = -float(cross_entropy(mean, labels.to(mean.device), reduction="sum"))
        distance = self.sq_distance(network.head.mean_weight)

        def evidence(precision: float) -> float:
            determinant = float(
                sum((values + precision).log().sum() for values in curvature.eigenvalues())
            )
            size = self.num_weights
            return log_marginal_likelihood(log_likelihood, distance, determinant, size, precision)

        precision = self.config.prior_precision
        if isinstance(precision, str):
            # The precision of the prior if the entries of θ̂ are seen as its draws.
            unit = self.num_weights / distance if distance else 1.0
            if precision == "validation" and validation is not None:
                # The gradients of a row are the same for every precision, and too many to store.
                grid = [unit * 10**power for power in LOG10_GRID]
                losses = dict(zip(grid, self._nll(network, validation, grid, advance), strict=True))
                precision = best_on_grid(lambda value: -losses[value], unit)
            else:
                if precision == "validation":
                    logger.debug("no validation data: choosing the prior by marginal likelihood")
                precision = refine(evidence, best_on_grid(evidence, unit))
        self.prior_precision.fill_(precision)
        self.log_evidence.fill_(evidence(precision) / len(labels))

    def sq_distance(self, last_weight: Tensor) -> float:
        """Return ‖θ̂ − θ₀‖²."""
        changes = [item.layer.weight.detach() - item.origin for item in self.layers]
        changes.append(last_weight.detach())
        return float(sum(change.double().square().sum() for change in changes))

    def report(self) -> dict[str, float | str]:
        """Return the prior precision, the structure, the random weights and the log evidence."""
        if self.curvature is None:
            return {"fitted": "no"}
        return {
            "prior_precision": float(self.prior_precision),
            "structure": self.structure,
            "num_random_weights": float(self.num_weights),
            "log_evidence": float(self.log_evidence),
        }

    def _nll(
        self, network: Network, held_out: Rows, precisions: list[float], advance: Advance
    ) -> list[float]:
        """Return the NLL (nats) of held-out rows under each prior precision."""
        texts, labels = held_out
        mean = network_logits(network, texts)
        config, total = self.config, torch.zeros(len(precisions), dtype=torch.float64)
        for rows, layers in self._batches(network, texts, unit_vectors, advance):
            truth = labels[rows].to(mean.device)
            for index, covariance in enumerate(self._covariances(layers, precisions)):
                logits = GaussianLogits(mean[rows], covariance.to(mean.device))
                probs = link_probabilities(logits, config.link, config.num_samples).probs
                total[index] += len(rows) * nll(probs, truth)
        return [float(value) / len(labels) for value in total]

    def _covariances(self, layers: Sequence[LayerGradients], precisions: Sequence[float]) -> Tensor:
        """Return V = J (H + δI)⁻¹ Jᵀ of each row under each δ, [D, B, C, C] float64.

        Args:
            layers: Gradients of the C logits, K = C.
            precisions: D values of δ.
        """
        curvature = cast("AnyLayers", self.curvature)
        result = torch.zeros(())
        for values, jacobian in zip(curvature.eigenvalues(), curvature.turned(layers), strict=True):
            roots = [jacobian * (values + precision).rsqrt() for precision in precisions]
            # M Mᵀ is symmetric and positive semi-definite.
            result = result.to(jacobian) + torch.stack([root @ root.mT for root in roots])
        return result

    def _batches(
        self,
        network: Network,
        texts: PreparedTexts,
        vectors: Callable[[Tensor], Tensor],
        advance: Advance,
    ) -> Iterator[tuple[list[int], list[LayerGradients]]]:
        """Yield row indices and the gradients of vᵀz for each v in `vectors(logits)` [K, B, C]."""
        num_logits = texts.tokens.num_options or len(network.head.mean_weight)
        outputs = sum(random_layer.layer.out_features for random_layer in self.layers)
        longest = int(texts.tokens.lengths.max(initial=1))
        numbers = num_logits * max(outputs * longest, self.num_weights)
        size = min(_BATCH, max(1, _NUMBERS // numbers))
        for rows in network.encoder.batches(texts.tokens.lengths, size):
            yield rows, self._gradients(network, texts.collate(rows), vectors)
            advance(len(rows))

    def _gradients(
        self, network: Network, batch: dict[str, Tensor], vectors: Callable[[Tensor], Tensor]
    ) -> list[LayerGradients]:
        with torch.enable_grad(), watched([item.layer for item in self.layers]) as seen:
            rows: Features = network(batch)
        detached = rows.detach().double()
        states = detached.values
        weight = network.head.mean_weight.double()
        seeds = vectors(detached.logits(weight))
        names = [random_layer.name for random_layer in self.layers]
        directions = feature_gradient(states, weight, seeds)
        layers = backward(rows.values, seen, names, directions, batch["attention_mask"])
        if states.ndim == 3:  # the options of a row share the weights, as its tokens elsewhere
            last = LayerGradients(states, seeds[..., None], states.shape[:2].numel())
        else:
            last = LayerGradients(states[:, None], seeds[:, :, None], len(states))
        return [*layers, last]


def affordable_structure(structure: str, shapes: Sequence[tuple[int, int]]) -> str:
    """Return the structure, or `diag` if Kronecker factors would take too much memory."""
    num_bytes = 8 * sum(out**2 + size**2 for out, size in shapes)
    if structure == "kron" and num_bytes > _MOST_BYTES:
        logger.warning(
            "Kronecker factors of these adapters would take %.1f GiB; using a diagonal curvature "
            "instead",
            num_bytes / 2**30,
        )
        return "diag"
    return structure


@torch.no_grad()
def network_logits(network: Network, texts: PreparedTexts) -> Tensor:
    """Return the logits [N, C] float64 of the mean network."""
    features = network.encoder.features(texts, batch_size=_BATCH)
    return network.head.predict(network.scaled(features)).mean


def unit_vectors(logits: Tensor) -> Tensor:
    """Return the unit vector of each class for each row, [C, B, C]."""
    rows, classes = logits.shape
    return torch.eye(classes, dtype=logits.dtype, device=logits.device)[:, None].expand(
        classes, rows, classes
    )
