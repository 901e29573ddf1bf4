"""The frozen prefix: lower layers that carry no adapter run once per text.

With adapters on the upper layers only, the hidden states that enter the first adapted layer never
change. `LayerSplit` computes them once and later runs the rest of the model from there. It works
through the model's own forward pass (layers below the split are stood in for), so positions,
masks and rotary tables stay the model's own business, and no architecture needs code of its own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bayeslora.backbones.images import Pixels, run_vision
from bayeslora.backbones.tokens import Tokens, length_batches, model_inputs
from bayeslora.processes import current

_IN_MEMORY_BYTES = 2 << 30


class _Reached(Exception):  # noqa: N818 - carries a result up through the model, not an error
    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class _StandIn(nn.Module):
    """Takes the place of a layer while keeping the attributes that models read from layers."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        # Outside the module tree: the parameters belong to the real layer alone.
        object.__setattr__(self, "layer", layer)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "layer"), name)


class _Stop(_StandIn):
    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        raise _Reached(hidden_states)


class _Give(_StandIn):
    """Returns `value`, or its input where there is none, in the form the real layer has.

    That is a tuple of `num_outputs`, the first of which are the hidden states, or for 0 a tensor.
    """

    def __init__(self, layer: nn.Module, *, num_outputs: int, value: Tensor | None) -> None:
        super().__init__(layer)
        self.num_outputs = num_outputs
        self.value = value

    def forward(
        self, hidden_states: Tensor, *_: Any, **__: Any
    ) -> Tensor | tuple[Tensor | None, ...]:
        result = hidden_states if self.value is None else self.value
        return (result, *[None] * (self.num_outputs - 1)) if self.num_outputs else result


class LayerSplit:
    """A transformer cut before layer `start` of the layer list at `path`."""

    def __init__(self, model: nn.Module, path: str, start: int) -> None:
        """Keep the pieces of `model`, which itself is left as it is.

        Args:
            model: A Hugging Face model without head.
            path: Dotted name of its list of layers, such as `layers` or `encoder.layer`; may be
                empty where nothing is below the cut.
            start: Index of the first layer of the upper part; 0 leaves nothing below.
        """
        parent, _, self._attribute = path.rpartition(".")
        self._model = model
        self._parent = model.get_submodule(parent)
        layers: Any = model.get_submodule(path) if path else []
        self._layers: list[nn.Module] = list(layers)
        self._num_outputs: int | None = None
        self.start = start

    def prefix(self, **inputs: Tensor) -> Tensor:
        """Return the hidden states [B, T, d] that enter layer `start`.

        `inputs` is what the model is called with, such as `input_ids` and `attention_mask`.
        """
        below = [*self._layers[: self.start], _Stop(self._layers[self.start])]
        with self._replaced([*below, *self._layers[self.start + 1 :]]):
            try:
                self._last(**inputs)
            except _Reached as reached:
                return reached.hidden
        raise RuntimeError("the model ended before its own layers did")

    def suffix(self, *, hidden: Tensor | None, **inputs: Tensor) -> Tensor:
        """Return the last hidden states [B, T, d], from `hidden` on where it is given."""
        if hidden is None or self.start == 0:
            return self._last(**inputs)
        with self._replaced(self._above(hidden, inputs)):
            return self._last(**inputs)

    def running(self, **inputs: Tensor) -> frozenset[str]:
        """Return the names of the modules that the last hidden states come from.

        Those that run before layer `start` are none of them: what they compute is computed once.
        """
        called = self.called(**inputs)
        if self.start == 0:
            return frozenset(called)
        return frozenset(called[called.index(self._name(self.start)) :])

    def behind(self, **inputs: Tensor) -> frozenset[str]:
        """Return the names of the modules outside the layers that run only after the last one."""
        called = self.called(**inputs)
        last = self._name(len(self._layers) - 1)
        place = called.index(last)
        return frozenset(
            name
            for name in set(called[place:]) - set(called[:place])
            if name != last and not name.startswith(f"{last}.")
        )

    @torch.no_grad()
    def called(self, **inputs: Tensor) -> list[str]:
        """Return the names of the modules in the order of their calls in a whole pass."""
        called: list[str] = []

        def watch(name: str) -> Callable[..., None]:
            return lambda *_: called.append(name)

        with ExitStack() as hooks:
            for name, part in self._model.named_modules():
                hooks.enter_context(part.register_forward_pre_hook(watch(name)))
            self._last(**inputs)
        return called

    def _name(self, number: int) -> str:
        """Return the dotted name of a layer."""
        layer = self._layers[number]
        names: dict[int, str] = {id(part): name for name, part in self._model.named_modules()}
        return names[id(layer)]

    def _last(self, **inputs: Tensor) -> Tensor:
        if "pixel_values" in inputs:
            output = run_vision(self._model, inputs)
        else:
            output = self._model(use_cache=False, **inputs)
        last: Tensor = output.last_hidden_state
        return last

    def _above(self, hidden: Tensor, inputs: dict[str, Tensor]) -> list[nn.Module]:
        if self._num_outputs is None:
            one = {name: item[:1] for name, item in inputs.items()}
            self._num_outputs = self._count_outputs(one)
        below: list[nn.Module] = [
            _Give(layer, num_outputs=self._num_outputs, value=None)
            for layer in self._layers[: self.start - 1]
        ]
        top = _Give(self._layers[self.start - 1], num_outputs=self._num_outputs, value=hidden)
        return [*below, top, *self._layers[self.start :]]

    def _count_outputs(self, inputs: dict[str, Tensor]) -> int:
        """Return how many outputs the layer below the split returns as a tuple; 0 for a tensor."""
        found: list[int] = []

        def look(_: nn.Module, __: Any, output: Any) -> None:
            found.append(len(output) if isinstance(output, tuple) else 0)

        with self._layers[self.start - 1].register_forward_hook(look), torch.no_grad():
            self.prefix(**inputs)
        return found[0]

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
    """The hidden states of N texts at the split, end to end in one tensor.

    Attributes:
        values: [sum of lengths, d] in the cache's dtype, in memory or memory-mapped.
        spans: [N, 2] int64: text n holds rows `spans[n, 0]` to `spans[n, 1]`.
    """

    values: Tensor
    spans: Tensor

    @property
    def num_bytes(self) -> int:
        """Size of the states."""
        return self.values.numel() * self.values.itemsize

    def pad(self, rows: Sequence[int]) -> Tensor:
        """Return [B, T, d]: the states of `rows`, padded with zeros on the right."""
        pieces = [self.values[start:end] for start, end in self.spans[list(rows)].tolist()]
        return nn.utils.rnn.pad_sequence(pieces, batch_first=True)


