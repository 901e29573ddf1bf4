"""A small problem in which an adapter and a head take turns."""

import torch
from torch import nn

from bayeslora.adapters.inject import adapter_state, inject
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.optimizers import build_optimizer
from bayeslora.adapters.polar import PoLAR

CONFIGS = {
    "lora": LoRA(r=2, weight_decay=0.1),
    "polar": PoLAR(r=3, weight_decay=0.1),
    "landing": PoLAR(r=3, constraint="landing", absorb_every=2),
    "penalty": PoLAR(r=3, constraint="euclidean-penalty", absorb_every=3),
}


class Problem:
    """A small regression with an adapted layer below a trained head."""

    def __init__(self, config, head_lr=0.02):
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
        self.head = nn.Linear(5, 2)
        targets = type(config)(**{**vars(config), "target_modules": ("0",)})
        self.sites = inject(self.body, targets, seed=0)
        self.optimizer = build_optimizer(self.sites, self.head.parameters(), targets, head_lr)

    def loss(self, step=0):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 6, generator=generator)
        return (self.head(self.body(x)) - x[:, :2].sin()).square().mean()

    def turn(self, step):
        """Run a step of the head and then of the adapter, each on fresh gradients."""
        for move in (self.optimizer.head_step, self.optimizer.step):
            self.optimizer.zero_grad()
            self.loss(step).backward()
            move()

    def tensors(self):
        return adapter_state(self.sites) | {
            name: value.detach().clone() for name, value in self.head.named_parameters()
        }


def changed(before, after):
    """Return the names of the tensors that differ in any bit."""
    return {name for name in before if not torch.equal(before[name], after[name])}
