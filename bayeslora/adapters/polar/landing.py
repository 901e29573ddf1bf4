"""AdamW with a field that attracts to the manifold, and absorption of the remaining drift.

The field replaces the gradient: `landing` keeps its descent part orthogonal to the
attraction, `euclidean-penalty` adds the attraction to the plain gradient (both in Lion, Zhang,
Li & He 2025, arXiv:2506.03133). Adam rescales the field entry by entry and so leaves the
manifold: with gradients dominated by noise of root mean square entry g, ‖ZᵀZ − I‖_F settles near
η n g √r / (2λ). Absorption every k steps removes that drift without changing the function;
k = 0 keeps it, as published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.optim import AdamW

from bayeslora.adapters.low_rank import LowRank
from bayeslora.adapters.optimizers import closure_loss, manifold_parameters
from bayeslora.adapters.polar.stiefel import (
    absorb,
    landing_field,
    penalty,
    tall,
    tangent,
)


class LandingAdamW(AdamW):
    """AdamW on the factors of PoLAR sites, with a soft orthonormality constraint.

    Args:
        sites: The adapters; absorption also changes their cores.
        lr: Learning rate.
        landing_lambda: Weight λ of the attraction.
        absorb_every: Steps between absorptions; 0 for never.
        project: Whether the descent part follows the level sets of ZᵀZ (the landing field)
            instead of the plain gradient (a Euclidean penalty).
    """

    def __init__(
        self,
        sites: Sequence[LowRank],
        lr: float,
        landing_lambda: float,
        absorb_every: int = 1,
        project: bool = True,
    ) -> None:
        self._sites = list(sites)
        group = {
            "params": manifold_parameters(sites),
            "landing_lambda": landing_lambda,
            "absorb_every": absorb_every,
            "project": project,
            "num_steps": 0,
        }
        super().__init__([group], lr=lr, weight_decay=0.0)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Replace each gradient by its field, step, and absorb if due."""
        loss = closure_loss(closure)
        (group,) = self.param_groups
        for factor in group["params"]:
            if factor.grad is not None:
                Z, G = tall(factor), tall(factor.grad)
                attraction = group["landing_lambda"]
                if group["project"]:
                    field = landing_field(Z, G, attraction)
                else:
                    field = G + attraction * penalty(Z)
                G.copy_(field)
        super().step()
        group["num_steps"] += 1
        if group["absorb_every"] and group["num_steps"] % group["absorb_every"] == 0:
            absorb(self._sites)
            self._project_momentum()
        return loss

    def _project_momentum(self) -> None:
        """Remove the part of the momentum that leaves the manifold."""
        for factor in self.param_groups[0]["params"]:
            if "exp_avg" in self.state.get(factor, {}):
                momentum = tall(self.state[factor]["exp_avg"])
                momentum.copy_(tangent(tall(factor), momentum))
