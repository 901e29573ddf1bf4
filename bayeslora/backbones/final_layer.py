"""The final linear layer of a finished classifier and its inputs; any torch module that has one.

A posterior over that layer needs one input vector per row, and logits that equal the layer's
output. Both are checked by running the classifier, since names and classes of modules guarantee
neither. A module and the function from texts to its batches belong to the user: they are in memory,
and neither can be saved to a model directory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayeslora.backbones.encoder import FeatureExtractor, PreparedTexts
from bayeslora.backbones.load import Backbone, check_finite, fingerprint, pick_device
from bayeslora.backbones.prefix import inputs_of
from bayeslora.backbones.tokens import Tokens
from bayeslora.errors import InputError

# Relative to the largest logit: float32 rounding is far below, another layer far above.
_TOLERANCE = 1e-3
_HALF_TOLERANCE = 5e-2


@torch.no_grad()
def find_layer(model: nn.Module, run: Callable[[], object], num_classes: int) -> str:
    """Return the name of the last executed linear layer with `num_classes` outputs.

    Args:
        model: The classifier.
        run: Calls the classifier once.
        num_classes: C.

    Raises:
        InputError: No such layer ran.
    """
    ran: list[str] = []
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and module.out_features == num_classes:
                hook = module.register_forward_hook(lambda *_, name=name: ran.append(name))
                hooks.enter_context(hook)
        run()
    if not ran:
        raise InputError(
            f"no linear layer with {num_classes} outputs ran; pass the name of the final layer "
            "as layer (--layer), one of " + _last_linear(model)
        )
    return ran[-1]


def check_layer(model: nn.Module, name: str, num_classes: int) -> None:
    """Raise InputError if `name` is not an unquantised linear layer with `num_classes` outputs.

    Raises:
        InputError: It is not; the message has the closest name and the last linear layers.
    """
    modules = dict(model.named_modules())
    module = modules.get(name)
    if not isinstance(module, nn.Linear) or module.out_features != num_classes:
        linear = [key for key, part in modules.items() if isinstance(part, nn.Linear)]
        matches = [] if module is not None else get_close_matches(name, linear, n=1)
        hint = f" (did you mean {matches[0]!r}?)" if matches else ""
        raise InputError(
            f"layer {name!r} is not a linear layer with {num_classes} outputs{hint}; the last "
            "linear layers are " + _last_linear(model)
        )
    if not module.weight.is_floating_point():
        raise InputError(
            f"layer {name!r} has quantised weights ({module.weight.dtype}); exclude the final "
            "layer from quantisation"
        )


def received(layer: nn.Module, name: str, run: Callable[[], Any]) -> tuple[Tensor, Any]:
    """Return the input of a layer during `run`, and the output of `run`.

    Args:
        layer: The final layer.
        name: Its name, for messages.
        run: Calls the model once.

    Raises:
        InputError: The layer did not run, or ran on several inputs.
    """
    with inputs_of(layer) as seen:
        output = run()
    if not seen:
        raise InputError(f"layer {name!r} did not run, so it has no features; choose another layer")
    # Heads that average over dropout masks call the layer several times on the same input.
    if any(item.shape != seen[-1].shape or not torch.equal(item, seen[-1]) for item in seen[:-1]):
        raise InputError(
            f"layer {name!r} ran {len(seen)} times on different inputs; the posterior needs "
            "exactly one input per row"
        )
    return seen[-1], output


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
        self._final: Any = self.model.get_submodule(layer)

    @property
    def num_features(self) -> int:
        """d, including the constant column if the final layer has a bias."""
        return self.weight.shape[1]

    @cached_property
    def weight(self) -> Tensor:
        """[C, d] float32: the final layer's weight, with its bias, if any, as the last column."""
        weight, bias = self._final.weight, self._final.bias
        columns = [weight] if bias is None else [weight, bias.unsqueeze(1)]
        return torch.cat([column.detach().float().cpu() for column in columns], 1)

    def from_states(self, states: Tensor) -> Tensor:
        """Return the features [B, d] float32 for inputs of the layer: a 1 is added for its bias.

        Raises:
            InputError: The inputs are not one vector per row.
        """
        if states.ndim != 2:
            raise InputError(
                f"layer {self.layer!r} receives an input of shape {list(states.shape)}; the "
                "posterior needs one vector per row, [rows, features]"
            )
        features = states.float()
        if self._final.bias is None:
            return features
        return torch.cat([features, features.new_ones(len(features), 1)], 1)

    def gap(self, features: Tensor, logits: Tensor) -> float:
        """Return the largest difference of the layer's output from logits, over the tolerance.

        Args:
            features: [B, d], including the constant column.
            logits: [B, C], of the classifier.
        """
        half = logits.dtype in {torch.bfloat16, torch.float16}
        expected = logits.detach().double().cpu()
        actual = features.detach().double().cpu() @ self.weight.double().T
        relative = _HALF_TOLERANCE if half else _TOLERANCE
        tolerated = relative * max(1.0, float(expected.abs().max()))
        return float((actual - expected).abs().max()) / tolerated

    def check_logits(self, features: Tensor, logits: Any) -> None:
        """Raise InputError if the classifier's logits are not the layer's output.

        Raises:
            InputError: Their shape or values differ.
        """
        expected = [len(features), len(self.weight)]
        if not isinstance(logits, Tensor) or list(logits.shape) != expected:
            got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"the classifier must return logits [rows, classes], {expected}, got {got}"
            )
        if not bool(logits.isfinite().all()):
            raise InputError("the classifier returned logits that are not finite")
        if self.gap(features, logits) > 1:
            raise InputError(
                f"the classifier's logits are not the output of layer {self.layer!r}: the model "
                "applies another operation after it, which the posterior would ignore; choose "
                "another layer"
            )


def _last_linear(model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return ", ".join(names[-5:])


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
        from accelerate.utils import send_to_device

        num_rows, content = batch
        content = send_to_device(content, self.backbone.device)
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


def checked_names(classes: Sequence[str], num_classes: int | None = None) -> tuple[str, ...]:
    """Check class names and return them as a tuple.

    Raises:
        InputError: They are not `num_classes` (two or more) distinct strings.
    """
    is_list = isinstance(classes, Sequence) and not isinstance(classes, str)
    named = is_list and all(isinstance(item, str) and item.strip() for item in classes)
    if not named or len(set(classes)) < max(2, len(classes)):
        raise InputError(
            f"classes must be two or more distinct names in index order, got {classes!r}"
        )
    if num_classes is not None and len(classes) != num_classes:
        raise InputError(
            f"classes has {len(classes)} names, but the classifier has {num_classes} outputs"
        )
    return tuple(classes)


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
