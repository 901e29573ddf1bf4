"""Standard scores as netcal and torchmetrics compute them, called in the forms that are safe.

netcal takes confidence and correctness in float64, never labels beside a matrix, whose meaning it
would guess. torchmetrics takes values between 0 and 1 for probabilities and anything else for
logits, so uncertainties reach it as tied ranks. The package's own sums, which the bootstrap needs
as functions of row counts, are equal to both within rounding, and tests hold them to it. Printed
areas come from here; printed calibration errors do not, since netcal is slow to import.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.top_label import TopLabel


def calibration_errors(rows: TopLabel, num_bins: int) -> tuple[float, float]:
    """Return (ECE, MCE) over equal-width, left-closed bins, by netcal.

    Args:
        rows: Confidence and correctness of N rows.
        num_bins: Number of bins.
    """
    from netcal.metrics import ECE, MCE

    pair = (rows.confidence.astype(np.float64), rows.correct.astype(np.int64))
    return float(ECE(bins=num_bins).measure(*pair)), float(MCE(bins=num_bins).measure(*pair))


def detection_areas(
    uncertainty_in: NDArray[np.float64], uncertainty_out: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Return AUROC and AUPR of OOD rows, and AUPR of the other direction, by torchmetrics.

    Args:
        uncertainty_in: [N_in] of in-distribution rows, finite.
        uncertainty_out: [N_out] of OOD rows, finite.
    """
    import torch
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    both = np.concatenate([uncertainty_in, uncertainty_out])
    distinct, places = np.unique(both, return_inverse=True)
    ranks = torch.from_numpy(places.reshape(-1) / max(1, len(distinct) - 1))
    is_out = torch.zeros(len(both), dtype=torch.long)
    is_out[len(uncertainty_in) :] = 1
    # Seven digits are what single precision holds: a perfect 1 comes back as 0.99999994.
    areas = (
        binary_auroc(ranks, is_out),
        binary_average_precision(ranks, is_out),
        binary_average_precision(1 - ranks, 1 - is_out),
    )
    auroc, aupr, aupr_in = (round(float(area), 7) for area in areas)
    return auroc, aupr, aupr_in
