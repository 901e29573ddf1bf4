"""Item vectors from co-occurrence in histories.

    S_ij = C_ij / √((n_i + 5)(n_j + 5)) ,   S_ii = 0 ,   S ≈ U diag(λ) Uᵀ ,   v_i = u_i ∘ √|λ|

n_i is the number of training histories that contain item i, and C_ij the number that contain both
i and j; U holds the 64 eigenvectors of largest |λ|. A history is encoded as the mean of its items'
vectors, with zeros for unseen items. Labels are not used.
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
    values, vectors = _largest(similarity, min(NUM_COORDINATES, len(names)))
    largest = vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]
    scaled = vectors * np.sqrt(np.abs(values)) * np.where(largest < 0, -1.0, 1.0)
    result = np.zeros((len(names), NUM_COORDINATES))
    result[:, : scaled.shape[1]] = scaled
    return result


def _largest(matrix: csr_matrix, count: int) -> tuple[NDArray[np.float64], ...]:
    """Return the eigenvalues of largest magnitude of a symmetric matrix, and the eigenvectors."""
    from scipy.sparse.linalg import eigsh

    size = matrix.shape[0]
    if size <= _DENSE:
        values, vectors = np.linalg.eigh(matrix.toarray())
    else:
        # The default start vector is random.
        values, vectors = eigsh(matrix, k=count, which="LM", v0=np.ones(size))
    order = np.argsort(-np.abs(values), kind="stable")[:count]
    return values[order], vectors[:, order]
