"""iLoRA: LoRA whose rank is split among experts, weighted by a gate for each example.

    z = encoding of the history, or the frozen backbone's feature of the text        [B, k]
    p = softmax(R LayerNorm(z) + c) ,   g = K p                                       [B, K]
    y = x Wᵀ + b + s · (x Aᵀ ∘ rep(g)) Bᵀ ,   s = alpha / r

`rep` repeats each of the K gates over the r / K directions of its expert. All tokens of a text and
all layers share one gate vector. R and c are initially zero: g = 1, which is LoRA.

Source: Kong et al. 2024, arXiv 2408.10159. Its router is a convolution over the coordinates of z
with batch normalisation, which makes the gate depend on the batch; ours is a linear map.

*Item vectors* from co-occurrence in histories.

    S_ij = C_ij / √((n_i + 5)(n_j + 5)) ,   S_ii = 0 ,   S ≈ U diag(λ) Uᵀ ,   v_i = u_i ∘ √|λ|

n_i is the number of training histories that contain item i, and C_ij the number that contain both
i and j; U holds the 64 eigenvectors of largest |λ|. A history is encoded as the mean of its items'
vectors, with zeros for unseen items. Labels are not used.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.low_rank import LowRank
from bayeslora.adapters.site import Companion, Site
from bayeslora.engine.network import Network, under
from bayeslora.engine.training import Training
from bayeslora.errors import InputError
from bayeslora.option_checks import Count, Positive

ROUTER_DECAY = 1e-5
CONTEXTS = "contexts"
"""Column of the gate's input, [N, k] float32."""
_PREFIX = "conditioning."
# Mutual information of example and expert in nats, and the mean weight of one expert.
_IGNORES, _COLLAPSED = 0.02, 0.9


@dataclass(frozen=True)
class ILoRA(LoRA):
    """LoRA whose rank is split among experts, weighted by a gate for each example.

    The gate sees the `history` of items, encoded by which items occur together in the training
    rows, or, where rows have none, the frozen backbone's feature of the text.
    """

    name: ClassVar[str] = "ilora"
    summary: ClassVar[str] = "LoRA split into experts, weighted by a gate for each example"
    use: ClassVar[str] = "Sequences of users or items with different kinds of examples."
    source: ClassVar[str] = "Kong et al. 2024, arXiv 2408.10159"

    r: Count = 8
    """Rank of the change of each adapted weight, a multiple of `num_experts`."""
    num_experts: Count = 4
    """Number of parts of the rank, each with its own gate; 1 is LoRA."""
    gate_lr_factor: Positive = 0.3
    """Learning rate of the router, relative to that of the factors."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.r % self.num_experts:
            raise InputError(
                "r must be a multiple of num_experts, since all experts have the same rank; got "
                f"r={self.r} and num_experts={self.num_experts}"
            )

    @property
    def no_gate(self) -> str:
        """Another gate is impossible, since this adapter has its own."""
        return "it already has its own gate there"

    def companion(self, network: Network, rows: Any = None) -> InstanceGate:
        """Return the gate, attached to the sites."""
        gate = InstanceGate(self, network.encoder.backbone.num_features)
        gate.attach(network.sites)
        if rows is not None:
            gate.learn(rows)
        return gate

    @property
    def starts_from_rows(self) -> bool:
        """Always true: the gate is centred."""
        return True

    def begin(self, fit: Training) -> None:
        """Centre the gate at the training rows."""
        cast("InstanceGate", fit.network.companion).begin(fit.train.columns[CONTEXTS])

    def advice(self, figures: Mapping[str, float]) -> str:
        """Return a warning if the gate ignores the example or collapses to one expert."""
        largest, information = figures["gate_largest"], figures["gate_information"]
        if self.num_experts == 1:
            return ""
        if largest > _COLLAPSED:
            return (
                f"adapter 'ilora': one expert has a mean weight of {largest:.2f}, so the others "
                "hardly learn; choose fewer experts, or a smaller gate_lr_factor"
            )
        if information < _IGNORES:
            return (
                "adapter 'ilora': the gate ignores the example (mutual information "
                f"{information:.3f} of at most {math.log(self.num_experts):.2f} nats), so the "
                "adapter is close to LoRA of the same rank"
            )
        return ""


NUM_COORDINATES = 64
# Shrinkage in histories, since a rare item has an unreliable co-occurrence.
_SHRINK = 5.0
# Up to this many items, all eigenvectors take only seconds.
_DENSE = 2000


class ItemVectors(nn.Module):
    """A vector for each item that occurs in the histories of the training rows.

    Attributes:
        keys: [M] int64, sorted: hashes of the items' names, so that a file need not hold the names.
        vectors: [M, 64] float32.
    """

    keys: Tensor
    vectors: Tensor

    def __init__(self) -> None:
        """Initialise without items."""
        super().__init__()
        self.resize(0)

    def resize(self, count: int) -> None:
        """Allocate zeros for `count` items."""
        self.register_buffer("keys", torch.zeros(count, dtype=torch.int64))
        self.register_buffer("vectors", torch.zeros(count, NUM_COORDINATES))

    def learn(self, histories: Sequence[Sequence[str]]) -> None:
        """Encode the items of histories."""
        names = sorted(set(chain.from_iterable(histories)), key=item_key)
        device = self.vectors.device
        self.keys = torch.tensor([item_key(name) for name in names], dtype=torch.int64).to(device)
        self.vectors = torch.from_numpy(item_vectors(histories, names)).float().to(device)

    def encode(self, histories: Sequence[Sequence[str]]) -> Tensor:
        """Return the mean vectors [N, 64] float32 of N histories, on the CPU."""
        indices = {key: index for index, key in enumerate(self.keys.tolist())}
        vectors = self.vectors.double().cpu()
        result = torch.zeros(len(histories), NUM_COORDINATES)
        for row, history in enumerate(histories):
            known = [indices[key] for key in map(item_key, history) if key in indices]
            if known:
                result[row] = vectors[known].sum(0) / len(history)
        return result


def item_key(name: str) -> int:
    """Return a 64-bit hash of an item's name."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def item_vectors(histories: Sequence[Sequence[str]], names: Sequence[str]) -> NDArray[np.float64]:
    """Return the vectors [M, 64] of M items; columns beyond M are zero.

    The largest entry of each column is positive, so that the result does not depend on the
    arbitrary signs of a decomposition.

    Args:
        histories: Lists of items.
        names: All distinct items in the histories.
    """
    from scipy import sparse
    from scipy.sparse.linalg import eigsh

    indices = {name: index for index, name in enumerate(names)}
    encoded = [sorted({indices[name] for name in history}) for history in histories]
    columns = np.fromiter(chain.from_iterable(encoded), dtype=np.int64)
    rows = np.repeat(np.arange(len(encoded)), [len(items) for items in encoded])
    incidence = sparse.csr_matrix(
        (np.ones(len(rows)), (rows, columns)), shape=(len(encoded), len(names))
    )
    root = sparse.diags_array(1 / np.sqrt(np.asarray(incidence.sum(0)).ravel() + _SHRINK))
    similarity = root @ (incidence.T @ incidence) @ root
    similarity = sparse.csr_matrix(similarity - sparse.diags_array(similarity.diagonal()))
    count = min(NUM_COORDINATES, len(names))
    if len(names) <= _DENSE:
        values, vectors = np.linalg.eigh(similarity.toarray())
    else:
        # The default start vector is random.
        values, vectors = eigsh(similarity, k=count, which="LM", v0=np.ones(len(names)))
    order = np.argsort(-np.abs(values), kind="stable")[:count]
    values, vectors = values[order], vectors[:, order]
    largest = vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]
    scaled = vectors * np.sqrt(np.abs(values)) * np.where(largest < 0, -1.0, 1.0)
    result = np.zeros((len(names), NUM_COORDINATES))
    result[:, : scaled.shape[1]] = scaled
    return result


