"""Monte Carlo dropout: a network's own dropout, kept alive while it predicts.

Two kinds of module drop something: `nn.Dropout` and its relatives, and attention modules that hand
a probability to a fused kernel and look at their own `training` flag. Both are put in training mode
during a draw, and nothing else is: normalisation layers stay as they are.

Source: Gal and Ghahramani 2016, arXiv 1506.02142.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from bayeslora.errors import InputError
from bayeslora.random_state import restored_random_state

_DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
# Names under which attention modules keep the probability that they pass to a kernel.
_PROBABILITIES = ("dropout_prob", "dropout_p", "attention_dropout", "attn_dropout", "dropout")


class MCDropoutDraws(nn.Module):
    """A weight posterior whose draws are dropout masks.

    Attributes:
        live: Names of the modules that drop something, in the order of the network.
    """

    def __init__(self, module: nn.Module, among: Collection[str] | None = None) -> None:
        """Find the live dropouts.

        Args:
            module: The network.
            among: Names of the modules that count, such as those that run; None takes all.

        Raises:
            InputError: Nothing in the network drops anything.
        """
        super().__init__()
        found = {
            name: part
            for name, part in module.named_modules()
            if dropout_probability(part) > 0 and (among is None or name in among)
        }
        if not found:
            raise InputError(
                "no dropout is live in this network, so MC dropout would give one answer only; "
                "set a dropout probability > 0 on the adapter or the backbone"
            )
        self.live = tuple(found)
        # In a tuple, they are not parts of this module, which has no tensors of its own.
        self._dropping = tuple(found.values())

    @contextmanager
    def draw(self, generator: torch.Generator) -> Iterator[None]:
        """Keep dropout alive, with masks that follow from the generator's next number.

        The modes of all modules and torch's global random state are restored afterwards, also
        after an exception.
        """
        seed = int(torch.randint(2**62, (), generator=generator))
        modes = [module.training for module in self._dropping]
        try:
            with restored_random_state():
                torch.manual_seed(seed)
                for module in self._dropping:
                    # Not `train()`: children that drop nothing keep their mode.
                    module.training = True
                yield
        finally:
            for module, mode in zip(self._dropping, modes, strict=True):
                module.training = mode

    def report(self) -> dict[str, float | str]:
        """Return the names of the live dropouts."""
        return {"live_dropouts": ", ".join(self.live)}


def dropout_probability(module: nn.Module) -> float:
    """Return the probability with which a module itself drops something; 0 for most modules."""
    if isinstance(module, _DROPOUTS):
        return float(module.p)
    if "attention" not in type(module).__name__.lower():
        return 0.0
    for name in _PROBABILITIES:
        value = getattr(module, name, None)
        if isinstance(value, nn.Module):
            # The mode that counts is the owner's: fused kernels read `self.dropout.p` themselves.
            value = getattr(value, "p", 0.0)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
    return 0.0
