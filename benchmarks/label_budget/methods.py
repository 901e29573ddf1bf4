"""The methods that the study compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LONG_STEPS, LONG_BATCH = 5000, 4


@dataclass(frozen=True)
class Method:
    """An adapter with a posterior and a scheme for its labels.

    Attributes:
        adapter: Adapter specification.
        posterior: Posterior specification.
        scheme: `cv`, `folds`, `split`, `refit`, `long` (5,000 steps of 4 rows, nothing chosen), or
            `all`: nothing is held out.
        epochs: Number of epochs; None uses the default of `fit`.
        head_lr: Learning rate of the last layer; None uses the default of `fit`.
    """

    adapter: str
    posterior: str
    scheme: str = "all"
    epochs: int | None = None
    head_lr: float | None = None

    @property
    def is_split(self) -> bool:
        """Whether a fifth of the rows is held out."""
        return self.scheme in {"split", "refit"}

    def options(self, rows: int) -> dict[str, Any]:
        """Return the options of a fit to `rows` rows."""
        options: dict[str, Any] = {"cv": "auto" if self.scheme in {"cv", "folds"} else 0}
        if self.is_split:
            options = {"hold_out": 0.2, "refit": self.scheme == "refit"}
        elif self.scheme == "folds":
            options["keep_folds"] = True
        elif self.scheme == "long":
            options |= {"epochs": -(-LONG_STEPS * LONG_BATCH // rows), "batch_size": LONG_BATCH}
        own = {"epochs": self.epochs, "head_lr": self.head_lr}
        return options | {name: value for name, value in own.items() if value is not None}


MAIN = {
    "polar-vbll, cv": Method("polar", "vbll", "cv"),
    "lora-mle, cv": Method("lora", "mle", "cv"),
    "polar-mle, cv": Method("polar", "mle", "cv"),
    "lora-vbll, cv": Method("lora", "vbll", "cv"),
    "polar-vbll, split": Method("polar", "vbll", "split"),
    "polar-vbll, refit": Method("polar", "vbll", "refit"),
    "lora-temperature, split": Method("lora", "temperature", "split"),
    "lora-laplace": Method("lora", "laplace:prior_precision=marglik"),
    "last layer alone": Method("none", "vbll"),
    "polar-vbll, folds": Method("polar", "vbll", "folds"),
    "lora-mle, folds": Method("lora", "mle", "folds"),
}
"""Methods in the figure."""

_GRADIENT, _LOW_GRADIENT = "polar_gradient", "polar_gradient:lr=0.004"
METHODS = MAIN | {
    "polar-vbll, cv 0": Method("polar", "vbll"),
    "polar-vbll, cv 0, refitted means": Method("polar", "vbll:polish_mean=refit"),
    "last layer alone, cv": Method("none", "vbll", "cv"),
    "lora-ensemble": Method("lora", "ensemble:num_members=3"),
    "lora-dropout": Method("lora", "mc_dropout"),
    # The default until rule 11 was decided.
    "polar-vbll, 15 epochs, cv": Method("polar", "vbll", "cv", epochs=15),
    "polar-mle, 15 epochs, cv": Method("polar", "mle", "cv", epochs=15),
    "polar-vbll, 15 epochs, folds": Method("polar", "vbll", "folds", epochs=15),
    "polar-vbll, 5 epochs at 0.004, cv": Method("polar:lr=0.004", "vbll", "cv", epochs=5),
    "polar-vbll, 5 epochs, cv": Method("polar", "vbll", "cv", epochs=5),
    "polar-vbll, 15 epochs, gradient start, cv": Method(_GRADIENT, "vbll", "cv", epochs=15),
    "polar-vbll, 5 epochs at 0.004, gradient start, cv": Method(
        _LOW_GRADIENT, "vbll", "cv", epochs=5
    ),
    # VBLL's rate in fits of 128 rows or fewer, and that of MLE.
    "polar-mle, head rate 0.05, cv": Method("polar", "mle", "cv", head_lr=0.05),
    "lora-mle, head rate 0.05, cv": Method("lora", "mle", "cv", head_lr=0.05),
    "polar-mle, head rate 0.005, cv": Method("polar", "mle", "cv", head_lr=5e-3),
    "polar-vbll, head rate 0.02, cv": Method("polar", "vbll:head_lr=0.02", "cv"),
    "lora-mle, 5 epochs, cv": Method("lora", "mle", "cv", epochs=5),
    "lora-vbll, 5 epochs, cv": Method("lora", "vbll", "cv", epochs=5),
    "lora-laplace, 5 epochs": Method("lora", "laplace:prior_precision=marglik", epochs=5),
    "lora-mle, 15 epochs, cv": Method("lora", "mle", "cv", epochs=15),
    "lora-vbll, 15 epochs, cv": Method("lora", "vbll", "cv", epochs=15),
    "polar-swag at 0.004": Method("polar:lr=0.004", "swag"),
    "polar-swag": Method("polar", "swag"),
    "lora-swag": Method("lora", "swag"),
    "lora-laplace of the adapter": Method("lora", "laplace_lora"),
    "polar-vbll, long": Method("polar", "vbll", "long"),
    "lora-mle, long": Method("lora", "mle", "long"),
    "polar-mle, long": Method("polar", "mle", "long"),
    "lora-vbll, long": Method("lora", "vbll", "long"),
}
# Earlier fits: the factor also scaled deviations, and means were refitted after few steps.
BEFORE = ", before"
# Fits of `cv` without the factor chosen by held-out rows.
_WITHOUT_SCALE = tuple(name.removesuffix(", cv") for name in METHODS if name.endswith(", cv"))
ROWS = (
    *_WITHOUT_SCALE,
    *METHODS,
    *(f"{name}{BEFORE}" for name in (*_WITHOUT_SCALE, *METHODS) if "vbll" in name),
)
KEY = ("backbone", "task", "size", "method", "seed")
BACKBONES = ("smollm2-135m", "minilm")
OURS, LONG, FEWEST_TO_LEAD = "polar-vbll, cv", "polar-vbll, long", 128
