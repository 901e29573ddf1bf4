"""Options of Monte Carlo dropout.

    p(y | x) = (1/S) Σ_s softmax(z(x; ε_s)) ,   ε_s the dropout mask of pass s

Source: Gal and Ghahramani 2016, arXiv 1506.02142.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from bayeslora.adapters.base import Adapter
from bayeslora.errors import InputError
from bayeslora.option_checks import Draws, Share
from bayeslora.posteriors.base import Posterior

if TYPE_CHECKING:
    from bayeslora.backbones.encoder import PreparedTexts
    from bayeslora.posteriors.types import Network, WeightPosterior


@dataclass(frozen=True)
class MCDropout(Posterior):
    """Monte Carlo dropout: the network's own dropout stays on in prediction."""

    p: Annotated[
        Share,
        "Dropout probability on the input of LoRA; other adapters have no dropout, and the "
        "backbone's dropout keeps its own probability.",
    ] = 0.1
    num_samples: Annotated[Draws, "Number of passes through the network."] = 10

    name: ClassVar[str] = "mc_dropout"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.mc_dropout.posterior:MCDropoutDraws.of"
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "dropout kept active at prediction, several passes"
    use: ClassVar[str] = "A model trained with dropout, and time for several passes per prediction."
    source: ClassVar[str] = "Gal and Ghahramani 2016, arXiv 1506.02142"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "none"
    from_start: ClassVar[str] = (
        "runs a network that was trained with dropout, and is not fitted to rows"
    )
    not_on_layers: ClassVar[str] = ""

    def adapter_for(self, adapter: Adapter) -> Adapter:
        """Return the adapter with dropout, if it supports one.

        Raises:
            InputError: A probability is set for an adapter without dropout, or with another one.
        """
        if adapter.has_dropout:
            options: Any = adapter
            if options.dropout not in (0.0, self.p):
                raise InputError(
                    f"dropout={options.dropout:g} of adapter {adapter.name!r} and p={self.p:g} of "
                    f"posterior {self.name!r} set the same probability; leave dropout out, or set "
                    "both to the same value",
                    code="clash",
                )
            with_dropout: Adapter = replace(options, dropout=self.p)
            return with_dropout
        if self.p != type(self).p:
            raise InputError(
                f"p={self.p:g} of posterior {self.name!r} sets the dropout of adapter 'lora', but "
                f"adapter {adapter.name!r} has no dropout; leave p out to sample the backbone's "
                "dropout, or choose 'lora'",
                code="no-dropout",
            )
        return adapter

    def draws(self, network: Network, texts: PreparedTexts) -> WeightPosterior:
        """Return draws of masks, also for a network that was trained for another posterior."""
        from bayeslora.posteriors.weights.mc_dropout.posterior import dropout_draws

        return dropout_draws(network, texts)
