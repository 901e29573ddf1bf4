"""Monte Carlo dropout: a network's own dropout, kept alive while it predicts.

What drops something is found by running the network: `nn.Dropout` and its relatives, layers that
call the function themselves, and attention that hands a probability to a fused kernel. The modules
in whose `forward` that happens are put in training mode during a draw, and nothing else is:
normalisation layers stay as they are.

Source: Gal and Ghahramani 2016, arXiv 1506.02142.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.errors import InputError
from bayeslora.posteriors.types import Network, WeightPosterior
from bayeslora.runtime import restored_random_state

_DROPOUTS = frozenset(
    {
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "alpha_dropout",
        "feature_dropout",
        "feature_alpha_dropout",
    }
)
# Place of the probability among the arguments.
_ATTENTION = {"scaled_dot_product_attention": 4, "multi_head_attention_forward": 10}


class MCDropoutDraws(nn.Module):
    """A weight posterior whose draws are dropout masks.

    Attributes:
        live: Names of the modules that drop something, in the order of the network.
    """

    def __init__(
        self,
        module: nn.Module,
        run: Callable[[], object],
        among: Collection[str] | None = None,
    ) -> None:
        """Find the live dropouts.

        Args:
            module: The network.
            run: Runs it once.
            among: Names of the modules that count, such as those that run; None takes all.

        Raises:
            InputError: Nothing in the network drops anything.
        """
        super().__init__()
        rates = dropout_rates(module, run)
        counting = {
            name: part
            for name, part in module.named_modules()
            if name in rates and (among is None or name in among)
        }
        found = {name: part for name, part in counting.items() if rates[name] > 0}
        if not found:
            idle = f" (they run with 0: {', '.join(counting)})" if counting else ""
            raise InputError(
                "no dropout is live in this network, so MC dropout would give one answer only; "
                f"set a dropout probability > 0 on the adapter or the backbone{idle}",
                code="no-dropout",
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


def live_dropouts(network: Network) -> MCDropoutDraws:
    """Return draws from the dropouts that a pass after the cached lower layers runs.

    Raises:
        InputError: None of them drops anything.
    """
    encoder: Any = network.encoder
    try:
        return MCDropoutDraws(encoder.model, encoder.run_probe, encoder.running())
    except InputError:
        first = encoder.first_running_layer
        where = f"from layer {first} on, the first that runs then," if first else "of the backbone"
        raise InputError(
            "posterior 'mc_dropout' needs a dropout that is live at prediction: the adapter has "
            f"none, and no layer {where} has a dropout probability > 0; choose 'lora', or a "
            "backbone whose configuration has one (hidden_dropout_prob)",
            code="no-dropout",
        ) from None


def dropout_draws(network: Network, texts: PreparedTexts) -> WeightPosterior:
    """Return draws of a network's masks, located again if it was trained for another posterior.

    Args:
        network: Trained.
        texts: One of them is run.
    """
    if isinstance(network.weights, MCDropoutDraws):
        return network.weights
    module: Any = network
    return MCDropoutDraws(module, lambda: network(texts.collate([0])))


@torch.no_grad()
def dropout_rates(module: nn.Module, run: Callable[[], object]) -> dict[str, float]:
    """Return the names of the modules that drop something in training, with the probability.

    Modes, buffers and random numbers are afterwards as they were before.

    Args:
        module: The network.
        run: Runs it once.
    """
    modes = [(part, part.training) for part in module.modules()]
    # Normalisation layers keep count in training.
    buffers = [(item, item.clone()) for item in module.buffers()]
    names = {id(part): name for name, part in module.named_modules()}
    watch = _Watch()
    hooks = (
        register_module_forward_pre_hook(lambda part, _: watch.inside.append(id(part))),
        register_module_forward_hook(lambda *_: _discard(watch.inside.pop()), always_call=True),
    )
    try:
        module.train()
        with restored_random_state(), watch:
            run()
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in modes:
            part.training = mode
        for item, value in buffers:
            item.copy_(value)
    return {names[key]: rate for key, rate in watch.rates.items() if key in names}


def _discard(_: object) -> None:
    """Return nothing: what a forward hook returns takes the place of the output."""


class _Watch(TorchFunctionMode):
    """Notes, at every call of a dropout function, in whose `forward` it happens.

    Attributes:
        inside: Identities of the modules whose `forward` runs, the outermost first.
        rates: Probability of each module that dropped, by identity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[int] = []
        self.rates: dict[int, float] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        rate = _rate(getattr(func, "__name__", ""), args, kwargs or {})
        if rate is not None and self.inside:
            self.rates[self.inside[-1]] = max(rate, self.rates.get(self.inside[-1], 0.0))
        return func(*args, **(kwargs or {}))


def _rate(name: str, args: tuple[Any, ...], kwargs: Any) -> float | None:
    """Return the probability with which a function drops; None for others."""
    if name in _ATTENTION:
        place = _ATTENTION[name]
        rate = kwargs.get("dropout_p", args[place] if len(args) > place else 0.0)
        return float(rate) if kwargs.get("training", True) else 0.0
    if name.rstrip("_") not in _DROPOUTS:
        return None
    training = kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True))
    return float(kwargs.get("p", args[1] if len(args) > 1 else 0.5)) if training else 0.0
