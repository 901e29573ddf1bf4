"""An ensemble: several networks, trained from different seeds, that predict together.

    p(y | x) = (1/M) Σ_m p_m ,   p_m = softmax(z_m(x))
    epistemic uncertainty = H[p] − (1/M) Σ_m H[p_m]

Source: Lakshminarayanan, Pritzel and Blundell 2017, arXiv 1612.01474.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from bayeslora.option_checks import Range
from bayeslora.posteriors.base import Posterior


@dataclass(frozen=True)
class Ensemble(Posterior):
    """Several adapters and heads, trained from different seeds on one frozen backbone."""

    num_members: Annotated[int, Range(1, 1000), "Number of networks, each with its own fit."] = 3

    name: ClassVar[str] = "ensemble"
    summary: ClassVar[str] = "independently trained adapters, averaged"
    use: ClassVar[str] = "The best probabilities, if several fits and passes are affordable."
    source: ClassVar[str] = "Lakshminarayanan, Pritzel and Blundell 2017, arXiv 1612.01474"
    passes: ClassVar[str] = "num_members"
    parameters: ClassVar[str] = "an adapter and a last layer per member"
    from_start: ClassVar[str] = "consists of several trained networks"
    has_members: ClassVar[bool] = True
