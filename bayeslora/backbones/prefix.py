"""The frozen prefix: lower layers without adapters run once per text.

With adapters on the upper layers only, the hidden states at the first adapted layer never change.
`LayerSplit` computes them once and later runs only the rest of the model. It uses the model's own
forward pass with stand-ins for the layers below the split, so the model handles positions, masks
and rotary tables, and no architecture-specific code is needed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bayeslora.backbones.images import Pixels, run_vision
from bayeslora.backbones.tokens import Tokens, length_batches, model_inputs
from bayeslora.errors import InputError
from bayeslora.foreign import find_layers
from bayeslora.processes import current

_IN_MEMORY_BYTES = 2 << 30


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list that receives the first argument of a module at each of its calls."""
    inputs: list[Tensor] = []

    def take(_: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        inputs.append(args[0] if args else next(iter(named.values())))

    with module.register_forward_pre_hook(take, with_kwargs=True):
        yield inputs


@dataclass(frozen=True)
class MiddleLayer:
    """A layer in the middle of a backbone, whose input states are taken while the model runs.

    The upper layers of an encoder keep what separates the training classes, and may map an unusual
    text onto a usual one; the middle layers usually still separate the two. In a decoder all layers
    do about as well (`reports/archive/layer-distances`).

    Attributes:
        layer: The layer.
        number: Its index.
    """

    layer: nn.Module
    number: int

    @torch.no_grad()
    def reads_tokens(self, run: Callable[[], Tensor]) -> bool:
        """Return whether the layer's input is one state per token, [B, T, d].

        Args:
            run: Runs the model on texts of unequal length and returns their attention mask [B, T].
        """
        with inputs_of(self.layer) as states:
            mask = run()
        return len(states) == 1 and states[0].ndim == 3 and states[0].shape[:2] == mask.shape


def middle_layer(model: nn.Module) -> MiddleLayer | None:
    """Return the layer at half of a model's depth; None if the model has no list of layers."""
    try:
        _, layers = find_layers(model)
    except InputError:
        return None
    number = len(layers) // 2
    return MiddleLayer(layers[number], number)


def mean_state(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean [B, d] float32 of the states [B, T, d] at positions whose mask is 1."""
    states = states.float()
    weights = attention_mask.to(states.device).unsqueeze(-1).float()
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1)


class _Reached(Exception):  # noqa: N818 - carries a result up through the model, not an error
    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class _Give(nn.Module):
    """Replaces a layer: returns `value`, or its input if None, in the layer's output format.

    That is a tuple of `num_outputs` items, the first of which is the hidden states, or for 0 a
    tensor. Attributes that models read from layers are those of the layer.
    """

    def __init__(self, layer: nn.Module, *, num_outputs: int, value: Tensor | None) -> None:
        super().__init__()
        # Outside the module tree: the parameters belong only to the real layer.
        object.__setattr__(self, "layer", layer)
        self.num_outputs = num_outputs
        self.value = value

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "layer"), name)

    def forward(
        self, hidden_states: Tensor, *_: Any, **__: Any
    ) -> Tensor | tuple[Tensor | None, ...]:
        result = hidden_states if self.value is None else self.value
        return (result, *[None] * (self.num_outputs - 1)) if self.num_outputs else result


class LayerSplit:
    """A transformer split before layer `start` of the layer list at `path`."""

    def __init__(self, model: nn.Module, path: str, start: int) -> None:
        """Split `model` without changing it.

        Args:
            model: A Hugging Face model without head.
            path: Dotted name of its list of layers, such as `layers` or `encoder.layer`; may be
                empty if nothing is below the split.
            start: Index of the first layer of the upper part; 0 for nothing below.
        """
        parent, _, self._attribute = path.rpartition(".")
        self._model, self._path = model, path
        self._parent = model.get_submodule(parent)
        layers: Any = model.get_submodule(path) if path else []
        self._layers: list[nn.Module] = list(layers)
        self._num_outputs: int | None = None
        self.start = start

    def prefix(self, **inputs: Tensor) -> Tensor:
        """Return the input states [B, T, d] of layer `start`.

        `inputs` are the model's arguments, such as `input_ids` and `attention_mask`.
        """

        def stop(_: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            raise _Reached(args[0] if args else named["hidden_states"])

        first = self._layers[self.start]
        try:
            with first.register_forward_pre_hook(stop, prepend=True, with_kwargs=True):
                self._last(**inputs)
        except _Reached as reached:
            return reached.hidden
        raise RuntimeError("the model returned before its layers ran")

    def suffix(self, *, hidden: Tensor | None, **inputs: Tensor) -> Tensor:
        """Return the last hidden states [B, T, d], starting from `hidden` if not None."""
        if hidden is None or self.start == 0:
            return self._last(**inputs)
        with self._replaced(self._above(hidden, inputs)):
            return self._last(**inputs)

    def running(self, **inputs: Tensor) -> frozenset[str]:
        """Return the names of the modules that compute the last hidden states.

        Modules before layer `start` are excluded, since their outputs are computed only once.
        """
        called = self.called(**inputs)
        if self.start == 0:
            return frozenset(called)
        return frozenset(called[called.index(f"{self._path}.{self.start}") :])

    @torch.no_grad()
    def called(self, **inputs: Tensor) -> list[str]:
        """Return the names of the modules in call order in a full forward pass."""
        called: list[str] = []

        def watch(name: str) -> Callable[..., None]:
            return lambda *_: called.append(name)

        with ExitStack() as hooks:
            for name, part in self._model.named_modules():
                hooks.enter_context(part.register_forward_pre_hook(watch(name)))
            self._last(**inputs)
        return called

    def _last(self, **inputs: Tensor) -> Tensor:
        if "pixel_values" in inputs:
            output = run_vision(self._model, inputs)
        else:
            output = self._model(use_cache=False, **inputs)
        last: Tensor = output.last_hidden_state
        return last

    def _above(self, hidden: Tensor, inputs: dict[str, Tensor]) -> list[nn.Module]:
        if self._num_outputs is None:
            first_row = {name: item[:1] for name, item in inputs.items()}
            self._num_outputs = self._count_outputs(first_row)
        below: list[nn.Module] = [
            _Give(layer, num_outputs=self._num_outputs, value=None)
            for layer in self._layers[: self.start - 1]
        ]
        top = _Give(self._layers[self.start - 1], num_outputs=self._num_outputs, value=hidden)
        return [*below, top, *self._layers[self.start :]]

    def _count_outputs(self, inputs: dict[str, Tensor]) -> int:
        """Return the length of the output tuple of the layer below the split; 0 for a tensor."""
        counts: list[int] = []

        def look(_: nn.Module, __: Any, output: Any) -> None:
            counts.append(len(output) if isinstance(output, tuple) else 0)

        with self._layers[self.start - 1].register_forward_hook(look), torch.no_grad():
            self.prefix(**inputs)
        return counts[0]

    @contextmanager
    def _replaced(self, layers: Sequence[nn.Module]) -> Iterator[None]:
        original = getattr(self._parent, self._attribute)
        setattr(self._parent, self._attribute, nn.ModuleList(layers))
        try:
            yield
        finally:
            setattr(self._parent, self._attribute, original)


@dataclass(frozen=True)
class PrefixStates:
    """The hidden states of N texts at the split, concatenated in one tensor.

    Attributes:
        values: [sum of lengths, d] in the cache's dtype, in memory or memory-mapped.
        spans: [N, 2] int64: text n holds rows `spans[n, 0]` to `spans[n, 1]`.
        middle: [N, d] float32, mean states of each text's tokens in the middle of the backbone, if
            that is below the split; else None.
    """

    values: Tensor
    spans: Tensor
    middle: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Size of the states in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The states by name, for a file; `spans` follow from the lengths of the texts."""
        middle = {} if self.middle is None else {"middle": self.middle}
        return {"values": self.values, **middle}

    def take(self, rows: Sequence[int]) -> PrefixStates:
        """Return the states of some of the texts, without copying the values."""
        middle = None if self.middle is None else self.middle[list(rows)]
        return replace(self, spans=self.spans[list(rows)], middle=middle)

    def pad(self, rows: Sequence[int]) -> Tensor:
        """Return [B, T, d]: the states of `rows`, padded with zeros on the right."""
        pieces = [self.values[start:end] for start, end in self.spans[list(rows)].tolist()]
        return nn.utils.rnn.pad_sequence(pieces, batch_first=True)


def spans_of(lengths: NDArray[np.int64]) -> Tensor:
    """Return the `spans` of `PrefixStates` for concatenated texts of [N] lengths."""
    ends = np.cumsum(lengths)
    return torch.from_numpy(np.column_stack([ends - lengths, ends]))


@torch.no_grad()
def compute_prefix(
    split: LayerSplit,
    tokens: Tokens | Pixels,
    *,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
    batch_size: int,
    advance: Callable[[int], object],
    middle: MiddleLayer | None = None,
) -> PrefixStates:
    """Run the layers below the split once over all texts.

    Args:
        split: The split model; it should be in evaluation mode.
        tokens: The N texts.
        width: Hidden size d.
        dtype: Dtype of the stored states.
        device: Device of the model; the states are stored on the CPU.
        batch_size: Texts per pass.
        advance: Called with the number of texts after each pass, for a progress bar.
        middle: A layer below the split whose mean input states are kept; None for none.
    """
    lengths = tokens.lengths
    spans = spans_of(lengths)
    values = _allocate(int(lengths.sum()), width, dtype)
    means = None if middle is None else torch.zeros(len(lengths), width)
    world = current()
    if world.size > 1:
        values.zero_()
    for taken in world.rounds(length_batches(lengths, batch_size)):
        rows, is_own = world.turn(taken)
        inputs = tokens.pad(rows)
        watched = nullcontext() if middle is None else inputs_of(middle.layer)
        with watched as states:
            hidden = split.prefix(**model_inputs(inputs, device)).to("cpu", dtype)
        if is_own:
            indices = torch.cat([torch.arange(start, end) for start, end in spans[rows].tolist()])
            values[indices] = hidden[inputs["attention_mask"].bool()]
            if means is not None and states:
                means[rows] = mean_state(states[0], inputs["attention_mask"]).cpu()
        advance(sum(map(len, taken)))
    world.merge_(values)
    if means is not None:
        world.merge_(means)
    return PrefixStates(values, spans, means)


def _allocate(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """Return an empty [rows, width] tensor, memory-mapped to a temporary file if large."""
    num_bytes = rows * width * dtype.itemsize
    if num_bytes <= _IN_MEMORY_BYTES:
        return torch.empty(rows, width, dtype=dtype)
    # The mapping keeps the storage alive; an unlinked file leaves nothing behind after a crash.
    with tempfile.NamedTemporaryFile(prefix="bayeslora-prefix-") as file:
        # A sparse file is allocated on write, and a full disk then kills the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        values = torch.from_file(file.name, shared=True, size=rows * width, dtype=dtype)
    return values.view(rows, width)
