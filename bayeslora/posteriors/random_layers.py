"""Which linear layers of an adapter are random, and which structure their curvature can have."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from bayeslora.adapters.site import Site
from bayeslora.errors import InputError

logger = logging.getLogger(__name__)

MOST_FULL = 3000
"""Random weights of a `full` curvature: 72 MB, and half a minute of eigenvalues, at the most."""

# As for the covariances of VBLL.
_MOST_BYTES = 1 << 30


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
    """Complain where a site is not told which of its inputs are of one text.

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


def affordable_structure(structure: str, shapes: Sequence[tuple[int, int]]) -> str:
    """Return the structure, or `diag` where Kronecker factors would take too much.

    Raises:
        InputError: `full`, and too many weights for it.
    """
    total = sum(out * size for out, size in shapes)
    if structure == "full" and total > MOST_FULL:
        raise InputError(
            f"structure 'full' of posterior 'laplace_lora' is for at most {MOST_FULL} random "
            f"weights, and here are {total}; choose 'kron' or 'diag', or adapter 'polar', of which "
            "only the core is random"
        )
    num_bytes = 8 * sum(out**2 + size**2 for out, size in shapes)
    if structure == "kron" and num_bytes > _MOST_BYTES:
        logger.warning(
            "Kronecker factors of these adapters would take %.1f GiB; taking a diagonal curvature",
            num_bytes / 2**30,
        )
        return "diag"
    return structure
