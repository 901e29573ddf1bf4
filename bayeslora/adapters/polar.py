"""PoLAR: two orthonormal direction factors around a free core.

    y = x Wᵀ + b + s · x (X Θ Yᵀ)ᵀ ,   XᵀX = YᵀY = I ,   s = alpha / r

Source: Lion, Zhang, Li and He 2025, arXiv 2506.03133. The core Θ (`core`) trains by AdamW
(`optimizers.py`); this module has the steps of the direction factors X (`B.weight`) and Y
(`A.weightᵀ`). Below, Z [n, r] with n ≥ r is either of them, G the gradient of the loss in it, η the
learning rate, and tangent(A) = A − Z sym(ZᵀA).

*Retraction* (`RiemannianAdam`, the default): Adam along the manifold.

    R = tangent(G)
    m = β1 · tangent(m) + (1 − β1) R          v = β2 v + (1 − β2) mean(R²)
    D = m̂ / (√v̂ + ε)                          Z ← polar factor of (Z − η D)

with ‖ηD‖_F/√r at most `max_rotation`. The second moment is one number per factor (as in Bécigneul &
Ganea 2019, arXiv 1810.00760): dividing entry by entry would leave the tangent space and depend on
the choice of basis. The root mean square entry of a step is about η, as in Adam, so that learning
rates carry over.

*Landing* (`LandingAdam`): Adam on a field that attracts to the manifold, in place of G.

    Γ = (G Zᵀ − Z Gᵀ) Z + λ Z (ZᵀZ − I)     orthogonal parts, as published

Adam rescales Γ entry by entry and so leaves the manifold: with gradients dominated by noise of root
mean square entry g, ‖ZᵀZ − I‖_F settles near η n g √r / (2λ). Absorption every k steps removes that
drift without changing the function: with the polar decompositions X = Q_x P_x and Y = Q_y P_y,

    X Θ Yᵀ = Q_x (P_x Θ P_y) Q_yᵀ

Momenta of X and Y then lose the part that leaves the manifold; those of Θ stay, since P_x and P_y
are nearly I. k = 0 keeps the drift, as published.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.optim import AdamW, Optimizer

from bayeslora.adapters.base import Layers, LowRankAdapter
from bayeslora.adapters.low_rank import Factors, LowRank, check_rank
from bayeslora.adapters.optimizers import manifold_parameters
from bayeslora.adapters.site import Site
from bayeslora.option_checks import Count, CountOrZero, NotNegative, Positive, Texts


@dataclass(frozen=True)
class PoLAR(LowRankAdapter):
    """Two orthonormal factors around a free r × r core that starts at zero.

    The paper trains with `landing`; the default, `retraction`, is ours.
    """

    name: ClassVar[str] = "polar"
    summary: ClassVar[str] = (
        "orthonormal directions around a free core, designed to avoid rank collapse"
    )
    use: ClassVar[str] = (
        "The default. A few hundred to a few thousand labelled examples, with any last layer."
    )
    source: ClassVar[str] = "Lion, Zhang, Li & He 2025, arXiv 2506.03133"
    default_lr: ClassVar[float] = 1e-2
    r: Count = 8
    alpha: Positive = 32.0
    """The change is multiplied by `alpha / r`."""
    target_modules: Texts | None = None
    num_layers: Layers = "auto"
    lr: Positive | None = None
    """Learning rate of the factors and the core; None means {default_lr}."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of the core, which is equivalent to that of the change."""
    constraint: Literal["landing", "retraction"] = "retraction"
    """How the direction factors are kept orthonormal: `retraction` (Riemannian Adam, exactly
    orthonormal after every step) or `landing` (Adam with a field that attracts to the manifold)."""
    landing_lambda: NotNegative = 5e-3
    """Weight of the attraction under `landing`."""
    absorb_every: CountOrZero = 1
    """Steps between restorations of orthonormality under `landing`, which do not change the
    function; 0 means never."""
    max_rotation: Positive = 0.3
    """Largest rotation of a factor per step under `retraction`: root mean square angle of its
    columns, in radians."""

    @property
    def no_gate(self) -> str:
        """A gate is impossible if absorption moves drift of the factors past it into the core."""
        if self.constraint == "retraction" or not self.absorb_every:
            return ""
        return (
            "moving drift of the factors past a gate into the core (constraint 'landing') would "
            "change the network's outputs; choose constraint='retraction' or absorb_every=0"
        )

    def start(self, weight: Tensor, generator: Generator) -> Factors:
        """Return random orthonormal factors around a zero core."""
        out_features, in_features = weight.shape
        return random_factors(out_features, in_features, self.r, generator)

    def manifold_optimizer(self, sites: Sequence[Site]) -> Optimizer:
        """Return the optimiser for the constraint."""
        if self.constraint == "retraction":
            return RiemannianAdam(
                manifold_parameters(sites), lr=self.learning_rate, max_rotation=self.max_rotation
            )
        return LandingAdam(
            [site for site in sites if isinstance(site, LowRank)],
            lr=self.learning_rate,
            landing_lambda=self.landing_lambda,
            absorb_every=self.absorb_every,
        )


