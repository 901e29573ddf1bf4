"""The optimiser of an adapted network, with alternating steps of adapter and head.

`step()` updates the adapter, `head_step()` the head; schedulers, checkpoints and `zero_grad()` see
both. Each kind of parameter has its own inner optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.site import Site

Euclidean = Callable[[list[nn.Parameter]], Optimizer]
"""From parameters to their optimiser, with one group."""


class AlternatingOptimizer(Optimizer):
    """Several optimisers behind the interface of one.

    `param_groups` holds the same dictionaries as the inner optimisers, and all of them share one
    `state`; schedulers, gradient scalers and the base class's `state_dict` therefore work
    unchanged. The saved state consists of tensors, numbers, lists and dictionaries only.

    Args:
        adapter: Optimisers that `step()` runs, in this order.
        head: Optimisers that `head_step()` runs.
    """

    def __init__(self, adapter: Sequence[Optimizer], head: Sequence[Optimizer] = ()) -> None:
        self._adapter = list(adapter)
        self._head = list(head)
        groups = [group for inner in self._inner() for group in inner.param_groups]
        super().__init__(groups, defaults={})
        self._share()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the adapter's parameters; no closure is called."""
        for inner in self._adapter:
            inner.step()

    def head_step(self) -> None:
        """Update the head's parameters."""
        for inner in self._head:
            inner.step()

    def adapter_gradients(self) -> list[torch.Tensor]:
        """Return the gradients of all trained parameters except the head's, which are complete.

        The gradient is zero for layers that no row of this process has used, as with experts.
        """
        gradients = []
        for inner in self._adapter:
            for parameter in (item for group in inner.param_groups for item in group["params"]):
                if parameter.requires_grad:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    gradients.append(parameter.grad)
        return gradients

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a `state_dict()` into the existing group dictionaries."""
        groups = self.param_groups
        super().load_state_dict(state_dict)
        for group, loaded in zip(groups, self.param_groups, strict=True):
            group.clear()
            group.update(loaded)
        self.param_groups = groups
        self._share()

    def _inner(self) -> list[Optimizer]:
        return [*self._adapter, *self._head]

    def _share(self) -> None:
        """Make every inner optimiser use the state that is saved."""
        for inner in self._inner():
            inner.state = self.state


def build_optimizer(
    sites: Sequence[Site],
    head_parameters: Iterable[nn.Parameter],
    config: Adapter,
    head_lr: float,
    *,
    more: Iterable[nn.Parameter] = (),
    euclidean: Euclidean | None = None,
    beside: Sequence[Optimizer] = (),
) -> AlternatingOptimizer:
    """Return the optimiser for an adapter's sites and a head.

    The adapter's groups come first, so the first learning rate is the adapter's. Each group's
    `name` is `adapter`, `posterior`, `factors` or `head`.

    Args:
        sites: The adapters; may be empty.
        head_parameters: Parameters that `head_step()` updates, without weight decay; may be empty.
        config: Learning rate, weight decay and constraint of the adapter.
        head_lr: Learning rate of the head.
        more: Parameters that `step()` updates with the adapter, without weight decay.
        euclidean: Returns the optimiser of the adapter's unconstrained parameters; None takes
            AdamW.
        beside: Further optimisers that `step()` runs.

    Raises:
        InputError: Nothing is trainable, or the sites are not those of `config`.
    """
    adapter: list[Optimizer] = []
    free, factors = euclidean_parameters(sites), manifold_parameters(sites)
    if free and euclidean is not None:
        adapter.append(_named("adapter", euclidean(free)))
    elif free and any(site.centred for site in sites):
        inner = CentredAdamW(sites, lr=config.learning_rate, weight_decay=config.weight_decay)
        adapter.append(_named("adapter", inner))
    elif free:
        group = {"params": free, "name": "adapter"}
        adapter.append(AdamW([group], lr=config.learning_rate, weight_decay=config.weight_decay))
    if extra := list(more):
        group = {"params": extra, "name": "posterior"}
        adapter.append(AdamW([group], lr=config.learning_rate, weight_decay=0.0))
    adapter += beside
    # After the cores, so that absorption is the last operation of a step.
    if factors:
        adapter.append(_named("factors", config.manifold_optimizer(sites)))
    head_group = {"params": list(head_parameters), "name": "head"}
    head = [AdamW([head_group], lr=head_lr, weight_decay=0.0)] if head_group["params"] else []
    return AlternatingOptimizer(adapter, head)


class CentredAdamW(AdamW):
    """AdamW on the free factors of sites, with decoupled decay towards their initial values.

        θ ← θ_0 + (1 − lr·λ) (θ − θ_0), then AdamW's step without decay

    Plain decay pulls towards zero. If an adapter starts from a part of the pretrained weight, the
    pretrained model is at θ_0 and not at zero (Li, Grandvalet and Davoine 2018, arXiv 1802.01483).

    Args:
        sites: The adapters.
        lr: Learning rate.
        weight_decay: λ.
    """

    def __init__(self, sites: Sequence[Site], lr: float, weight_decay: float) -> None:
        self._free = [
            (site, key) for site in sites for key in site.trainable() if key not in site.manifold()
        ]
        group = {
            "params": [site.trainable()[key] for site, key in self._free],
            "decay_to_start": weight_decay,
        }
        super().__init__([group], lr=lr, weight_decay=0.0)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Decay, then step; no closure is called."""
        (group,) = self.param_groups
        rate = group["lr"] * group["decay_to_start"]
        if rate:
            for site, key in self._free:
                # As AdamW, which skips parameters without a gradient.
                if site.trainable()[key].grad is not None:
                    site.trainable()[key].lerp_(site.origin()[key], rate)
        super().step()


def manifold_parameters(sites: Sequence[Site]) -> list[nn.Parameter]:
    """Return the parameters on a manifold, site by site."""
    return [site.trainable()[key] for site in sites for key in site.manifold()]


def euclidean_parameters(sites: Sequence[Site]) -> list[nn.Parameter]:
    """Return the unconstrained parameters, site by site."""
    return [
        value
        for site in sites
        for key, value in site.trainable().items()
        if key not in site.manifold()
    ]


def _named(name: str, inner: Optimizer) -> Optimizer:
    """Set the name of an optimiser's only group and return the optimiser."""
    inner.param_groups[0]["name"] = name
    return inner
