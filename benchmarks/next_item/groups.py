"""Positive control: groups that each need their own low-rank change.

Rows of four groups are mapped by W plus a change of rank 2 per group, and z is the centre of the
group in R⁸ plus noise. A LoRA of rank 8 has one change for all groups; a gate over four experts of
rank 2 can learn one per group, if z separates the groups. A failure of the gate here is our error.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bayeslora.adapters.inject import inject
from bayeslora.adapters.lora import LoRA
from bayeslora.contrib.ilora import ILoRA

WIDTH, GROUPS, RANK, CONTEXT = 16, 4, 2, 8
ROWS, STEPS, LR, NOISE = 2000, 1500, 5e-3, 0.3


def test_error(arm: str, seed: int) -> float:
    """Return the mean squared error of `lora`, `ilora` or `ilora-permuted` on fresh rows."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    host = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False))
    with torch.no_grad():
        host[0].weight.copy_(normal(WIDTH, WIDTH) / WIDTH**0.5)
    changes = normal(GROUPS, WIDTH, RANK) @ normal(GROUPS, RANK, WIDTH) / WIDTH
    centres = normal(GROUPS, CONTEXT)
    frozen = host[0].weight.detach().clone()

    def rows() -> tuple[Tensor, Tensor, Tensor]:
        groups = torch.randint(GROUPS, (ROWS,), generator=generator)
        x = normal(ROWS, WIDTH)
        y = x @ frozen.T + torch.einsum("noi,ni->no", changes[groups], x)
        return x, y, centres[groups] + NOISE * normal(ROWS, CONTEXT)

    x, y, z = rows()
    fresh = rows()
    if arm == "ilora-permuted":
        z = z[torch.randperm(ROWS, generator=generator)]
    config = (LoRA if arm == "lora" else ILoRA)(r=GROUPS * RANK, target_modules="0")
    sites = inject(host, config, seed)
    gate = config.conditioning(sites, CONTEXT)
    parameters = [item for site in sites for item in site.trainable().values()]
    parameters += [] if gate is None else list(gate.parameters())
    optimizer = torch.optim.Adam(parameters, lr=LR)

    def loss(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        if gate is None:
            return (host(x) - y).square().mean()
        with gate.applied(z):
            return (host(x) - y).square().mean()

    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.autograd.backward(loss(x, y, z))
        optimizer.step()
    with torch.no_grad():
        return float(loss(*fresh))
