"""The exact posterior of a softmax last layer by Markov chains: the reference for the others.

    p(W | D) ∝ Π_n softmax(W φ_n)_{y_n} · N(W; 0, σ0² I),   σ0² = τ² / mean ‖φ‖²

The weights are trained with the adapter as a MAP head. `fit` finds the mode for the cached
features and runs chains around it, in the directions that affect the likelihood; in all others the
posterior equals the prior, exactly and independently. A row with parts φ_in inside and φ_out
outside the row space of the training features therefore has, under draw s,

    z_s = W_s φ_in + σ0 ‖φ_out‖ ε_s + σ0 ‖φ_in‖ η_s 1/√C,   ε_s ~ N(0, I_C), η_s ~ N(0, 1)

The last term is the shift common to all classes, which changes the variance of a logit but not the
softmax. ε and η are drawn once for all rows: exact for each row, but not jointly for two rows.

Sources: Neal 2011, arXiv 1206.1901, for Hamiltonian Monte Carlo; Hoffman and Gelman 2014,
arXiv 1111.4246, for its no-U-turn form.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bayeslora.errors import InputError
from bayeslora.links import antithetic_noise
from bayeslora.logits import SampledLogits, evenly
from bayeslora.posteriors.features import Features, check_features, check_fit
from bayeslora.posteriors.last_layer.algebra import RowSpace
from bayeslora.posteriors.last_layer.nuts.chains import RHAT_LIMIT, Chains, convergence, run_chains
from bayeslora.posteriors.last_layer.nuts.options import NUTS
from bayeslora.posteriors.last_layer.nuts.target import AnyTarget, Target
from bayeslora.posteriors.point import AroundPoint

logger = logging.getLogger(__name__)

# Draws of the Gaussian that replaces the chains while epochs are compared.
_STAND_IN_DRAWS = 200
_MEASURED = ("max_rhat", "min_ess", "divergences")


class NUTSHead(AroundPoint):
    """The head; a `LastLayer`.

    Attributes:
        point: The trained MAP head, from which the search for the chains' mode starts.
        draws: [S, C, r] float32 weights in row-space coordinates; they sum to zero over classes.
        noise: [S, C + 1] float64: ε and, last, η.
        basis: [d, r] float64 of the row space; None if r = d.
        max_rhat: Largest R-hat over all weights and the energy; NaN before the chains have run.
        min_ess: Smallest bulk effective sample size over all weights and the energy.
        divergences: Divergent steps of all chains.
    """

    uses_training_features = True
    config: NUTS
    draws: Tensor | None
    noise: Tensor | None
    basis: Tensor | None
    max_rhat: Tensor
    min_ess: Tensor
    divergences: Tensor

    def __init__(self, config: NUTS, num_features: int, num_classes: int, **options: Any) -> None:
        super().__init__(config, num_features, num_classes, **options)
        for name in ("draws", "noise", "basis"):
            self.register_buffer(name, None)
        for name in _MEASURED:
            self.register_buffer(name, torch.tensor(math.nan, dtype=torch.float64))

    @property
    def fit_steps(self) -> int:
        """Steps of all chains of a fit, warm-up included."""
        return self.config.num_chains * (self.config.num_warmup + self.config.num_samples)

    @torch.no_grad()
    def fit(
        self, train: Features, validation: Features | None = None, *, choose_prior: bool = True
    ) -> None:
        """Run the chains, always on the CPU; the trained weights do not change.

        With `choose_prior=False`, as when epochs are compared, draws from a Gaussian around the
        mode replace the chains.

        Raises:
            InputError: The chains did not move, or the features are not finite.
        """
        check_fit(train, validation)
        target, space = self._target(train.double().to(torch.device("cpu")))
        if choose_prior:
            chains = run_chains(target, self.config, self.seed, self.advance)
            self._measure(chains)
            draws = chains.draws.flatten(0, 1)
            draws = draws[evenly(len(draws), self.config.max_draws)]
        else:
            count = min(_STAND_IN_DRAWS, self.config.max_draws)
            # Not the seed of the noise outside the row space.
            draws = antithetic_noise(count, tuple(target.mode.shape), self.seed + 1)
        self._keep(target.class_weights(draws), space)

    def _target(self, rows: Features) -> tuple[AnyTarget, RowSpace]:
        """Return the target to sample, and the space of its draws."""
        space = RowSpace.of(rows.values)
        centre = self._prior_mean().cpu()
        target = Target.of(
            space.coordinates(rows.values),
            rows.targets,
            space.coordinates(self.point.weight.double().cpu() - centre),
            self.point.prior_precision,
            rows.logits(centre),
        )
        return target, space

    @torch.no_grad()
    def predict(self, rows: Features) -> SampledLogits:
        """Return the logits of each draw, [S, N, C].

        Raises:
            InputError: The head has not been fitted.
        """
        if self.draws is None or self.noise is None:
            raise InputError(
                "posterior 'nuts' has no draws yet; call fit first, or calibrate for a finished "
                "classifier",
                code="not-fitted",
            )
        check_features(rows)
        return SampledLogits(self._logits(rows.double(), self.draws.double(), self.noise))

    def _logits(self, rows: Features, draws: Tensor, noise: Tensor) -> Tensor:
        """Return the logits [S, N, C] of rows under [S, C, r] draws of the weights."""
        states = rows.values
        space = RowSpace(self.basis)
        inside = space.coordinates(states)
        classes = draws.shape[1]
        logits = (draws @ inside.T).transpose(1, 2) + rows.logits(self._prior_mean())
        norm = inside.norm(dim=-1, keepdim=True) / math.sqrt(classes)
        noise = noise[:, None]
        prior_noise = (
            space.outside(states).sqrt() * noise[..., :classes] + norm * noise[..., classes:]
        )
        drawn: Tensor = logits + prior_noise / math.sqrt(self.point.prior_precision)
        return drawn

    @property
    def mean_weight(self) -> Tensor:
        """[C, d]: the mean of the draws; before a fit, the trained weights."""
        if self.draws is None:
            return self.point.mean_weight
        mean = RowSpace(self.basis).expand(self.draws.double().mean(0)) + self._prior_mean()
        return mean.to(self.point.weight)

    def extra_config(self) -> dict[str, Any]:
        """Return the number of draws and the rank of the training features."""
        point = self.point.extra_config()
        if self.draws is None:
            return point | {"fitted": False}
        return point | {"fitted": True, "draws": self.draws.shape[0], "rank": self.draws.shape[2]}

    def prepare(self, extra: Mapping[str, Any]) -> None:
        """Allocate the tensors that `extra` describes."""
        self.point.prepare(extra)
        if not extra.get("fitted"):
            return
        classes, size = self.point.weight.shape
        count, rank = int(extra["draws"]), int(extra["rank"])
        self.draws = torch.zeros(count, classes, rank)
        self.noise = torch.zeros(count, classes + 1, dtype=torch.float64)
        self.basis = torch.zeros(size, rank, dtype=torch.float64) if rank < size else None

    def report(self) -> dict[str, float | str]:
        """Return the prior scale and, after chains, R-hat, effective draws and divergences."""
        report: dict[str, float | str] = {"prior_scale": self.config.prior_scale}
        if self.draws is None:
            return {"fitted": "no"}
        if math.isnan(self.max_rhat):
            return report
        return report | {name: float(getattr(self, name)) for name in _MEASURED}

    def _prior_mean(self) -> Tensor:
        """Return the prior mean, the origin of the draws: [C, d] float64."""
        centre = self.point.prior_mean
        weight = self.point.weight.detach()
        return torch.zeros_like(weight).double() if centre is None else centre.double()

    def _keep(self, draws: Tensor, space: RowSpace) -> None:
        device = self.point.weight.device
        count, classes, _ = draws.shape
        self.draws = draws.float().to(device)
        self.noise = antithetic_noise(count, (classes + 1,), self.seed).to(device)
        self.basis = None if space.basis is None else space.basis.to(device)

    def _measure(self, chains: Chains) -> None:
        result = convergence(torch.cat([chains.draws.flatten(2), chains.energies[..., None]], -1))
        self.max_rhat.fill_(result.max_rhat)
        self.min_ess.fill_(result.min_ess)
        self.divergences.fill_(chains.divergences)
        if result.max_rhat > RHAT_LIMIT:
            logger.warning(
                "the chains have not converged: the largest R-hat is %.3f, above %g, with %.0f "
                "effective draws; raise num_samples or num_warmup",
                result.max_rhat,
                RHAT_LIMIT,
                result.min_ess,
            )
        if chains.divergences:
            logger.warning(
                "%d steps of the chains diverged; raise target_accept", chains.divergences
            )
