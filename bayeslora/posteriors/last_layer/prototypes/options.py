"""Options of prototypes, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, cast

from bayeslora.option_checks import Positive
from bayeslora.posteriors.base import Posterior

if TYPE_CHECKING:
    from bayeslora.posteriors.last_layer.prototypes.head import PrototypeHead
    from bayeslora.posteriors.types import FinalFit


@dataclass(frozen=True)
class Prototypes(Posterior):
    """A point estimate for classes with few rows: logits are cosines with the mean of each class.

    G-VBLL is its Bayesian counterpart: means are random there, and distances are those of a
    Gaussian.
    """

    scale: Annotated[
        Positive | None,
        "Factor on the cosines. None means the factor that the adapter was tuned with (as with "
        "`amt`), else one chosen on validation rows, or by leave-one-out if there are none.",
    ] = None

    name: ClassVar[str] = "prototypes"
    head: ClassVar[str] = "bayeslora.posteriors.last_layer.prototypes.head:PrototypeHead"
    per_class: ClassVar[str] = "uses the mean feature of each class"
    summary: ClassVar[str] = "point estimate, cosine with the mean feature of each class"
    use: ClassVar[str] = "Few examples per class, or classes not seen in training."
    source: ClassVar[str] = "Snell, Swersky and Zemel 2017, arXiv 1703.05175"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "none"
    moves_mean: ClassVar[bool] = True

    def before_last_layer(self, fit: FinalFit) -> bool:
        """Take over the scale of an adapter that was tuned with one."""
        if self.scale is None:
            cast("PrototypeHead", fit.network.head).take_scale(fit.network.sites)
        return False
