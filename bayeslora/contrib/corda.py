"""CorDA: two free factors, initialised at context-weighted singular vectors of the weight.

    y = x W0ᵀ + b + s · x (B A − B_0 A_0)ᵀ ,   s = alpha / r
    W0 C̃ = U S Vᵀ ,   V̂ᵀ = Vᵀ C̃⁻¹   so that   U S V̂ᵀ = W0
    B_0 = U_r √(S_r / s) ,   A_0 = √(S_r / s) V̂_rᵀ

C̃ is the damped second moment of the layer's inputs on a context. The first r triples matter most
for the context (`ipm`, instruction-previewed: the context is the task), the last r least (`kpm`,
knowledge-preserved: the context is to be preserved).

C is first divided by the mean of its diagonal. The product of the factors does not depend on the
scale of C, but their balance and thus the training do; in public code that scale depends
accidentally on how activations are divided before they are summed.

Source: Yang, Li, Zhou, Song, Wu, Nie and Ghanem 2024, arXiv 2406.05223.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor

from bayeslora.adapters.base import Layers, LowRankAdapter
from bayeslora.adapters.low_rank import Factors, LowRank, balanced, check_rank
from bayeslora.contrib.moments import moments_on, spread
from bayeslora.data.columns import DataColumns
from bayeslora.data.read import read
from bayeslora.engine.data import TrainingData
from bayeslora.engine.progress import progress_bar
from bayeslora.engine.training import Training
from bayeslora.errors import InputError, located
from bayeslora.option_checks import Count, NotNegative, Positive, Text, Texts


@dataclass(frozen=True)
class CorDA(LowRankAdapter):
    """Two free factors that start at singular vectors chosen by the activations of a context.

    The context is run once before training. Never take rows that the model will be judged by.
    """

    name: ClassVar[str] = "corda"
    from_weight: ClassVar[bool] = True
    summary: ClassVar[str] = (
        "two free factors that start along directions chosen from sample activations"
    )
    use: ClassVar[str] = (
        "Adapting to one domain (`ipm`), or preserving what a context needs (`kpm`)."
    )
    source: ClassVar[str] = "Yang et al. 2024, arXiv 2406.05223"
    default_lr: ClassVar[float] = 3e-3

    r: Count = 16
    """Rank of the trained subspace; the change has rank 2r at most."""
    alpha: Positive | None = None
    mode: Literal["ipm", "kpm"] = "ipm"
    """`ipm` (instruction-previewed) trains the directions that matter most on the context, `kpm`
    (knowledge-preserved) those that matter least, so that knowledge of the context is preserved."""
    context: Text | Texts | None = None
    """A data file with the same text column as the training data, or a list of texts. None means
    the training rows, for `ipm` only."""
    context_rows: Count = 1000
    """Maximum number of texts of the context that are run, evenly spread over it."""
    target_modules: Texts | None = None
    num_layers: Layers = "auto"
    lr: Positive | None = None
    """Learning rate of AdamW on both factors; None means {default_lr}."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of both factors towards their initial values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode == "kpm" and self.context is None:
            raise InputError(
                "mode 'kpm' preserves what a context needs, and no context is given; set "
                "context=FILE, or a list of texts in Python"
            )

    @property
    def starts_from_rows(self) -> bool:
        """Always true: from the training rows or from a context."""
        return True

    def settled(self, data: TrainingData) -> Self:
        """Return these options with a context file replaced by its texts.

        Raises:
            InputError: The file cannot be read, or the context holds held-out texts.
        """
        if self.context is None:
            return self
        texts = self.context
        if isinstance(texts, str):
            texts = read(texts, DataColumns(data.columns.text, data.columns.label, None)).texts
        shared = set(texts) & set(() if data.held_out is None else data.held_out.texts)
        if shared:
            raise InputError(
                f"the context contains {len(shared)} of the validation texts, such as "
                f"{min(shared)[:40]!r}; validation rows must not influence the model: choose "
                "other texts"
            )
        return self._with(context=tuple(texts))

    def recorded(self) -> dict[str, Any]:
        """Return the options, with the context's texts replaced by their number and hash."""
        mapping = super().recorded()
        texts = mapping["context"]
        if isinstance(texts, list):
            digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
            mapping["context"] = f"{len(texts)} texts, sha256 {digest}"
        return mapping

    def begin(self, fit: Training) -> None:
        """Initialise every site from the second moment of its inputs on the context."""
        network, shown, texts = fit.network, fit.plan.progress, fit.train
        if isinstance(self.context, tuple):
            chosen = [self.context[row] for row in spread(len(self.context), self.context_rows)]
            with progress_bar("frozen layers", len(chosen), shown=shown, unit="text") as advance:
                texts = network.encoder.prepare(chosen, advance=advance)
        moments = moments_on(network, texts, self.context_rows, shown=shown)
        for site in network.sites:
            with located(site.name):
                factors = corda(site.weight, moments[site.name], self.r, self.scale, mode=self.mode)
                cast("LowRank", site).begin(factors)


_DAMPING = 0.01
"""λ, added to the diagonal of the second moment relative to its mean: the condition number of C̃ for
d inputs is at most d / λ + 1."""


def corda(weight: Tensor, moment: Tensor, r: int, scale: float, *, mode: str = "ipm") -> Factors:
    """Return centred factors whose product `s·B·A` is the context's part of a weight.

    Args:
        weight: [out, in], any floating dtype; the computation is in float64.
        moment: [in, in] float64, second moment of the layer's inputs on the context.
        r: Rank, at most min(out, in).
        scale: s > 0.
        mode: `ipm` takes the first r triples, `kpm` the last.

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    out_features, in_features = weight.shape
    check_rank(out_features, in_features, r)
    matrix = moment.to(weight.device)
    values, basis = torch.linalg.eigh(matrix / matrix.diagonal().mean())
    values = values.clamp_min(0) + _DAMPING
    product = (weight.detach().double() @ basis) * values @ basis.mT
    U, S, Vh = torch.linalg.svd(product, full_matrices=False)
    selected = slice(r) if mode == "ipm" else slice(len(S) - r, len(S))
    # In the eigenbasis of C̃ its inverse is a division; no inverse is formed.
    directions = (Vh[selected] @ basis) * values.reciprocal() @ basis.mT
    return balanced(U[:, selected], S[selected], directions, scale)
