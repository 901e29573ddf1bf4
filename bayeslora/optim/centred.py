"""AdamW whose weight decay pulls factors towards where they started.

    θ ← θ_0 + (1 − lr·λ) (θ − θ_0), then AdamW's step without decay

Plain decay pulls towards zero. Where an adapter starts from a part of the pretrained weight, zero
is not the pretrained model; θ_0 is (Li, Grandvalet and Davoine 2018, arXiv 1802.01483).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.optim import AdamW

from bayeslora.adapters.site import Site


class CentredAdamW(AdamW):
    """AdamW on the free factors of sites, with decoupled decay towards `origin()`.

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
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Decay, then step."""
        (group,) = self.param_groups
        rate = group["lr"] * group["decay_to_start"]
        if rate:
            for site, key in self._free:
                # As AdamW, which leaves alone what has no gradient.
                if site.trainable()[key].grad is not None:
                    site.trainable()[key].lerp_(site.origin()[key], rate)
        loss: float | None = super().step(closure)
        return loss
