"""Monte Carlo dropout: a network's own dropout, kept active in prediction.

Running the network finds the active modules: `nn.Dropout` and its variants, layers that call the
dropout functions, and attention that passes a probability to a fused kernel. A draw switches only
the modules whose `forward` calls these to training mode, and not normalisation layers.

Source: Gal and Ghahramani 2016, arXiv 1506.02142.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from bayeslora.adapters.base import Adapter
from bayeslora.errors import InputError
from bayeslora.option_checks import Draws, Share
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.types import Network, WeightPosterior
from bayeslora.processes import restored_random_state


@dataclass(frozen=True)
class MCDropout(Posterior):
    """Monte Carlo dropout: the network's own dropout stays on in prediction.

        p(y | x) = (1/S) Σ_s softmax(z(x; ε_s)) ,   ε_s the dropout mask of pass s

    S is `num_samples`.
    """

    p: Share = 0.1
    """Dropout probability on the input of LoRA; other adapters have no dropout, and the backbone's
    dropout keeps its own probability."""
    num_samples: Draws = 10
    """Number of passes through the network."""

    name: ClassVar[str] = "mc_dropout"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.mc_dropout:MCDropoutDraws.of"
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "dropout kept active at prediction, several passes"
    use: ClassVar[str] = "A model trained with dropout, and time for several passes per prediction."
    source: ClassVar[str] = "Gal and Ghahramani 2016, arXiv 1506.02142"
    passes: ClassVar[str] = "num_samples"
    from_start: ClassVar[str] = (
        "runs a network that was trained with dropout, and is not fitted to rows"
    )

    @classmethod
    def needs_sites(cls) -> bool:
        """Return False: the backbone has dropout of its own."""
        return False

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


_DROPOUTS = re.compile(r"(dropout([123]d)?|alpha_dropout|feature_(alpha_)?dropout)_?")
# Position of the probability among the arguments.
_ATTENTION = {"scaled_dot_product_attention": 4, "multi_head_attention_forward": 10}


class MCDropoutDraws(WeightPosterior):
    """A weight posterior whose draws are dropout masks.

    Attributes:
        live: Names of the modules with active dropout, in the order of the network.
    """

    def __init__(
        self, module: nn.Module, run: Callable[[], object], among: Collection[str] | None = None
    ) -> None:
        """Find the live dropouts.

        Args:
            module: The network.
            run: Runs it once.
            among: Names of the modules to consider, such as those that run; None means all.

        Raises:
            InputError: No dropout in the network is active.
        """
        super().__init__()
        rates = dropout_rates(module, run)
        candidates = {
            name: part
            for name, part in module.named_modules()
            if name in rates and (among is None or name in among)
        }
        live = {name: part for name, part in candidates.items() if rates[name] > 0}
        if not live:
            idle = f" (it is 0 in {', '.join(candidates)})" if candidates else ""
            raise InputError(
                "posterior 'mc_dropout' needs active dropout at prediction, and no layer that runs "
                f"again in a prediction has a dropout probability > 0{idle}; choose 'lora', or a "
                "backbone whose configuration has dropout (hidden_dropout_prob)",
                code="no-dropout",
            )
        self.live = tuple(live)
        # A tuple, so that they are not submodules of this module, which has no tensors.
        self._dropping = tuple(live.values())

    @classmethod
    def of(cls, config: Any, network: Network, **_: Any) -> Self:
        """Return draws from the dropouts of a pass after the cached lower layers.

        Raises:
            InputError: None of them is active.
        """
        del config
        encoder: Any = network.encoder
        return cls(encoder.model, encoder.run_probe, encoder.running())

    @contextmanager
    def draw(self, generator: torch.Generator) -> Iterator[None]:
        """Activate dropout within the context, with masks seeded by the generator's next number.

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


@torch.no_grad()
def dropout_rates(module: nn.Module, run: Callable[[], object]) -> dict[str, float]:
    """Return the modules that apply dropout in training, as names with probabilities.

    Modes, buffers and random states are restored afterwards.

    Args:
        module: The network.
        run: Runs it once.
    """
    modes = [(part, part.training) for part in module.modules()]
    # Normalisation layers update their statistics in training.
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    names = {id(part): name for name, part in module.named_modules()}
    watch = _Watch()

    def leave(*_: object) -> None:
        watch.inside.pop()

    hooks = (
        register_module_forward_pre_hook(lambda part, _: watch.inside.append(id(part))),
        register_module_forward_hook(leave, always_call=True),
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
        for buffer, value in buffers:
            buffer.copy_(value)
    return {names[key]: rate for key, rate in watch.rates.items() if key in names}


class _Watch(TorchFunctionMode):
    """Records the module whose `forward` makes each call of a dropout function.

    Attributes:
        inside: Identities of the modules whose `forward` runs, outermost first.
        rates: Dropout probability of each module with such a call, by identity.
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
    """Return the probability of a dropout function; None for other functions."""
    if name in _ATTENTION:
        index = _ATTENTION[name]
        rate = kwargs.get("dropout_p", args[index] if len(args) > index else 0.0)
        return float(rate) if kwargs.get("training", True) else 0.0
    if not _DROPOUTS.fullmatch(name):
        return None
    training = kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True))
    return float(kwargs.get("p", args[1] if len(args) > 1 else 0.5)) if training else 0.0
