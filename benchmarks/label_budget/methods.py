"""The methods that the study compares, and which of them leads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Method:
    """An adapter with a posterior, and how it uses its labels.

    Attributes:
        adapter: Which adapter.
        posterior: Which posterior.
        scheme: `cv`, `folds`, `split`, `refit`, or `all`: nothing is held out.
        epochs: None takes those of `fit`.
    """

    adapter: str
    posterior: str
    scheme: str = "all"
    epochs: int | None = None

    @property
    def is_split(self) -> bool:
        """Whether a fifth of the rows is held out."""
        return self.scheme in {"split", "refit"}

    @property
    def options(self) -> dict[str, Any]:
        """Of `fit`."""
        length = {} if self.epochs is None else {"epochs": self.epochs}
        if self.is_split:
            return {"hold_out": 0.2, "refit": self.scheme == "refit", **length}
        if self.scheme == "folds":
            return {"cv": "auto", "keep_folds": True, **length}
        return {"cv": "auto" if self.scheme == "cv" else 0, **length}


METHODS = {
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
    "polar-vbll, 5 epochs, cv": Method("polar", "vbll", "cv", epochs=5),
    "polar-vbll, gradient start, cv": Method("polar:init=gradient", "vbll", "cv"),
    "polar-vbll, gradient start, 5 epochs, cv": Method(
        "polar:init=gradient", "vbll", "cv", epochs=5
    ),
}
# Deviations multiplied by the factor too, and means refitted where steps were few.
BEFORE = ", before"
# First the fits of `cv` without the factor that held-out rows chose.
ROWS = (
    *("polar-vbll", "lora-mle", "polar-mle", "lora-vbll"),
    *METHODS,
    *(f"{name}{BEFORE}" for name in ("polar-vbll", "lora-vbll", *METHODS) if "vbll" in name),
)
KEY = ("backbone", "task", "size", "method", "seed")
BACKBONES = ("smollm2-135m", "minilm")
OURS, FEWEST_TO_LEAD = "polar-vbll, cv", 128
