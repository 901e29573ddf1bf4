"""Riemannian AdamW: steps by the formula, orthonormality, descent, resume."""

import pytest
import torch
from torch import nn

from bayeslora.adapters.polar import RiemannianAdam


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def orthonormal(n, r, dtype=torch.float64):
    return torch.linalg.qr(random(n, r)).Q.to(dtype).contiguous()


@pytest.mark.parametrize("limit", [10.0, 0.05])
def test_steps_follow_the_formula(limit):
    """Check three steps against the formula with a full projection."""
    factor = nn.Parameter(orthonormal(5, 2))
    optimizer = RiemannianAdam([factor], lr=0.1, betas=(0.8, 0.9), eps=1e-3, max_rotation=limit)
    Z, m, v = factor.detach().clone(), torch.zeros(5, 2).double(), 0.0
    for t in (1, 2, 3):
        G = random(5, 2, seed=t)
        factor.grad = G.clone()
        optimizer.step()
        R = G - Z @ (Z.T @ G + G.T @ Z) / 2
        m = m - Z @ (Z.T @ m + m.T @ Z) / 2
        m = 0.8 * m + 0.2 * R
        v = 0.9 * v + 0.1 * float((R**2).mean())
        D = (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)) ** 0.5 + 1e-3)
        length = float(torch.linalg.norm(0.1 * D)) / 2**0.5
        U, _, Vh = torch.linalg.svd(Z - min(1, limit / length) * 0.1 * D, full_matrices=False)
        Z = U @ Vh
        torch.testing.assert_close(factor.detach(), Z, atol=1e-12, rtol=0)


def test_factors_of_one_shape_move_as_each_would_alone():
    """Also if a factor skipped steps, has made fewer steps, or is transposed."""
    together, alone = ([nn.Parameter(orthonormal(9, 3)) for _ in range(3)] for _ in range(2))
    for factors in (together, alone):
        factors[2] = nn.Parameter(factors[2].detach().mT.contiguous())
    optimizers = [
        RiemannianAdam(together, 4e-3, 0.3),
        *(RiemannianAdam([factor], 4e-3, 0.3) for factor in alone),
    ]
    for step in range(6):
        for factors in (together, alone):
            for place, factor in enumerate(factors):
                grad = random(*factor.shape, seed=10 * step + place)
                factor.grad = None if place == 1 and step in {0, 3} else grad
        for optimizer in optimizers:
            optimizer.step()
    for factor, other in zip(together, alone, strict=True):
        torch.testing.assert_close(factor.detach(), other.detach(), atol=1e-12, rtol=0)
    assert [optimizers[0].state[factor]["step"] for factor in together] == [6, 4, 6]