class InstanceGate(Companion):
    """Weights the experts of all sites by the context of each example.

    Attributes:
        router: From normalised contexts to expert logits; initially zero.
        mean: [k], subtracted from the contexts: the mean over the training rows for features of
            texts, which have a large common part, and zero for histories.
        items: Encodes histories; empty if the gate sees texts.
    """

    mean: Tensor

    def __init__(self, config: ILoRA, num_features: int) -> None:
        """Initialise with equal weights.

        Args:
            config: Number of experts, context and learning rates.
            num_features: d, width of the backbone.
        """
        super().__init__()
        self.num_experts = config.num_experts
        self._config = config
        # A plain attribute, since the backward pass may run in other threads.
        self._gates: Tensor | None = None
        self.items = ItemVectors()
        self._begin(num_features)

    def _begin(self, width: int) -> None:
        # Without nn.Linear's initialisation, which would advance the global generator.
        router = nn.Linear(width, self.num_experts, device="meta").to_empty(device="cpu")
        for parameter in router.parameters():
            nn.init.zeros_(parameter)
        self.router = router
        self.register_buffer("mean", torch.zeros(width))

    @property
    def sees_history(self) -> bool:
        """Whether contexts encode histories instead of texts."""
        return len(self.items.keys) > 0

    def attach(self, sites: Sequence[Site]) -> None:
        """Attach the gate between the factors of low-rank sites."""
        for site in cast("Sequence[LowRank]", sites):
            site.attach(self.gated, num_blocks=self.num_experts, constant=self.constant)

    def learn(self, rows: Any) -> None:
        """Encode the items of the training histories, if the rows have any."""
        history = getattr(rows, "history", None)
        if history is None:
            return
        self.items.learn(history)
        self._begin(NUM_COORDINATES)
        self.to(self.items.vectors.device)

    def columns(self, rows: Any, count: int, features: Callable[[], Tensor]) -> dict[str, Tensor]:
        """Return the encoded histories or the frozen features; zeros for unknown items.

        Raises:
            InputError: The gate sees histories, and the rows have none.
        """
        if not self.sees_history:
            return {CONTEXTS: features().float().cpu()}
        history = getattr(rows, "history", None)
        if history is None:
            if self.num_experts == 1:
                return {CONTEXTS: torch.zeros(count, NUM_COORDINATES)}
            raise InputError(
                "the gate of adapter 'ilora' was fitted to histories, and these rows have none; "
                "give them a column 'history' (a list of items)"
            )
        return {CONTEXTS: self.items.encode(history)}

    @torch.no_grad()
    def begin(self, contexts: Tensor) -> None:
        """Set the mean of text features; histories without a known item stay at zero."""
        if not self.sees_history:
            self.mean.copy_(contexts.double().mean(0))

    def weights(self, contexts: Tensor) -> Tensor:
        """Return p [B, K] for contexts [B, k]; each row sums to 1."""
        weight = self.router.weight
        z = contexts.to(weight) - self.mean.to(weight)
        logits: Tensor = self.router(F.layer_norm(z, z.shape[-1:]))
        return logits.softmax(-1)

    def gated(self, h: Tensor) -> Tensor:
        """Return the outputs [B, …, r] of first factors, multiplied by each expert's gate."""
        gates = cast("Tensor", self._gates)
        expanded = gates.to(h.dtype).repeat_interleave(h.shape[-1] // self.num_experts, -1)
        return h * expanded.view(len(gates), *[1] * (h.ndim - 2), h.shape[-1])

    def constant(self) -> Tensor | None:
        """Return the gates [K] if they are the same for every example, else None."""
        if self._gates is not None and len(self._gates) == 1:
            return self._gates[0].detach()
        if self.num_experts > 1 and bool(self.router.weight.any()):
            return None
        return self.num_experts * self.router.bias.detach().softmax(-1)

    @contextmanager
    def applied(self, batch: Mapping[str, Tensor]) -> Iterator[None]:
        """Gate a pass by the contexts of its batch, [B, k].

        Without contexts, the pass uses the gates common to all examples.

        Raises:
            InputError: There are no contexts, and the gates differ between examples.
        """
        contexts = batch.get(CONTEXTS)
        gates = self._gates
        if contexts is not None:
            gates = self.num_experts * self.weights(contexts.to(self.mean.device))
        if gates is None and (same := self.constant()) is not None:
            gates = same[None]
        if gates is None:
            raise InputError("adapter 'ilora' needs a context for every example")
        with self._with_gates(gates):
            yield

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Set all gates to zero, so that no weight changes."""
        with self._with_gates(self.router.bias.new_zeros(1, self.num_experts)):
            yield

    @contextmanager
    def _with_gates(self, gates: Tensor) -> Iterator[None]:
        previous = self._gates
        self._gates = gates
        try:
            yield
        finally:
            self._gates = previous

    @torch.no_grad()
    def figures(self, columns: Mapping[str, Tensor]) -> dict[str, float]:
        """Return entropies of the gate over training rows in nats, and its largest mean weight.

        `gate_information` is the entropy of the mean weights minus the mean entropy per row: the
        mutual information of example and expert, at most log K, and 0 if the gate ignores the
        example.
        """
        p = self.weights(columns[CONTEXTS]).double()
        mean = p.mean(0)
        entropy = torch.special.entr(p).sum(-1).mean()
        marginal = torch.special.entr(mean).sum(-1)
        return {
            "gate_entropy": float(entropy),
            "gate_mean_entropy": float(marginal),
            "gate_information": max(0.0, float(marginal - entropy)),
            "gate_largest": float(mean.max()),
        }

    def optimizers(self) -> Sequence[Optimizer]:
        """Return the optimiser of the router."""
        group = {"params": list(self.parameters()), "name": "router"}
        rate = self._config.gate_lr_factor * self._config.learning_rate
        return [AdamW([group], lr=rate, weight_decay=ROUTER_DECAY)]

    def tensors(self) -> dict[str, Tensor]:
        """Return router, mean and items."""
        return {f"{_PREFIX}{name}": item for name, item in self.state_dict().items()}

    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Load what `tensors` returned."""
        self.load_state_dict(under(_PREFIX, stored))

    def resize(self, stored: Mapping[str, Tensor]) -> None:
        """Resize to the items and the context width of stored tensors."""
        router, keys = (stored.get(f"{_PREFIX}{name}") for name in ("router.weight", "items.keys"))
        if router is not None and router.ndim == 2 and router.shape[1] != self.mean.shape[0]:
            device = self.mean.device
            self._begin(router.shape[1])
            self.to(device)
        if keys is not None and keys.ndim == 1 and len(keys) != len(self.items.keys):
            self.items.resize(len(keys))
