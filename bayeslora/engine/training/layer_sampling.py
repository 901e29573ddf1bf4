"""Layer sampling in a fit: parameter groups, hook of the steps, and checks."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from bayeslora.adapters.base import Adapter, LayerSampling, StepHook
from bayeslora.adapters.layer_sampling import ALWAYS, FullLayers, Group, LayerSampler
from bayeslora.adapters.targets import layer_index
from bayeslora.engine.build import reason_against_layers
from bayeslora.engine.network import Network
from bayeslora.engine.training.base import Training
from bayeslora.errors import InputError
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.registry import names_where

# Names of optimiser groups with layer parameters; the rates of the head and the rest do not rise.
_RISING = frozenset({"adapter", "factors", "posterior"})


def check_sampling(adapter: Adapter, posterior: Posterior, sampling: LayerSampling | None) -> None:
    """Raise InputError if layer sampling is impossible, before anything is loaded.

    Raises:
        InputError: The posterior does not support it, or layers would be sampled in two ways.
    """
    if adapter.layer_sampling is not None:
        if sampling is not None:
            raise InputError(
                f"adapter {adapter.name!r} samples layers by its own options; leave "
                "layer_sampling out, which is for other adapters",
                code="sampled-twice",
            )
        reason = reason_against_layers(posterior)
        if reason:
            raise InputError(
                f"posterior {posterior.name!r} cannot be combined with adapter {adapter.name!r}: "
                f"it {reason}; choose "
                f"{names_where(lambda config: not reason_against_layers(config()))}, or another "
                "adapter, optionally with layer_sampling",
                code="not-on-layers",
            )
        return
    reason = posterior.no_resting
    if sampling is not None and reason:
        raise InputError(
            f"posterior {posterior.name!r} cannot be combined with layer_sampling: it {reason}; "
            "choose another posterior or leave layer_sampling out",
            code="no-resting",
        )


def layer_sampler(fit: Training) -> LayerSampler | None:
    """Return the sampling policy of a training; None if all layers always train.

    Raises:
        InputError: There are fewer layers than `num_active`, or their number is not that of the
            weights; or an adapter that the posterior needs trained would never train.
    """
    adapter, posterior = fit.plan.adapter, fit.plan.posterior
    options = adapter.layer_sampling or fit.settings.layer_sampling
    if options is None:
        return None
    groups = _groups(fit.network, posterior)
    num_layers = sum(not group.always for group in groups)
    options.check_layers(num_layers)
    interval = options.interval_of(fit.num_steps, num_layers)
    sampler = LayerSampler(options, groups, interval, fit.plan.seed)
    # Adapters that start from the weight itself have directions for the noise from the start, and
    # a training that goes on may have drawn all layers before.
    goes_on = fit.rate < 1
    if posterior.not_idle and not adapter.from_weight and not goes_on:
        _check_all_drawn(sampler, fit.num_steps, posterior)
    return sampler


def _check_all_drawn(sampler: LayerSampler, num_steps: int, posterior: Posterior) -> None:
    record = sampler.record(num_steps)
    resting = [
        name for name, draws in zip(record["layers"], record["draws"], strict=True) if not draws
    ]
    if resting:
        raise InputError(
            f"posterior {posterior.name!r} {posterior.not_idle}, but with this layer_sampling "
            f"{', '.join(resting)} would never train in {num_steps} steps; use mode=cycle, a "
            "larger num_active, a shorter interval, or more epochs",
            code="never-trains",
        )


class LayerSwitches(StepHook):
    """Applies the sampling policy before every step.

    The optimiser must hold all groups, as it does if it was built before training began.
    """

    def __init__(self, sampler: LayerSampler, full: FullLayers | None) -> None:
        """Switch the groups of `sampler`; `full` records which layers trained."""
        self._sampler = sampler
        self._full = full

    def before_step(self, step: int, num_steps: int, optimizer: Optimizer) -> None:
        """Switch layers to train or rest; lower the learning rates that rise after a draw."""
        active = self._sampler.before_step(step, optimizer)
        if active is not None and self._full is not None:
            self._full.changed |= {*active, ALWAYS} & self._full.groups.keys()
        factor = self._sampler.lr_factor(step)
        for group in optimizer.param_groups:
            if group.get("name") in _RISING:
                group["lr"] *= factor

    def finish(self) -> None:
        """Make every layer train again, as before the first step."""
        self._sampler.finish()


def _groups(network: Network, posterior: Posterior) -> list[Group]:
    if network.full is not None:
        return [
            Group(name, tuple(items.values()), always=name == ALWAYS)
            for name, items in network.full.groups.items()
        ]
    members: dict[int, list[nn.Parameter]] = {}
    always: list[nn.Parameter] = []
    extras = posterior.site_parameters(network)
    for site, extra in zip(network.sites, extras, strict=True):
        number = layer_index(site.name)
        parameters = always if number is None else members.setdefault(number, [])
        parameters += [*site.trainable().values(), *extra]
    # S²FT may choose no columns of a layer: drawing it alone would leave nothing to train.
    layers = [
        Group(f"layer {number}", tuple(items)) for number, items in sorted(members.items()) if items
    ]
    return [*layers, *([Group(ALWAYS, tuple(always), always=True)] if always else [])]
