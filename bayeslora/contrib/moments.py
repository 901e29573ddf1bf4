"""Second moments of the inputs of adapted layers, computed in one masked pass.

    C = (1/M) Σ x xᵀ   over the M real tokens of a context, uncentred

They are kept in the cache directory.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayeslora.backbones.encoder import FeatureExtractor, PreparedTexts
from bayeslora.backbones.tokens import real_tokens
from bayeslora.engine.network import Network
from bayeslora.engine.progress import progress_bar
from bayeslora.errors import InputError
from bayeslora.io.cache import SECOND_MOMENTS, keep_tensors, kept_file, read_kept

_MOMENTS_BATCH = 32
_MOMENTS_FORMAT = 2  # of the cached file


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

    The result does not depend on batch size, order or padding. The computation is in float64 on
    the device of the layers and takes 8·in² bytes there per layer.

    Args:
        forward: Runs the model, best in evaluation mode, on a batch.
        layers: Modules by name, each called with [B, T, in], [B·T, in], or [B, in].
        batches: Mappings with `attention_mask` [B, T], 1 at real tokens; `forward` gets them whole.
        advance: Called with the number of rows after each batch.

    Raises:
        InputError: A layer is not called, or its inputs are not tokens of the batch or not finite.
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
        if not bool(matrix.isfinite().all()):
            raise InputError(f"the inputs of layer {name} are not finite on the context")
        moments[name] = SecondMoment((matrix + matrix.mT) / 2, counts[name])
    return moments


def spread(length: int, count: int) -> list[int]:
    """Return up to `count` of `length` row numbers, evenly spaced."""
    size = min(length, count)
    rows: list[int] = np.linspace(0, length - 1, size).round().astype(int).tolist()
    return rows


def moments_on(
    network: Network, texts: PreparedTexts, count: int, *, shown: bool = False
) -> dict[str, SecondMoment]:
    """Return the second moments of the sites' inputs on texts, from the disk cache if possible.

    Args:
        network: Network whose sites change nothing yet.
        texts: Prepared texts.
        count: Largest number of texts to run.
        shown: Whether to show a progress bar on stderr.

    Raises:
        InputError: As `second_moments`.
    """
    rows = spread(len(texts), count)
    path = kept_file(SECOND_MOMENTS, _key(network, texts, rows))
    tensors = read_kept(path)
    if tensors is not None:
        return {
            site.name: SecondMoment(tensors[site.name], int(tensors[f"{site.name}.count"]))
            for site in network.sites
        }
    network.eval()
    with progress_bar("context", len(rows), shown=shown, unit="text") as advance:
        moments = second_moments(
            network.encoder,
            {site.name: site for site in network.sites},
            map(texts.collate, batches(network.encoder, texts, rows, _MOMENTS_BATCH)),
            advance,
        )
    matrices = {name: moment.matrix for name, moment in moments.items()}
    counts = {f"{name}.count": torch.tensor(moment.count) for name, moment in moments.items()}
    keep_tensors(path, matrices | counts)
    return moments


def batches(
    encoder: FeatureExtractor, texts: PreparedTexts, rows: list[int], size: int
) -> list[list[int]]:
    """Return the row numbers of batches of similar length."""
    lengths = texts.tokens.lengths[rows]
    return [[rows[index] for index in indices] for indices in encoder.batches(lengths, size)]


def _key(network: Network, texts: PreparedTexts, rows: list[int]) -> str:
    """Return a hash of everything that determines the second moments."""
    backbone = network.encoder.backbone
    names = [site.name for site in network.sites]
    weights = [backbone.fingerprint, backbone.dtype, str(network.sites[0].weight.dtype)]
    identity = [*weights, backbone.settings, names, _MOMENTS_FORMAT]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for column in (texts.tokens.ids, texts.tokens.types or ()):
        for item in (column[row] for row in rows if column):
            digest.update(len(item).to_bytes(8, "little") + item.tobytes())
    return digest.hexdigest()[:32]
