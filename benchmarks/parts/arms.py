"""The fits that the study compares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bayeslora import MLE, VBLL, LoRA, PoLAR
from benchmarks.parts.adapters import LoRAVariant, PoLARVariant
from benchmarks.parts.heads import VBLLVariant

SOUP_SIZE = 3


@dataclass(frozen=True)
class Arm:
    """An adapter with a posterior.

    Attributes:
        adapter: Options of the adapter.
        posterior: Options of the posterior.
        words: Description in the table.
        is_rival: Whether it is no PoLAR-VBLL.
        first_epoch: Whether an epoch of LoRA comes first, and its changes are the start.
    """

    adapter: Any = field(default_factory=PoLAR)
    posterior: Any = field(default_factory=VBLL)
    words: str = ""
    is_rival: bool = False
    first_epoch: bool = False


DEFAULT = "default"
ARMS = {
    DEFAULT: Arm(words="PoLAR-VBLL as it is"),
    "S at five times the rate": Arm(posterior=VBLLVariant(deviations="fast")),
    "S by running sums": Arm(posterior=VBLLVariant()),
    "S by running sums, training prior 1": Arm(posterior=VBLLVariant(training_prior_scale=1.0)),
    "means refitted": Arm(posterior=VBLL(polish_mean="refit")),
    "S by running sums, means refitted": Arm(posterior=VBLLVariant(polish_mean="refit")),
    "gradient start": Arm(PoLARVariant(start_from="gradient")),
    "EVA start": Arm(PoLARVariant(start_from="eva")),
    "an epoch of LoRA first": Arm(
        PoLARVariant(start_from="changes"),
        words="its change in PoLAR's form, then four epochs of PoLAR",
        first_epoch=True,
    ),
    "X and Y at a third of the rate": Arm(PoLARVariant(factor_rate=1 / 3)),
    "Θ at three times the rate": Arm(PoLARVariant(lr=0.03, factor_rate=1 / 3)),
    "spectral step on Θ": Arm(PoLARVariant(spectral=True)),
    "mean of the last epoch": Arm(PoLARVariant(average="epoch")),
    "exponential average": Arm(PoLARVariant(average="ema"), words="decay .95 a step"),
    "together": Arm(
        PoLARVariant(start_from="gradient", average="epoch"),
        VBLLVariant(),
        words="S by running sums, gradient start, mean of the last epoch",
    ),
    "PoLAR": Arm(posterior=MLE(), is_rival=True),
    "LoRA-VBLL": Arm(LoRA(), is_rival=True),
    "LoRA": Arm(LoRA(), MLE(), is_rival=True),
    "LoRA, mean of the last epoch": Arm(LoRAVariant(average="epoch"), MLE(), is_rival=True),
}
SOUP, SOUP_OF_MEANS, ENSEMBLE = "soup of 3", "soup of 3, means averaged", "ensemble of 3"
"""Three fits of PoLAR-VBLL: their mean change with refitted or mean means; their mean answer."""
