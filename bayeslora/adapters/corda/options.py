"""CorDA: two free factors, initialised at context-weighted singular vectors of the weight.

    y = x W0ᵀ + b + s · x (B A − B_0 A_0)ᵀ ,   s = alpha / r

Source: Yang et al. 2024, arXiv 2406.05223; `start.py` has the formulas.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast

from bayeslora.adapters.base import LowRankAdapter, TrainingRows
from bayeslora.errors import InputError, located
from bayeslora.option_checks import Count, NotNegative, Positive, UpToOne

if TYPE_CHECKING:
    from bayeslora.adapters.low_rank import LowRank


@dataclass(frozen=True)
class CorDA(LowRankAdapter):
    """Two free factors that start at singular vectors chosen by the activations of a context.

    The context is run once before training, and the second moments of the layers' inputs on it
    are kept in the cache directory. Never take rows that the model will be judged by.
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
    parameters: ClassVar[str] = "r (in + out) per layer"
    default_lr: ClassVar[float] = 3e-3

    r: Annotated[Count, "Rank of the trained subspace; the change has rank 2r at most."] = 16
    alpha: float | None = None
    mode: Annotated[
        Literal["ipm", "kpm"],
        "`ipm` (instruction-previewed) trains the directions that matter most on the context, "
        "`kpm` (knowledge-preserved) those that matter least, so that knowledge of the context "
        "is preserved.",
    ] = "ipm"
    context: Annotated[
        str | tuple[str, ...] | None,
        "A data file with the same text column as the training data, or a list of texts. None "
        "means the training rows, for `ipm` only.",
    ] = None
    context_rows: Annotated[
        Count, "Maximum number of texts of the context that are run, evenly spread over it."
    ] = 1000
    power: Annotated[
        UpToOne,
        "Exponent of the second moment by which the weight is multiplied. 1 is CorDA, 0.5 the "
        "best approximation of the layer's outputs, 0 PiSSA; reports show it unless it is 1.",
    ] = 1.0
    damping: Annotated[
        Positive, "Added to the diagonal of the second moment, relative to its mean."
    ] = 0.01
    target_modules: tuple[str, ...] | None = None
    num_layers: int | Literal["auto"] | None = "auto"
    lr: Annotated[
        Positive | None, "Learning rate of AdamW on both factors; None means {default_lr}."
    ] = None
    weight_decay: Annotated[
        NotNegative, "Decoupled weight decay of both factors towards their initial values."
    ] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode == "kpm" and self.context is None:
            raise InputError(
                "mode 'kpm' preserves what a context needs, and no context is given; set "
                "context=FILE, or a list of texts in Python"
            )

    @property
    def files(self) -> tuple[str, ...]:
        """The file of the context, if it is a file."""
        return (self.context,) if isinstance(self.context, str) else ()

    @property
    def starts_from_rows(self) -> bool:
        """Always true: from the training rows or from a context."""
        return True

    @classmethod
    def table_name(cls, recorded: Mapping[str, Any]) -> str:
        """Return the adapter's name if `power` is 1, as published, else `context-svd-<power>`."""
        power = recorded.get("power", 1)
        return cls.name if power == 1 else f"context-svd-{power:g}"

    def with_texts(self, read: Callable[[str], Sequence[str]], held_out: Collection[str]) -> Self:
        """Return these options with a context file replaced by its texts.

        Raises:
            InputError: The file cannot be read, or the context holds texts of `held_out`.
        """
        if self.context is None:
            return self
        texts = read(self.context) if isinstance(self.context, str) else self.context
        shared = set(texts) & set(held_out)
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

    def begin(self, rows: TrainingRows) -> None:
        """Initialise every site from the second moment of its inputs on the context."""
        from bayeslora.adapters.corda.start import corda, warn_of_few

        context = self.context if isinstance(self.context, tuple) else None
        moments = rows.moments(self.context_rows, context)
        warn_of_few(moments)
        for site in rows.sites:
            with located(site.name):
                factors = corda(
                    site.weight,
                    moments[site.name],
                    self.r,
                    self.scale,
                    mode=self.mode,
                    power=self.power,
                    damping=self.damping,
                )
                cast("LowRank", site).begin(factors)
