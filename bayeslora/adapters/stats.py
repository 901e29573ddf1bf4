"""Second moments of the inputs of linear layers, gathered in one masked pass.

    C = (1/M) Σ x xᵀ   over the M real tokens of a context, uncentred

C is what CorDA decomposes a weight with, and the input factor of K-FAC for the same layer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora.adapters.real_tokens import real_tokens
from bayeslora.errors import InputError
from bayeslora.tensor_files import read_sealed, write_sealed

_PLACES = "places"


@dataclass(frozen=True)
class SecondMoment:
    """Mean of x xᵀ over tokens.

    Attributes:
        matrix: [in, in] float64, symmetric.
        count: M, the number of tokens.
    """

    matrix: Tensor
    count: int


@torch.no_grad()
def second_moments(
    forward: Callable[[Any], object],
    layers: Mapping[str, nn.Module],
    batches: Iterable[Mapping[str, Tensor]],
    advance: Callable[[int], object] = lambda _: None,
) -> dict[str, SecondMoment]:
    """Return the second moment of the inputs of each layer, on the CPU.

    Neither the size of the batches nor their order counts, and padding changes nothing. The work
    is in float64 where the layers are; each layer takes 8·in² bytes there.

    Args:
        forward: Runs the model, best in evaluation mode, on a batch.
        layers: Modules by name, each called with [B, T, in], [B·T, in], or [B, in].
        batches: Mappings with `attention_mask` [B, T], 1 at real tokens; `forward` gets them whole.
        advance: Called with the number of rows after each batch.

    Raises:
        InputError: A layer is not called, sees inputs that are not tokens of the batch, or such
            that are not finite.
    """
    sums = _Sums()

    def adding(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: sums.add(name, inputs[0])

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_pre_hook(adding(name)))
        for batch in batches:
            sums.mask = batch["attention_mask"]
            forward(batch)
            sums.forget()
            advance(len(sums.mask))
    return {name: sums.moment(name) for name in layers}


class _Sums:
    """Running sums by layer; layers that share an input share the product."""

    def __init__(self) -> None:
        self.mask = torch.ones(0, 0)
        self._totals: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._last: tuple[Tensor, Tensor, int] | None = None

    def add(self, name: str, inputs: Tensor) -> None:
        # Query, key and value projections are called with the very same tensor.
        if self._last is None or self._last[0] is not inputs:
            real = real_tokens(f"layer {name}", inputs, self.mask)
            rows = inputs.detach()[real].double()
            self._last = (inputs, rows.mT @ rows, len(rows))
        _, product, count = self._last
        if name in self._totals:
            self._totals[name] += product
        else:
            self._totals[name] = product.clone()
        self._counts[name] = self._counts.get(name, 0) + count

    def forget(self) -> None:
        self._last = None

    def moment(self, name: str) -> SecondMoment:
        if name not in self._totals:
            raise InputError(f"layer {name} is not called when the context is run")
        matrix = (self._totals[name] / self._counts[name]).cpu()
        if not bool(matrix.isfinite().all()):
            raise InputError(f"the inputs of layer {name} are not finite on the context")
        return SecondMoment((matrix + matrix.mT) / 2, self._counts[name])


def save_moments(path: str | Path, moments: Mapping[str, SecondMoment]) -> None:
    """Write second moments to a safetensors file with a checksum, equal matrices once."""
    matrices: list[Tensor] = []
    places: dict[str, tuple[int, int]] = {}
    for name, moment in moments.items():
        place = next(
            (at for at, known in enumerate(matrices) if torch.equal(known, moment.matrix)), None
        )
        if place is None:
            place = len(matrices)
            matrices.append(moment.matrix.contiguous())
        places[name] = (place, moment.count)
    tensors = {str(place): matrix for place, matrix in enumerate(matrices)}
    write_sealed(path, tensors, **{_PLACES: json.dumps(places)})


def load_moments(path: str | Path) -> dict[str, SecondMoment]:
    """Read what `save_moments` wrote.

    Raises:
        InputError: The file is missing, damaged, or something else.
    """
    try:
        matrices, about = read_sealed(path)
        places = json.loads(about[_PLACES])
        return {
            name: SecondMoment(matrices[str(place)], int(count))
            for name, (place, count) in places.items()
        }
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} holds no second moments, or is damaged: {error}", code="damaged"
        ) from None