def spans_of(lengths: NDArray[np.int64]) -> Tensor:
    """Return the `spans` of `PrefixStates` for texts of [N] lengths, end to end."""
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
) -> PrefixStates:
    """Run the layers below the split once over all texts.

    Args:
        split: The cut model; it should be in evaluation mode.
        tokens: The N texts.
        width: Hidden size d.
        dtype: Of the stored states.
        device: Where the model is; the states are kept on the CPU.
        batch_size: Texts a pass.
        advance: Called with the number of texts after each pass, for a progress bar.
    """
    lengths = tokens.lengths
    spans = spans_of(lengths)
    values = _allocate(int(lengths.sum()), width, dtype)
    world = current()
    if world.size > 1:
        values.zero_()
    for taken in world.rounds(length_batches(lengths, batch_size)):
        rows, is_own = world.turn(taken)
        inputs = tokens.pad(rows)
        hidden = split.prefix(**model_inputs(inputs, device)).to("cpu", dtype)
        if is_own:
            places = torch.cat([torch.arange(start, end) for start, end in spans[rows].tolist()])
            values[places] = hidden[inputs["attention_mask"].bool()]
        advance(sum(map(len, taken)))
    world.merge_(values)
    return PrefixStates(values, spans)


def _allocate(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """Return an empty [rows, width] tensor, memory-mapped to a temporary file when large.

    Raises:
        OSError: The directory for temporary files has no room for it.
    """
    num_bytes = rows * width * dtype.itemsize
    if num_bytes <= _IN_MEMORY_BYTES:
        return torch.empty(rows, width, dtype=dtype)
    # The mapping keeps the storage alive; once the file has no name, nothing is left behind after
    # a crash.
    with tempfile.NamedTemporaryFile(prefix="bayeslora-prefix-") as file:
        try:
            _reserve(file.fileno(), num_bytes)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}: {num_bytes:,} bytes are needed here for the states of the "
                "cached lower layers; make room, or set TMPDIR to another directory",
                str(Path(file.name).parent),
            ) from error
        values = torch.from_file(file.name, shared=True, size=rows * width, dtype=dtype)
    return values.view(rows, width)


def _reserve(file: int, num_bytes: int) -> None:
    """Allocate every block of a file now.

    A mapping of a file with holes is allocated as it is written to, and where the disk is full the
    process is killed by SIGBUS.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, num_bytes)
        return
    zeros = bytes(1 << 20)
    for start in range(0, num_bytes, len(zeros)):
        os.write(file, zeros[: num_bytes - start])
