"""The linear layers of an adapter whose weights are random."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from bayeslora.adapters.site import Site
from bayeslora.errors import InputError


@dataclass(frozen=True)
class RandomLayer:
    """A linear layer inside a site whose weight is random.

    Attributes:
        site: The site.
        key: What it calls the layer: `A`, `B`, `core` or `sel`.
    """

    site: Site
    key: str

    @property
    def name(self) -> str:
        """The site's dotted name and the layer's own."""
        return f"{self.site.name}.{self.key}"

    @property
    def layer(self) -> nn.Linear:
        """The layer."""
        return self.site.linears()[self.key]

    @property
    def origin(self) -> Tensor:
        """[out, in], what its prior is centred on; looked up, as a site may be loaded later."""
        return self.site.origin()[self.key]


def random_layers(site: Site) -> list[RandomLayer]:
    """Return the layers of a site whose weights are free: not on a manifold."""
    fixed = site.manifold()
    return [RandomLayer(site, key) for key in site.linears() if key not in fixed]


def check_texts_apart(name: str, states: Tensor, num_texts: int | None) -> None:
    """Raise InputError if a site is not told which of its inputs are of one text.

    Args:
        name: Of the site.
        states: [B, …, d] if it is told; some networks pass the tokens of all texts in one list.
        num_texts: B; None where it is not known.

    Raises:
        InputError: It is not.
    """
    if num_texts is not None and len(states) != num_texts:
        raise InputError(
            f"the posterior draws by text, and the adapter at {name} sees inputs of shape "
            f"{list(states.shape)}, which do not begin with the {num_texts} texts of the batch; "
            "choose other target_modules"
        )
