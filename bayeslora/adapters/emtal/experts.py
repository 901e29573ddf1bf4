"""Experts among the hidden units of a feed-forward network.

    X = rows of the up projection (of the gate in gated networks) [h, d], divided by their norms
    C = K of the rows
    repeat: labels = the assignment of h/K units to each expert that maximises Σ_j X_j · C_{label j}
            C = means of the experts' rows, until the labels converge

The published code sorts hidden units by expert, so that each expert is contiguous. The order of
hidden units is a symmetry of the network and irrelevant here: units keep their positions, and each
has an expert label. The weights remain the backbone's.

Source: Zhong et al. 2024, arXiv 2501.06884, section 3.2; balanced k-means as an assignment problem:
Malinen and Fränti 2014.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import nn

from bayeslora.adapters.targets import find_targets, split_at_layer
from bayeslora.errors import InputError

if TYPE_CHECKING:
    from bayeslora.adapters.emtal.options import EMTAL

LAYOUTS: tuple[tuple[str, str, str | None], ...] = (
    ("up_proj", "down_proj", "gate_proj"),  # Llama, Mistral, Qwen, Gemma
    ("intermediate.dense", "output.dense", None),  # BERT, RoBERTa, ELECTRA, DeBERTa, MPNet, ViT
    ("ffn", "ffn_output", None),  # ALBERT
    ("lin1", "lin2", None),  # DistilBERT
    ("dense_h_to_4h", "dense_4h_to_h", None),  # GPT-NeoX, BLOOM, Falcon
    ("fc1", "fc2", None),  # OPT, BART, DINOv2
    ("wi_1", "wo", "wi_0"),  # T5 1.1
    ("wi", "wo", None),  # T5
)
"""Name suffixes of the up, down and, in gated networks, gate projection of one parent module."""

_MOST_ROUNDS = 30


@dataclass(frozen=True)
class FFN:
    """A feed-forward network by the dotted names of its layers.

    Attributes:
        up: Its outputs are the hidden units, before the activation or the gate.
        down: Its inputs are the hidden units.
        gate: The gate projection of a gated network, or None.
    """

    up: str
    down: str
    gate: str | None

    @property
    def deciding(self) -> str:
        """The layer whose rows are clustered: in gated networks the gate, which activates units."""
        return self.up if self.gate is None else self.gate

    @property
    def names(self) -> tuple[str, ...]:
        """All of its layers."""
        return (self.up, self.down) if self.gate is None else (self.gate, self.up, self.down)


def find_ffns(model: nn.Module) -> list[FFN]:
    """Return the feed-forward networks whose hidden units are the outputs of a linear layer.

    Networks whose gate and up projection share a matrix are excluded.
    """
    sizes = {
        name: tuple(module.get_parameter("weight").shape)
        for name, module in model.named_modules()
        if hasattr(module, "weight") and isinstance(module.weight, nn.Parameter)
    }
    blocks = []
    for up, down, gate in LAYOUTS:
        for name, size in sizes.items():
            stem = name.removesuffix(up)
            if not name.endswith(f".{up}") or stem + down not in sizes:
                continue
            block = FFN(name, stem + down, None if gate is None else stem + gate)
            shapes = {sizes.get(layer) for layer in block.names[:-1]}
            if shapes == {size} and sizes[block.down] == size[::-1]:
                blocks.append(block)
    return blocks


def expert_targets(model: nn.Module, config: EMTAL) -> list[str]:
    """Return the layers to adapt: those of the feed-forward networks and further targets.

    Raises:
        InputError: There is no such network, or `target_modules` is invalid.
    """
    blocks = [block for block in find_ffns(model) if split_at_layer(block.up) is not None]
    if not blocks:
        raise InputError(
            "adapter 'emtal' needs feed-forward networks with a separate linear layer for the "
            "hidden units (as in BERT, ViT, Llama, OPT, GPT-NeoX), and this backbone has no "
            f"supported one{_fused(model)}; choose 'lora' or 'polar'"
        )
    ffn_layers = [name for block in blocks for name in block.names]
    extra = config.target_modules
    if extra is None:
        layers = {split_at_layer(name) for name in ffn_layers}
        extra = tuple(
            name
            for name, module in model.named_modules()
            if type(module) is nn.Linear and split_at_layer(name) in layers
        )
    return find_targets(model, [*dict.fromkeys([*ffn_layers, *extra])], config.top_layers)


def _fused(model: nn.Module) -> str:
    """Return a note on a layer that looks like a fused gate and up projection, for a message."""
    ends = ("gate_up_proj", "mlp.Wi", "c_fc")
    names = [name for name, _ in model.named_modules() if name.endswith(ends)]
    return f" ({names[0]} has another layout)" if names else ""


def check_divides(num_units: int, num_experts: int, name: str) -> None:
    """Raise InputError if experts cannot have equal numbers of hidden units.

    Raises:
        InputError: `num_experts` does not divide `num_units`.
    """
    if num_units % num_experts:
        divisors = [k for k in range(2, min(num_units, 65)) if num_units % k == 0]
        raise InputError(
            f"num_experts must divide the {num_units} hidden units of {name}, got {num_experts}; "
            f"for example {', '.join(map(str, divisors)) or 1}"
        )


def balanced_clusters(
    rows: NDArray[np.float64], num_clusters: int, seed: int = 0
) -> NDArray[np.int64]:
    """Return the cluster [h] of each of h rows, with clusters of equal size.

    Args:
        rows: [h, d]; only their directions matter.
        num_clusters: K, a divisor of h.
        seed: Seed for the initial centres.

    Raises:
        InputError: K does not divide h.
    """
    count, _ = rows.shape
    check_divides(count, num_clusters, "a layer")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    X = rows / np.maximum(norms, np.finfo(np.float64).tiny)
    size = count // num_clusters
    centres = X[np.random.default_rng(seed).choice(count, num_clusters, replace=False)]
    labels = np.full(count, -1, dtype=np.int64)
    for _ in range(_MOST_ROUNDS):
        # One column for each place in a cluster: an assignment fills all of them.
        gains = np.repeat(X @ centres.T, size, axis=1)
        new_labels = linear_sum_assignment(gains, maximize=True)[1] // size
        if np.array_equal(new_labels, labels):
            break
        labels = new_labels
        centres = np.stack([X[labels == k].mean(0) for k in range(num_clusters)])
    return labels
