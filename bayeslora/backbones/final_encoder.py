"""Base class of feature extractors from a classifier's final linear layer."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from bayeslora.backbones.encoder import FeatureExtractor
from bayeslora.backbones.final_layer import layer_weight
from bayeslora.backbones.load import Backbone


class FinalLayerEncoder(FeatureExtractor):
    """From texts to the input of the final linear layer of a classifier, which is not changed.

    Attributes:
        backbone: The whole classifier.
        layer: Dotted name of the final layer.
        max_length: Maximal number of tokens per text; 1 if texts are not tokenised here.
    """

    def __init__(self, backbone: Backbone, layer: str, *, max_length: int) -> None:
        """Find the layer."""
        super().__init__()
        self.backbone = backbone
        self.model = backbone.model
        self.max_length = max_length
        self.layer = layer
        self._final = self.model.get_submodule(layer)

    @property
    def num_features(self) -> int:
        """d, including the constant column if the final layer has a bias."""
        return self.weight.shape[1]

    @cached_property
    def weight(self) -> Tensor:
        """[C, d] float32: the final layer's weight, with its bias, if any, as the last column."""
        return layer_weight(self._final)
