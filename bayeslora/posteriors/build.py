"""From a configuration to the last layer that it describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayeslora.errors import InputError
from bayeslora.posteriors.config import MAP, VBLL, Laplace, PosteriorConfig, TemperatureScaling
from bayeslora.posteriors.laplace import LaplaceHead
from bayeslora.posteriors.point import PointHead
from bayeslora.posteriors.tempered import TemperedHead
from bayeslora.posteriors.vbll import VBLLHead

Head = PointHead | VBLLHead | LaplaceHead


def build(
    config: PosteriorConfig,
    num_features: int,
    num_classes: int,
    *,
    mean_sq_norm: float = 1.0,
    seed: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> Head:
    """Return the head of a configuration: an `nn.Module` that satisfies `LastLayer`.

    MC dropout and ensembles are random in other weights: their head is a plain MLE head.

    Args:
        config: Which posterior, with its options.
        num_features: d, the constant column included where there is one.
        num_classes: C.
        mean_sq_norm: Mean ‖φ‖² of the training features when training starts.
        seed: Of the draws that a sampled bound takes.
        extra: `extra_config()` of a fitted head, to load its state into the new one.

    Raises:
        InputError: `extra` is not what `extra_config()` of such a head returns.
    """
    head: Head
    if isinstance(config, VBLL):
        head = VBLLHead(config, num_features, num_classes, mean_sq_norm=mean_sq_norm, seed=seed)
    elif isinstance(config, Laplace):
        head = LaplaceHead(config, num_features, num_classes, mean_sq_norm=mean_sq_norm)
    elif isinstance(config, TemperatureScaling):
        head = TemperedHead(num_features, num_classes)
    else:
        scale = config.prior_scale if isinstance(config, MAP) else None
        head = PointHead(num_features, num_classes, prior_scale=scale, mean_sq_norm=mean_sq_norm)
    try:
        head.prepare(extra or {})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the record of a fitted {config.name} head is damaged: {error}") from None
    return head