def random_factors(out_features: int, in_features: int, r: int, generator: Generator) -> Factors:
    """Return PoLAR's initial factors: random orthonormal factors around a zero core.

    The factors follow the uniform distribution on the Stiefel manifold
    (Lion, Zhang, Li & He 2025, arXiv:2506.03133).

    Args:
        out_features: Number of outputs of the adapted layer.
        in_features: Number of its inputs.
        r: Rank, at most min(out, in).
        generator: Source of randomness, on the CPU.

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    check_rank(out_features, in_features, r)
    X, Y = (
        nn.init.orthogonal_(torch.empty(size, r, dtype=torch.float64), generator=generator).float()
        for size in (out_features, in_features)
    )
    return Factors(Y.mT.contiguous(), X, torch.zeros(r, r), orthonormal=True)


def tall(matrix: Tensor) -> Tensor:
    """Return `matrix` or its transpose, whichever has at least as many rows as columns.

    For a square orthogonal matrix both describe the same tangent space and the same retraction,
    so the choice does not matter.
    """
    return matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT


_CONDITION_LIMIT = 1e-6
"""Smallest eigenvalue ratio of ZᵀZ for which its inverse square root is accurate."""


def polar_decomposition(Z: Tensor) -> tuple[Tensor, Tensor]:
    """Return `(Q [..., n, r], P [..., r, r])` with `Z = Q P`, `QᵀQ = I` and P symmetric, P ≥ 0.

    Q is the orthonormal matrix nearest to Z. It comes from the eigenvectors of ZᵀZ, or from a
    thin singular value decomposition if a Z is nearly rank deficient; both in float64, so that
    rounding the result to Z's precision is the only error.
    """
    wide = Z.double()
    values, V = torch.linalg.eigh(wide.mT @ wide)
    smallest, largest = values[..., :1], values[..., -1:]
    if bool(((smallest < _CONDITION_LIMIT * largest) | (largest <= 0)).any()):
        U, S, Vh = torch.linalg.svd(wide, full_matrices=False)
        Q, P = U @ Vh, (Vh.mT * S[..., None, :]) @ Vh
    else:
        roots = values.sqrt()[..., None, :]
        Q, P = wide @ ((V / roots) @ V.mT), (V * roots) @ V.mT
    return Q.to(Z.dtype), P.to(Z.dtype)


def tangent(Z: Tensor, G: Tensor) -> Tensor:
    """Return the projection `G − Z sym(ZᵀG)` of G onto the tangent space at Z, [..., n, r].

    The metric is the Euclidean one (Edelman, Arias & Smith 1998, arXiv:physics/9806030).
    """
    K = Z.mT @ G
    return G - Z @ ((K + K.mT) / 2)


def landing_field(Z: Tensor, G: Tensor, landing_lambda: float) -> Tensor:
    """Return `(GZᵀ − ZGᵀ) Z + λ Z (ZᵀZ − I)`, [n, r], without forming an n × n matrix.

    The first part preserves ZᵀZ on and off the manifold; the second, orthogonal to it, attracts to
    the manifold (Ablin & Peyré 2022, arXiv:2102.07432; the scale is that of Lion,
    Zhang, Li & He 2025, arXiv:2506.03133, in their code).
    """
    gram = Z.mT @ Z
    return G @ gram - Z @ (G.mT @ Z) + landing_lambda * attraction(Z)


def attraction(Z: Tensor) -> Tensor:
    """Return `Z (ZᵀZ − I)`, [n, r], a quarter of the gradient of ‖ZᵀZ − I‖²_F."""
    return Z @ (Z.mT @ Z) - Z


@torch.no_grad()
def absorb(sites: Sequence[LowRank]) -> None:
    """Orthonormalise the factors of PoLAR sites in place without changing their function.

    With `X = Q_x P_x` and `Y = Q_y P_y`, `X Θ Yᵀ = Q_x (P_x Θ P_y) Q_yᵀ`: the cores absorb P_x and
    P_y.
    """
    for site in sites:
        if site.core is None:
            continue
        Qx, Px = polar_decomposition(site.B.weight)
        Qy, Py = polar_decomposition(site.A.weight.mT)
        site.core.weight.copy_(Px @ site.core.weight @ Py)
        site.B.weight.copy_(Qx)
        site.A.weight.copy_(Qy.mT)


class RiemannianAdam(Optimizer):
    """Adam on the Stiefel manifold; factors stay orthonormal up to rounding.

    Factors are matrices [n, r] or their transposes; the longer side is n. There is no weight
    decay, since orthonormal columns keep their length. The state of a parameter holds `step`,
    `exp_avg` (m) and `exp_avg_sq` (v, one number).

    Args:
        params: Orthonormal matrices in float32 or float64.
        lr: Learning rate η.
        max_rotation: Longest step ‖ηD‖_F/√r, in radians.
        betas: Decay rates β1 and β2 of the two moments.
        eps: Added to the root of the second moment.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        max_rotation: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "max_rotation": max_rotation}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every factor that has a gradient; no closure is called."""
        for group in self.param_groups:
            by_shape: dict[tuple[Any, ...], list[nn.Parameter]] = {}
            for factor in group["params"]:
                if factor.grad is not None:
                    key = (tall(factor).shape, factor.dtype, factor.device)
                    by_shape.setdefault(key, []).append(factor)
            for factors in by_shape.values():
                _step(factors, [self.state[factor] for factor in factors], group)


def adam_direction(
    Z: Tensor, G: Tensor, states: list[dict[str, Any]], group: dict[str, Any]
) -> Tensor:
    """Advance the moments in `states`, and return D [K, n, r], tangent at Z, which steps subtract.

    Args:
        Z: [K, n, r] with orthonormal columns.
        G: [K, n, r], the Euclidean gradients.
        states: Each factor's moments, empty before its first step.
        group: `betas` and `eps`.
    """
    for state, factor in zip(states, Z, strict=True):
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(factor)
            state["exp_avg_sq"] = torch.zeros((), dtype=Z.dtype, device=Z.device)
        state["step"] += 1
    beta1, beta2 = group["betas"]
    m, v = (torch.stack([state[name] for state in states]) for name in ("exp_avg", "exp_avg_sq"))
    R = tangent(Z, G)
    m = beta1 * tangent(Z, m) + (1 - beta1) * R
    v = beta2 * v + (1 - beta2) * R.square().mean((-2, -1))
    for state, first, second in zip(states, m, v, strict=True):
        state["exp_avg"], state["exp_avg_sq"] = first, second
    # Factors that rested have made fewer steps. Filled on the device: a copy from the CPU would
    # synchronise.
    bias1, bias2 = (
        torch.stack([Z.new_full((), 1 - beta ** state["step"]) for state in states])
        for beta in (beta1, beta2)
    )
    root = (v / bias2).sqrt() + group["eps"]
    D: Tensor = m / bias1[:, None, None] / root[:, None, None]
    return D


def _step(factors: list[nn.Parameter], states: list[dict[str, Any]], group: dict[str, Any]) -> None:
    """Update factors of one shape in place; see the module's docstring.

    The factors are batched because kernel launches dominate the time.
    """
    Z = torch.stack([tall(factor) for factor in factors])
    G = torch.stack([tall(factor.grad) for factor in factors if factor.grad is not None])
    D = adam_direction(Z, G, states, group)
    rotations = group["lr"] * torch.linalg.matrix_norm(D) / Z.shape[-1] ** 0.5
    shrink = (group["max_rotation"] / rotations).clamp(max=1.0)
    moved, _ = polar_decomposition(Z - group["lr"] * shrink[:, None, None] * D)
    for factor, new in zip(factors, moved, strict=True):
        tall(factor).copy_(new)


class LandingAdam(AdamW):
    """Adam on the factors of PoLAR sites, with a soft orthonormality constraint.

    Args:
        sites: The adapters; absorption also changes their cores.
        lr: Learning rate.
        landing_lambda: Weight λ of the attraction.
        absorb_every: Steps between absorptions; 0 for never.
    """

    def __init__(
        self, sites: Sequence[LowRank], lr: float, landing_lambda: float, absorb_every: int
    ) -> None:
        self._sites = list(sites)
        group = {
            "params": manifold_parameters(sites),
            "landing_lambda": landing_lambda,
            "absorb_every": absorb_every,
            "num_steps": 0,
        }
        super().__init__([group], lr=lr, weight_decay=0.0)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Replace each gradient by its field, step, and absorb if due; no closure is called."""
        (group,) = self.param_groups
        for factor in group["params"]:
            if factor.grad is not None:
                G = tall(factor.grad)
                # In place: G is a view of the factor's gradient.
                G.copy_(landing_field(tall(factor), G, group["landing_lambda"]))
        super().step()
        group["num_steps"] += 1
        if group["absorb_every"] and group["num_steps"] % group["absorb_every"] == 0:
            absorb(self._sites)
            for factor in group["params"]:
                if "exp_avg" in self.state.get(factor, {}):
                    # Without the part of the momentum that leaves the manifold.
                    momentum = tall(self.state[factor]["exp_avg"])
                    momentum.copy_(tangent(tall(factor), momentum))
