"""AdamW for orthonormal factors, with steps along the manifold.

    R = tangent part of the gradient at Z
    m = β1 · (tangent part of m) + (1 − β1) R          v = β2 v + (1 − β2) mean(R²)
    D = m̂ / (√v̂ + ε), shortened to `max_rotation`       Z ← polar factor of (Z − η D)

The second moment is one number per factor (as in Bécigneul & Ganea 2019, arXiv:1810.00760):
dividing entry by entry would leave the tangent space and depend on the choice of basis. The root
mean square entry of a step is about η, as in Adam, so that learning rates carry over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bayeslora.adapters.optimizers import closure_loss
from bayeslora.adapters.polar.stiefel import polar_retraction, tall, tangent
from bayeslora.errors import InputError


class RiemannianAdamW(Optimizer):
    """Adam on the Stiefel manifold; factors stay orthonormal up to rounding.

    Factors are matrices [n, r] or their transposes; the longer side is n. There is no weight
    decay, since orthonormal columns keep their length. The state of a parameter holds `step`,
    `exp_avg` (m), `exp_avg_sq` (v, one number) and `rotation`, its last step's root mean square
    angle in radians before the cap.

    Args:
        params: Orthonormal matrices in float32 or float64.
        lr: Learning rate η.
        betas: Decay rates β1 and β2 of the two moments.
        eps: Added to the root of the second moment.
        max_rotation: Longest step ‖ηD‖_F/√r, in radians.

    Raises:
        InputError: A parameter is no matrix or not in float32 or float64.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 4e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        max_rotation: float = 0.3,
    ) -> None:
        factors = list(params)
        for factor in factors:
            if factor.ndim != 2 or factor.dtype not in {torch.float32, torch.float64}:
                raise InputError(
                    "orthonormal factors must be matrices in float32 or float64, got "
                    f"{list(factor.shape)} in {factor.dtype}"
                )
        defaults = {"lr": lr, "betas": betas, "eps": eps, "max_rotation": max_rotation}
        super().__init__(factors, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every factor that has a gradient; return the closure's loss if there is one."""
        loss = closure_loss(closure)
        for group in self.param_groups:
            by_shape: dict[tuple[Any, ...], list[nn.Parameter]] = {}
            for factor in group["params"]:
                if factor.grad is not None:
                    key = (tall(factor).shape, factor.dtype, factor.device)
                    by_shape.setdefault(key, []).append(factor)
            for factors in by_shape.values():
                _step(factors, [self.state[factor] for factor in factors], group)
        return loss


def _step(factors: list[nn.Parameter], states: list[dict[str, Any]], group: dict[str, Any]) -> None:
    """Update factors of one shape in place; see the module's docstring.

    The factors are batched because kernel launches dominate the time.
    """
    Z = torch.stack([tall(factor) for factor in factors])
    G = torch.stack([tall(factor.grad) for factor in factors if factor.grad is not None])
    D = directions(Z, G, states, group)
    rotations = group["lr"] * torch.linalg.matrix_norm(D) / Z.shape[-1] ** 0.5
    shrink = (group["max_rotation"] / rotations).clamp(max=1.0)
    moved = polar_retraction(Z - group["lr"] * shrink[:, None, None] * D)
    for factor, state, rotation, new in zip(factors, states, rotations, moved, strict=True):
        state["rotation"] = rotation
        tall(factor).copy_(new)


def directions(Z: Tensor, G: Tensor, states: list[dict[str, Any]], group: dict[str, Any]) -> Tensor:
    """Return the descent steps D [K, n, r], tangent at Z, and advance the moments in `states`.

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
    first, second = (
        torch.stack([state[name] for state in states]) for name in ("exp_avg", "exp_avg_sq")
    )
    R = tangent(Z, G)
    first = beta1 * tangent(Z, first) + (1 - beta1) * R
    second = beta2 * second + (1 - beta2) * R.square().mean((-2, -1))
    for state, mean, square in zip(states, first, second, strict=True):
        state["exp_avg"], state["exp_avg_sq"] = mean, square
    # Factors that rested have made fewer steps. Filled on the device: a copy from the CPU would
    # synchronise.
    first_bias, second_bias = (
        torch.stack([Z.new_full((), 1 - beta ** state["step"]) for state in states])
        for beta in (beta1, beta2)
    )
    root = (second / second_bias).sqrt() + group["eps"]
    D: Tensor = first / first_bias[:, None, None] / root[:, None, None]
    return D
