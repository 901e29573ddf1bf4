"""LISA: whole layers of the backbone train, a few at a time.

Source: Pan et al. 2024, arXiv 2403.17919.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from torch import nn
from torch.optim import Optimizer

from bayeslora.adapters.base import Adapted, Adapter, LayerSampling
from bayeslora.adapters.layer_sampling import FullLayers
from bayeslora.layer_list import find_layers
from bayeslora.option_checks import Count, NotNegative, Positive


@dataclass(frozen=True)
class LISA(LayerSampling, Adapter):
    """Layer sampling over the backbone's own layers: a few whole layers train at a time.

        every K steps:  draw γ of the last N layers
        every step:     θ_l ← AdamW(θ_l) for the drawn layers l ;   the others rest

    K is `interval`, γ is `num_active`, and N is `num_layers`.
    """

    name: ClassVar[str] = "lisa"
    has_sites: ClassVar[bool] = False
    summary: ClassVar[str] = "whole layers of the backbone train, a few at a time"
    use: ClassVar[str] = "Full-rank training of whole layers, with the memory of a few of them."
    source: ClassVar[str] = "Pan et al. 2024, arXiv 2403.17919"
    parameters: ClassVar[str] = "all layers that are drawn"
    default_lr: ClassVar[float] = 3e-4

    num_layers: Count | None = 6
    """Number of last transformer layers to draw from; None means all. The layers below run once per
    text."""
    train_embedding: bool = False
    """Whether the embedding trains at every step, as published. It has most parameters of a small
    model, and no layer's outputs can be cached while it trains."""
    lr: Positive | None = None
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of matrices towards zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_layers is not None:
            # `weights` are checked later: a backbone may have fewer than `num_layers` layers.
            self._check_active(self.num_layers)

    @property
    def layer_sampling(self) -> LayerSampling:
        """These options themselves."""
        return self

    def first_layer(
        self, model: nn.Module, names: Sequence[str], *, is_cut: bool
    ) -> tuple[str, int]:
        """Return the list of layers and the lowest trainable one; 0 if the embedding trains."""
        path, layers = find_layers(model)
        return path, 0 if self.train_embedding else self._lowest(len(layers))

    def full_layers(self, model: nn.Module, after: Callable[[], Collection[str]]) -> FullLayers:
        """Return the upper layers, with copies of their parameters.

        Raises:
            InputError: The layers cannot be identified, or are fewer than `num_active`.
        """
        _, layers = find_layers(model)
        start = self._lowest(len(layers))
        self.check_layers(len(layers) - start)
        return FullLayers(model, after(), start=start, train_embedding=self.train_embedding)

    def _lowest(self, num_layers: int) -> int:
        """Return the index of the lowest trainable layer."""
        return 0 if self.num_layers is None else max(0, num_layers - self.num_layers)

    def further_optimizers(self, network: Adapted) -> Sequence[Optimizer]:
        """Return AdamW on all trainable parameters."""
        full = cast("FullLayers", network.full)
        return [full.optimizer(self.learning_rate, self.weight_decay)]
