"""Items as vectors, by which of them occur together in histories.

    S_ij = C_ij / √((n_i + 5)(n_j + 5)) ,   S_ii = 0 ,   S ≈ U diag(λ) Uᵀ ,   v_i = u_i ∘ √|λ|

n_i is in how many histories of the training rows item i occurs, and C_ij in how many both do; the
64 eigenvectors of largest |λ| are taken. A history is the mean of the vectors of its items, where
those that were never seen count as zero. Labels play no part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

NUM_COORDINATES = 64
# Histories that an item is shrunk by, as it takes a few to tell what goes with it.
_SHRINK = 5.0
# Up to so many items, all eigenvectors are a matter of seconds.
_DENSE = 2000


class ItemVectors(nn.Module):
    """A vector for each item that occurs in the histories of the training rows.

    Attributes:
        keys: [M] int64, sorted: hashes of the items' names, which a file need not hold then.
        vectors: [M, 64] float32.
    """

    keys: Tensor
    vectors: Tensor

    def __init__(self) -> None:
        """Begin without items."""
        super().__init__()
        self.resize(0)

    def resize(self, count: int) -> None:
        """Make room for so many items."""
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
        places = {key: place for place, key in enumerate(self.keys.tolist())}
        vectors = self.vectors.double().cpu()
        result = torch.zeros(len(histories), NUM_COORDINATES)
        for row, history in enumerate(histories):
            known = [places[key] for key in map(item_key, history) if key in places]
            if known:
                result[row] = vectors[known].sum(0) / len(history)
        return result


def item_key(name: str) -> int:
    """Return 64 bits that stand for the name of an item."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def item_vectors(histories: Sequence[Sequence[str]], names: Sequence[str]) -> NDArray[np.float64]:
    """Return the vectors [M, 64] of M items; columns beyond M are zero.

    The largest entry of each column is positive, so that the signs that a decomposition happens to
    give do not matter.

    Args:
        histories: Lists of items.
        names: Every item that occurs in them, once.
    """
    from scipy import sparse

    places = {name: place for place, name in enumerate(names)}
    each = [sorted({places[name] for name in history}) for history in histories]
    columns = np.fromiter(chain.from_iterable(each), dtype=np.int64)
    rows = np.repeat(np.arange(len(each)), [len(items) for items in each])
    seen = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(each), len(names)))
    root = sparse.diags_array(1 / np.sqrt(np.asarray(seen.sum(0)).ravel() + _SHRINK))
    similarity = root @ (seen.T @ seen) @ root
    similarity = sparse.csr_matrix(similarity - sparse.diags_array(similarity.diagonal()))
    values, vectors = _largest(similarity, min(NUM_COORDINATES, len(names)))
    largest = vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]
    found = vectors * np.sqrt(np.abs(values)) * np.where(largest < 0, -1.0, 1.0)
    result = np.zeros((len(names), NUM_COORDINATES))
    result[:, : found.shape[1]] = found
    return result


def _largest(matrix: csr_matrix, count: int) -> tuple[NDArray[np.float64], ...]:
    """Return the eigenvalues of largest magnitude of a symmetric matrix, and their vectors."""
    from scipy.sparse.linalg import eigsh

    size = matrix.shape[0]
    if size <= _DENSE:
        values, vectors = np.linalg.eigh(matrix.toarray())
    else:
        # A start of its own choice would be another one each time.
        values, vectors = eigsh(matrix, k=count, which="LM", v0=np.ones(size))
    order = np.argsort(-np.abs(values), kind="stable")[:count]
    return values[order], vectors[:, order]
