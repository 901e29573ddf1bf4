"""The optimiser for layers of the backbone that train whole."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW

from bayeslora.adapters.config_lisa import LISA
from bayeslora.adapters.full_layers import ALWAYS, FullLayers
from bayeslora.optim.alternating import AlternatingOptimizer


def build_full_optimizer(
    full: FullLayers, head_parameters: Iterable[nn.Parameter], config: LISA, head_lr: float
) -> AlternatingOptimizer:
    """Return AdamW on everything that may train, and on a head.

    All layers are in it from the start, in up to four groups: a scheduler knows no others later,
    and a layer that is added after it rested would never move. Matrices decay, biases and
    normalisations do not.

    Args:
        full: The layers and what trains with them, by group.
        head_parameters: Parameters that `head_step()` moves, without weight decay; may be empty.
        config: Learning rate and weight decay.
        head_lr: Learning rate of the head.
    """
    layers = [
        item for group, items in full.groups.items() if group != ALWAYS for item in items.values()
    ]
    others = [*full.groups.get(ALWAYS, {}).values()]
    groups = [
        {"params": chosen, "name": name, "weight_decay": decay}
        for name, items in (("adapter", layers), ("outside", others))
        for decay, matrices in ((config.weight_decay, True), (0.0, False))
        if (chosen := [item for item in items if (item.ndim > 1) == matrices])
    ]
    head = {"params": list(head_parameters), "name": "head"}
    return AlternatingOptimizer(
        [AdamW(groups, lr=config.learning_rate())],
        [AdamW([head], lr=head_lr, weight_decay=0.0)] if head["params"] else [],
    )
