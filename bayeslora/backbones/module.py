"""Features from any torch module that computes logits by a final linear layer.

The module and the function from texts to its batches belong to the user: they are in memory, and
neither can be saved to a model directory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.final_layer import FinalLayerEncoder, check_layer, received
from bayeslora.backbones.load import Backbone, check_finite, fingerprint, pick_device
from bayeslora.backbones.sequence import checked_names
from bayeslora.backbones.tokens import Tokens
from bayeslora.errors import InputError

Encode = Callable[..., Any]


@dataclass(frozen=True)
class EncodedTexts(PreparedTexts):
    """Texts that are encoded per batch; `tokens` counts their characters."""

    texts: Sequence[str]
    pairs: Sequence[str] | None
    encode: Encode

    def collate(self, rows: Sequence[int]) -> Any:
        """Return the number of rows and the input of the module."""
        columns = [self.texts] if self.pairs is None else [self.texts, self.pairs]
        return len(rows), self.encode(*([column[row] for row in rows] for column in columns))


class ModuleEncoder(FinalLayerEncoder):
    """From texts to the input of a module's final linear layer.

    Attributes:
        classes: Names of the classes in index order.
    """

    def __init__(
        self, backbone: Backbone, encode: Encode, classes: tuple[str, ...], layer: str
    ) -> None:
        """Wrap a module without changing it.

        Args:
            backbone: The module; it has no tokenizer.
            encode: From texts, or texts and second texts, to the input of the module.
            classes: Names of the classes in index order.
            layer: Dotted name of the final linear layer.
        """
        super().__init__(backbone, layer, max_length=1)
        self._encode = encode
        self.classes = classes

    def prepare(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        advance: Callable[[int], object] = lambda _: None,
        **_: Any,
    ) -> EncodedTexts:
        """Keep the texts; they are encoded when their batch is run."""
        # Broadcast zeros: only the lengths are used.
        ids = tuple(np.broadcast_to(np.int64(0), (len(text),)) for text in texts)
        advance(len(texts))
        return EncodedTexts(Tokens(ids, 0, 0), None, texts, pairs, self._encode)

    def forward(self, batch: Any) -> Tensor:
        """Return the final layer's input [B, d] float32, a 1 appended where it has a bias.

        Raises:
            InputError: The layer does not have one input per row, or the module's logits are not
                its output.
        """
        num_rows, content = batch
        content = _moved(content, self.backbone.device)
        states, output = received(self._final, self.layer, lambda: _call(self.model, content))
        features = self.from_states(states)
        if len(states) != num_rows:
            raise InputError(
                f"layer {self.layer!r} receives {len(states)} rows for {num_rows} texts"
            )
        self.check_logits(features, getattr(output, "logits", output))
        return features


def wrap_module(
    module: nn.Module,
    encode: Encode,
    classes: Sequence[str],
    *,
    layer: str | None = None,
    device: str | None = None,
) -> ModuleEncoder:
    """Wrap a module as a classifier; the module is frozen and set to evaluation mode.

    Args:
        module: From a batch to logits [B, C], directly or as `.logits`.
        encode: From a list of texts to a tensor, a mapping (passed by name) or a tuple (passed by
            position); takes two lists if the data has second texts.
        classes: Names of the C classes in index order.
        layer: Dotted name of the final linear layer; None takes the only layer with C outputs.
        device: A torch device; None does not move the module.

    Raises:
        InputError: An argument is invalid, or the final layer is ambiguous.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    if not callable(encode):
        raise InputError(
            f"encode must be a function that converts texts to a batch, got {encode!r}"
        )
    names = checked_names(classes)
    final = layer or _only_layer(module, len(names))
    check_layer(module, final, len(names))
    check_finite("module", module, infinite=True)
    module.requires_grad_(False).eval()
    if device is not None:
        module.to(pick_device(device))
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    digest = fingerprint(module, buffers=True)
    backbone = Backbone(name, module, None, "encoder", digest, torch.float32)
    return ModuleEncoder(backbone, encode, names, final)


def _only_layer(module: nn.Module, num_classes: int) -> str:
    candidates = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and part.out_features == num_classes
    ]
    if len(candidates) != 1:
        raise InputError(
            f"{len(candidates) or 'no'} linear layers have {num_classes} outputs"
            + (f" ({', '.join(candidates)})" if candidates else "")
            + "; pass the name of the final layer as layer"
        )
    return str(candidates[0])


def _call(module: nn.Module, content: Any) -> Any:
    if isinstance(content, Mapping):
        return module(**content)
    return module(*content) if isinstance(content, tuple | list) else module(content)


def _moved(content: Any, device: torch.device) -> Any:
    """Return a batch with its tensors moved to a device."""
    if isinstance(content, Tensor):
        return content.to(device)
    if isinstance(content, Mapping):
        return {name: _moved(item, device) for name, item in content.items()}
    if isinstance(content, tuple | list):
        return tuple(_moved(item, device) for item in content)
    return content
