"""Laplace-LoRA: a Laplace approximation over the adapter's weights, linearised for prediction.

    q(θ) = N(θ̂, (H + δI)⁻¹),   z(x) ~ N( f(x; θ̂), J(x) (H + δI)⁻¹ J(x)ᵀ ),   J = ∂z/∂θ [C, P]

θ are the free weights of the adapters (A and B of LoRA, the columns of S²FT, and the core Θ of
PoLAR, whose X and Y are point estimates) and those of the last layer. The mean is the trained
network itself; predicting with draws of the weights instead would leave the region where the
quadratic approximation is valid. The prior is N(θ₀, δ⁻¹I), with θ₀ where the adapter has no effect.

Source: Yang, Robeyns, Wang and Aitchison 2024, arXiv 2308.13111; Immer, Korzepa and Bauer 2021,
arXiv 2008.08216, for the linearisation.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bayeslora.adapters.site import Site
from bayeslora.errors import InputError
from bayeslora.posteriors.prior_precision import (
    LOG10_GRID,
    best_on_grid,
    log_marginal_likelihood,
    refine,
)
from bayeslora.posteriors.weights.laplace_lora.curvature import (
    LAYER_STRUCTURES,
    AnyLayers,
    covariances,
    log_determinant,
)
from bayeslora.posteriors.weights.laplace_lora.gradients import LayerGradients
from bayeslora.posteriors.weights.laplace_lora.options import LaplaceLoRA
from bayeslora.posteriors.weights.random_layers import random_layers

logger = logging.getLogger(__name__)

LAST_LAYER = "the last layer"

MOST_FULL = 3000
"""Largest number of random weights of a `full` curvature: 72 MB, and half a minute to decompose."""

# The same limit as for the covariances of VBLL.
_MOST_BYTES = 1 << 30


class LaplaceLoRAWeights(nn.Module):
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

        Raises:
            InputError: The structure is `full`, with too many random weights.
        """
        super().__init__()
        self.config = config
        # A tuple: the layers belong to the adapters, not to this module.
        self.layers = tuple(layer for site in sites for layer in random_layers(site))
        self._shapes = [
            (random_layer.layer.out_features, random_layer.layer.in_features)
            for random_layer in self.layers
        ]
        if config.last_layer:
            self._shapes.append(last_shape)
        self.structure = affordable_structure(config.structure, self._shapes)
        self.curvature: AnyLayers | None = None
        for name in ("prior_precision", "log_evidence"):
            self.register_buffer(name, torch.tensor(math.nan, dtype=torch.float64))

    @property
    def num_weights(self) -> int:
        """P, the number of random weights."""
        return sum(out * size for out, size in self._shapes)

    @property
    def names(self) -> list[str]:
        """Names of the random layers, including the last one if it is random."""
        return [random_layer.name for random_layer in self.layers] + [
            LAST_LAYER
        ] * self.config.last_layer

    def prepare(self) -> AnyLayers:
        """Allocate an empty curvature, for a fit or to load tensors into."""
        curvature = LAYER_STRUCTURES[self.structure](self._shapes)
        self.curvature = curvature.to(self.prior_precision.device)
        return self.curvature

    def finish(self) -> None:
        """Decompose the curvature, once all rows are added.

        Raises:
            InputError: The curvature is not finite; the message names the site.
        """
        curvature = self._fitted()
        for name, diagonal in zip(self.names, curvature.sums(), strict=True):
            if not bool(diagonal.isfinite().all()):
                raise InputError(
                    f"the Hessian of {name} is not finite: gradients of the logits overflow; "
                    "lower the adapter's learning rate (lr), or choose dtype 'float32'"
                )
        curvature.finish()

    def covariances(self, layers: Sequence[LayerGradients], precisions: Sequence[float]) -> Tensor:
        """Return the logits' covariance under each prior precision, [D, B, C, C] float64."""
        return covariances(self._fitted(), layers, precisions)

    def log_marginal_likelihood(
        self, log_likelihood: float, last_weight: Tensor, precision: float
    ) -> float:
        """Return the Laplace estimate of log p(D | δ) in nats.

        Args:
            log_likelihood: log p(D | θ̂), summed over rows.
            last_weight: [C, d] of the last layer.
            precision: δ.
        """
        return log_marginal_likelihood(
            log_likelihood,
            self.sq_distance(last_weight),
            log_determinant(self._fitted(), precision),
            self.num_weights,
            precision,
        )

    def choose(
        self,
        log_likelihood: float,
        last_weight: Tensor,
        num_rows: int,
        validation: Callable[[list[float]], list[float]] | None,
    ) -> None:
        """Choose the prior precision.

        Args:
            log_likelihood: log p(D | θ̂), summed over rows.
            last_weight: [C, d] of the last layer.
            num_rows: N.
            validation: Maps D precisions to the NLL (nats) of validation rows under each; None
                without validation rows.
        """

        def evidence(precision: float) -> float:
            return self.log_marginal_likelihood(log_likelihood, last_weight, precision)

        precision = self.config.prior_precision
        if isinstance(precision, str):
            # The precision of the prior if the entries of θ̂ are seen as its draws.
            distance = self.sq_distance(last_weight)
            unit = self.num_weights / distance if distance else 1.0
            if precision == "validation" and validation is not None:
                precision = self._by_validation(unit, validation)
            else:
                if precision == "validation":
                    logger.debug("no validation data: choosing the prior by marginal likelihood")
                precision = refine(evidence, best_on_grid(evidence, unit, "marginal likelihood"))
        self.prior_precision.fill_(precision)
        self.log_evidence.fill_(evidence(precision) / num_rows)

    def sq_distance(self, last_weight: Tensor) -> float:
        """Return ‖θ̂ − θ₀‖²."""
        changes = [
            random_layer.layer.weight.detach() - random_layer.origin for random_layer in self.layers
        ]
        if self.config.last_layer:
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

    def _by_validation(
        self,
        unit: float,
        validation: Callable[[list[float]], list[float]],
    ) -> float:
        # The gradients of a row are the same for every precision, and far too many to store.
        grid = [unit * 10**power for power in LOG10_GRID]
        losses = dict(zip(grid, validation(grid), strict=True))
        return best_on_grid(lambda precision: -losses[precision], unit, "validation NLL")

    def _fitted(self) -> AnyLayers:
        if self.curvature is None:
            raise InputError(
                "posterior 'laplace_lora' has no covariance yet; call fit first, or calibrate",
                code="not-fitted",
            )
        return self.curvature


def affordable_structure(structure: str, shapes: Sequence[tuple[int, int]]) -> str:
    """Return the structure, or `diag` if Kronecker factors would take too much memory.

    Raises:
        InputError: The structure is `full`, with too many weights.
    """
    total = sum(out * size for out, size in shapes)
    if structure == "full" and total > MOST_FULL:
        raise InputError(
            f"structure 'full' of posterior 'laplace_lora' supports at most {MOST_FULL} random "
            f"weights, got {total}; choose 'kron' or 'diag', or adapter 'polar', whose core alone "
            "is random"
        )
    num_bytes = 8 * sum(out**2 + size**2 for out, size in shapes)
    if structure == "kron" and num_bytes > _MOST_BYTES:
        logger.warning(
            "Kronecker factors of these adapters would take %.1f GiB; using a diagonal curvature "
            "instead",
            num_bytes / 2**30,
        )
        return "diag"
    return structure
