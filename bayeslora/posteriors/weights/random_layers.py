"""Linear layers of an adapter with random weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from bayeslora.adapters.site import Site
from bayeslora.errors import InputError


@dataclass(frozen=True)
class RandomLayer:
    """A linear layer with a random weight inside a site.

    Attributes:
        site: The site.
        key: The site's name of the layer: `A`, `B`, `core` or `sel`.
    """

    site: Site
    key: str

    @property
    def name(self) -> str:
        """The dotted name of the site and the key of the layer."""
        return f"{self.site.name}.{self.key}"

    @property
    def layer(self) -> nn.Linear:
        """The layer."""
        return self.site.linears()[self.key]

    @property
    def origin(self) -> Tensor:
        """[out, in], mean of the prior; not cached, as a site may be loaded later."""
        return self.site.origin()[self.key]


def random_layers(site: Site) -> list[RandomLayer]:
    """Return the layers of a site with free weights, not on a manifold."""
    fixed = site.manifold()
    return [RandomLayer(site, key) for key in site.linears() if key not in fixed]


def check_texts_apart(name: str, states: Tensor, num_texts: int | None) -> None:
    """Raise InputError if the inputs of a site are not separated by text.

    Args:
        name: Name of the site.
        states: [B, …, d] if separated; some networks pass the tokens of all texts in one list.
        num_texts: B; None if unknown.

    Raises:
        InputError: The inputs are not separated by text.
    """
    if num_texts is not None and len(states) != num_texts:
        raise InputError(
            f"the posterior draws weights per text, but the adapter at {name} has inputs of shape "
            f"{list(states.shape)}, which does not start with the {num_texts} texts of the batch; "
            "choose other target_modules"
        )
