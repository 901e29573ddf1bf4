"""Options of prototypes, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from bayeslora.errors import InputError
from bayeslora.option_checks import Positive
from bayeslora.posteriors.base import Posterior

if TYPE_CHECKING:
    from bayeslora.posteriors.types import LastLayer
    from bayeslora.posteriors.weights.training import FinalFit


@dataclass(frozen=True)
class Prototypes(Posterior):
    """A point estimate for classes with few rows: logits are cosines with the mean of each class.

    G-VBLL is its Bayesian twin: means are random there, and distances are those of a Gaussian.
    """

    scale: Annotated[
        Positive | None,
        "Factor on the cosines. None means the factor that the adapter was tuned with (as with "
        "`amt`), else one chosen on validation rows, or by leave-one-out if there are none.",
    ] = None

    name: ClassVar[str] = "prototypes"
    summary: ClassVar[str] = "point estimate, cosine with the mean feature of each class"
    use: ClassVar[str] = "Few examples per class, or classes not seen in training."
    source: ClassVar[str] = "Snell, Swersky and Zemel 2017, arXiv 1703.05175"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "none"
    moves_mean: ClassVar[bool] = True

    def make_shared_head(
        self, num_features: int, *, mean_sq_norm: float = 1.0, seed: int = 0
    ) -> LastLayer:
        """Raise InputError: options have no class means.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "posterior 'prototypes' uses the mean feature of each class, and the options of a "
            "question have no class; choose 'vbll', 'laplace' or 'nuts', or the format 'letters'",
            code="not-on-options",
        )

    def make_head(
        self, num_features: int, num_classes: int, *, mean_sq_norm: float = 1.0, seed: int = 0
    ) -> LastLayer:
        """Return an untrained last layer."""
        from bayeslora.posteriors.last_layer.prototypes.head import PrototypeHead

        return PrototypeHead(self, num_features, num_classes, mean_sq_norm=mean_sq_norm)

    def before_last_layer(self, fit: FinalFit) -> bool:
        """Take over the scale of an adapter that was tuned with one."""
        from bayeslora.posteriors.last_layer.prototypes.head import take_scale

        if self.scale is None:
            take_scale(fit.network)
        return False
