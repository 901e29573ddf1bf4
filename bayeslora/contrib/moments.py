"""Second moments of the inputs of adapted layers, computed in one masked pass.

C = (1/M) Σ x xᵀ over the M real tokens of a context, uncentred.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayeslora.backbones.encoder import FeatureExtractor, PreparedTexts
from bayeslora.backbones.tokens import real_tokens
from bayeslora.engine.network import Network
from bayeslora.engine.progress import progress_bar

_MOMENTS_BATCH = 32


@torch.no_grad()
def second_moments(
    forward: Callable[[Any], object],
    layers: Mapping[str, nn.Module],
    batches: Iterable[Mapping[str, Tensor]],
    advance: Callable[[int], object] = lambda _: None,
) -> dict[str, Tensor]:
    """Return the second moment [in, in] float64 of the inputs of each layer, on the CPU.

    The result does not depend on batch size, order or padding. The computation is in float64 on
    the device of the layers and takes 8·in² bytes there per layer.

    Args:
        forward: Runs the model, best in evaluation mode, on a batch.
        layers: Modules by name, each called with [B, T, in], [B·T, in], or [B, in].
        batches: Mappings with `attention_mask` [B, T], 1 at real tokens; `forward` gets them whole.
        advance: Called with the number of rows after each batch.

    Raises:
        InputError: The inputs of a layer are not tokens of the batch.
    """
    totals: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()
    mask = torch.ones(0, 0)
    last: tuple[Tensor, Tensor, int] | None = None

    def add(name: str, inputs: Tensor) -> None:
        nonlocal last
        # Query, key and value projections are called with the same tensor, and share the product.
        if last is None or last[0] is not inputs:
            rows = inputs.detach()[real_tokens(f"layer {name}", inputs, mask)].double()
            last = (inputs, rows.mT @ rows, len(rows))
        totals[name] = totals[name] + last[1] if name in totals else last[1]
        counts[name] += last[2]

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(lambda _, args, name=name: add(name, args[0]))
            hooks.enter_context(hook)
        for batch in batches:
            mask, last = batch["attention_mask"], None
            forward(batch)
            advance(len(mask))
    moments = {}
    for name in layers:
        matrix = (totals[name] / counts[name]).cpu()
        moments[name] = (matrix + matrix.mT) / 2
    return moments


def spread(length: int, count: int) -> list[int]:
    """Return up to `count` of `length` row numbers, evenly spaced."""
    size = min(length, count)
    rows: list[int] = np.linspace(0, length - 1, size).round().astype(int).tolist()
    return rows


def moments_on(
    network: Network, texts: PreparedTexts, count: int, *, shown: bool = False
) -> dict[str, Tensor]:
    """Return the second moments of the sites' inputs on texts.

    Args:
        network: Network whose sites change nothing yet.
        texts: Prepared texts.
        count: Largest number of texts to run.
        shown: Whether to show a progress bar on stderr.

    Raises:
        InputError: As `second_moments`.
    """
    rows = spread(len(texts), count)
    network.eval()
    with progress_bar("context", len(rows), shown=shown, unit="text") as advance:
        return second_moments(
            network.encoder,
            {site.name: site for site in network.sites},
            map(texts.collate, batches(network.encoder, texts, rows, _MOMENTS_BATCH)),
            advance,
        )


def batches(
    encoder: FeatureExtractor, texts: PreparedTexts, rows: list[int], size: int
) -> list[list[int]]:
    """Return the row numbers of batches of similar length."""
    lengths = texts.tokens.lengths[rows]
    return [[rows[index] for index in indices] for indices in encoder.batches(lengths, size)]
