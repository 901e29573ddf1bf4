"""Sums over cells, such as the bins of a diagram, as one sparse product for all resamples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def cell_matrix(
    cell: NDArray[np.int64],
    row: NDArray[np.int64],
    value: NDArray[np.float64],
    shape: tuple[int, int],
) -> Any:
    """Return the sparse matrix whose product with counts [N, R] is the sums of cells [K, R].

    Args:
        cell: [M] the cell that an entry belongs to.
        row: [M] the row that it comes from.
        value: [M] what the row adds to the cell; entries of the same row and cell are added.
        shape: K and N.
    """
    return sparse.csr_array((value, (cell, row)), shape=shape)
