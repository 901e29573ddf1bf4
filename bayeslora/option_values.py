"""Names that options of several rooms accept; free of torch, for configurations and arguments."""

from __future__ import annotations

from collections.abc import Mapping

DTYPES = ("auto", "float32", "bfloat16")
"""What the frozen weights can be asked to be."""
LINKS = ("mc", "probit", "bridge")
"""From logits to probabilities."""
MAX_LENGTH = 128
"""Tokens kept of a text where nothing else is asked for."""
STRUCTURES = ("diag", "full", "kron")
"""Of the curvature in a Laplace approximation."""

OnlyWith = Mapping[str, tuple[tuple[str, object], ...]]
"""Options that have no effect without another: by name, pairs of the other's name and value."""
