"""Any torch module that turns a batch into logits by a final linear layer, as a source of features.

The module, and the function from texts to its batches, stay the user's: they are in memory, and
neither can be written to a model directory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bayeslora.backbones.classifier_source import checked_names
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.final_encoder import FinalLayerEncoder
from bayeslora.backbones.final_layer import (
    check_layer,
    check_logits,
    check_one_vector,
    received,
    with_constant,
)
from bayeslora.backbones.load import Backbone, check_finite, fingerprint, pick_device
from bayeslora.backbones.tokens import Tokens
from bayeslora.errors import InputError

Encode = Callable[..., Any]


@dataclass(frozen=True)
class ModuleClassifier:
    """A module that classifies, and what is known of it.

    Attributes:
        backbone: The module; it has no tokenizer.
        encode: From texts, or texts and second texts, to what the module is called with.
        classes: Names of the classes in index order.
        layer: Dotted name of the final linear layer.
    """

    backbone: Backbone
    encode: Encode
    classes: tuple[str, ...]
    layer: str


@dataclass(frozen=True)
class ModuleBatch:
    """What a module is called with, and how many rows that is."""

    rows: int
    content: Any


@dataclass(frozen=True)
class EncodedTexts(PreparedTexts):
    """Texts that are encoded batch by batch; `tokens` counts their characters."""

    texts: Sequence[str]
    pairs: Sequence[str] | None
    encode: Encode

    def collate(self, rows: Sequence[int]) -> Any:
        """Return the `ModuleBatch` of `rows`."""
        texts = [self.texts[row] for row in rows]
        if self.pairs is None:
            return ModuleBatch(len(rows), self.encode(texts))
        return ModuleBatch(len(rows), self.encode(texts, [self.pairs[row] for row in rows]))


class ModuleEncoder(FinalLayerEncoder):
    """From texts to the input of a module's final linear layer."""

    def __init__(self, classifier: ModuleClassifier) -> None:
        """Wrap a module, which stays as it is."""
        super().__init__(classifier.backbone, classifier.layer, max_length=1)
        self._encode = classifier.encode

    def prepare(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        choices: Sequence[Sequence[str]] | None = None,
        available: NDArray[np.bool_] | None = None,
        advance: Callable[[int], object] = lambda _: None,
        keep: bool = False,
    ) -> EncodedTexts:
        """Keep the texts; they are encoded when their batch is run."""
        # The same zero again and again: only the lengths are looked at.
        ids = tuple(np.broadcast_to(np.int64(0), (len(text),)) for text in texts)
        advance(len(texts))
        return EncodedTexts(Tokens(ids, 0, 0), None, texts, pairs, self._encode)

    def forward(self, batch: Any) -> Tensor:
        """Return the final layer's input [B, d] float32, a 1 appended where it has a bias.

        Raises:
            InputError: The layer does not have one input a row, or the module's logits are not its
                output.
        """
        content = _moved(batch.content, self.backbone.device)
        states, output = received(self._final, self.layer, lambda: _call(self.model, content))
        check_one_vector(states, self.layer)
        if len(states) != batch.rows:
            raise InputError(
                f"layer {self.layer!r} receives {len(states)} rows for {batch.rows} texts"
            )
        features = with_constant(states, self._final)
        check_logits(features, self.weight, getattr(output, "logits", output), self.layer)
        return features


def wrap_module(
    module: nn.Module,
    encode: Encode,
    classes: Sequence[str],
    *,
    layer: str | None = None,
    device: str | None = None,
) -> ModuleClassifier:
    """Return a module as a classifier; it is frozen and put in evaluation mode.

    Args:
        module: From a batch to logits [B, C], alone or as `.logits`.
        encode: From a list of texts to a tensor, a mapping (passed on by name) or a tuple (by
            place); where the data has second texts, from two lists.
        classes: Names of the C classes in index order.
        layer: Dotted name of the final linear layer; None takes the only one with C outputs.
        device: A torch device; None leaves the module where it is.

    Raises:
        InputError: One of them is not what it should be, or the final layer cannot be told.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    if not callable(encode):
        raise InputError(f"encode must be a function from texts to a batch, got {encode!r}")
    names = checked_names(classes)
    final = layer or _only_layer(module, len(names))
    check_layer(module, final, len(names))
    check_finite("module", module, infinite=True)
    module.requires_grad_(False).eval()
    if device is not None:
        module.to(pick_device(device))
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    mark = fingerprint(module, buffers=True)
    return ModuleClassifier(
        Backbone(name, module, None, "encoder", mark, torch.float32), encode, names, final
    )


def _only_layer(module: nn.Module, num_classes: int) -> str:
    found = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and part.out_features == num_classes
    ]
    if len(found) != 1:
        raise InputError(
            f"{len(found) or 'no'} linear layers have {num_classes} outputs"
            + (f" ({', '.join(found)})" if found else "")
            + "; name the final one with layer"
        )
    return str(found[0])


def _call(module: nn.Module, content: Any) -> Any:
    if isinstance(content, Mapping):
        return module(**content)
    return module(*content) if isinstance(content, tuple | list) else module(content)


def _moved(content: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on a device."""
    if isinstance(content, Tensor):
        return content.to(device)
    if isinstance(content, Mapping):
        return {name: _moved(item, device) for name, item in content.items()}
    if isinstance(content, tuple | list):
        return tuple(_moved(item, device) for item in content)
    return content
