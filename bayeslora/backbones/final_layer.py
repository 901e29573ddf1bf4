"""The final linear layer of a finished classifier and its inputs.

A posterior over that layer needs one input vector per row, and logits that equal the layer's
output. Both are checked by running the classifier, since names and classes of modules guarantee
neither.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora.backbones.encoder import FeatureExtractor
from bayeslora.backbones.load import Backbone
from bayeslora.backbones.prefix import inputs_of
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
