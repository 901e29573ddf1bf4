"""From texts to the input of a finished sequence classifier's final linear layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.final_encoder import FinalLayerEncoder
from bayeslora.backbones.final_layer import check_one_vector, received, with_constant
from bayeslora.backbones.load import Backbone
from bayeslora.backbones.tokens import Batch, model_inputs, tokenise, usable_length

Padding = Literal["right", "left", "none"]


@dataclass(frozen=True)
class SequenceClassifier:
    """A loaded sequence classifier.

    Attributes:
        backbone: The whole classifier with its tokenizer and kind.
        classes: Names of the classes in index order.
        layer: Dotted name of the final linear layer.
        padding: Padding side that does not change a text's logits.
    """

    backbone: Backbone
    classes: tuple[str, ...]
    layer: str
    padding: Padding = "right"


class SequenceEncoder(FinalLayerEncoder):
    """From texts to the input of a sequence classifier's final linear layer."""

    def __init__(self, classifier: SequenceClassifier, *, max_length: int) -> None:
        """Wrap a classifier without changing it; texts are cut to `max_length` tokens."""
        length = usable_length(classifier.backbone, max_length)
        super().__init__(classifier.backbone, classifier.layer, max_length=length)
        self._padding = classifier.padding
        self.one_by_one = classifier.padding == "none"
        self._takes = named_inputs(self.model)

    def prepare(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        choices: Sequence[Sequence[str]] | None = None,
        available: NDArray[np.bool_] | None = None,
        advance: Callable[[int], object] = lambda _: None,
        keep: bool = False,
    ) -> PreparedTexts:
        """Tokenise texts like the classifier's owner, without running the model."""
        tokens = tokenise(
            self.backbone, texts, pairs, max_length=self.max_length, as_its_owner=True
        )
        advance(len(tokens))
        return PreparedTexts(replace(tokens, pads_left=self._padding == "left"), None)

    def forward(self, batch: Batch) -> Tensor:
        """Return the final layer's input [B, d] float32, a 1 appended where it has a bias."""
        return self.run(batch)[0]

    def run(self, batch: Batch) -> tuple[Tensor, Any]:
        """Return the features of a batch and the logits [B, C] of the classifier.

        Raises:
            InputError: The final layer does not have one input per row.
        """
        device = self.backbone.device
        inputs = model_inputs(batch, device)
        inputs = {name: item for name, item in inputs.items() if name in self._takes}
        states, output = received(self._final, self.layer, lambda: self._call(inputs))
        if states.ndim == 3:
            # Decoders classify every position and use the last real one.
            states = states[torch.arange(len(states), device=device), self._last(batch).to(device)]
        check_one_vector(states, self.layer)
        return with_constant(states, self._final), getattr(output, "logits", output)

    def _call(self, inputs: Batch) -> Any:
        if self._skipped_id is not None:
            return self.model(**inputs)
        # Decoders without a padding token refuse batches; -1 is no token.
        self._config.pad_token_id = -1
        try:
            return self.model(**inputs)
        finally:
            self._config.pad_token_id = None

    @property
    def _config(self) -> Any:
        config: Any = self.model.config
        return config.get_text_config()

    @property
    def _skipped_id(self) -> int | None:
        """The token that a decoder skips in its search for the last token."""
        token_id: int | None = getattr(self._config, "pad_token_id", None)
        return token_id

    def _last(self, batch: Batch) -> Tensor:
        """Return the index [B] of each row's last token that is neither padding nor skipped."""
        real = batch["attention_mask"]
        if self._skipped_id is not None:
            # transformers searches for the token and ignores the mask: if the padding token also
            # ends texts, it uses the position before the end.
            real = real * (batch["input_ids"] != self._skipped_id)
        return (real * torch.arange(real.shape[1])).argmax(1)


def named_inputs(model: Any) -> set[str]:
    """Return the named arguments of a model's `forward`; it may misinterpret others."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {"input_ids", *inspect.signature(inner.forward).parameters}
