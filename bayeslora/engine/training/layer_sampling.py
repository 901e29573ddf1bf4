"""Layer sampling in a fit: parameter groups, Trainer callback and checks."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from bayeslora.adapters.base import Adapter, LayerSampling
from bayeslora.adapters.layer_sampling import ALWAYS, Group, LayerSampler
from bayeslora.adapters.targets import layer_index
from bayeslora.engine.build import reason_against_layers
from bayeslora.engine.network import Network
from bayeslora.engine.training_options import TrainingSettings
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
                "layer_sampling (--layer-sampling) out, which is for other adapters",
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


def layer_sampler(
    network: Network,
    adapter: Adapter,
    posterior: Posterior,
    settings: TrainingSettings,
    num_train: int,
    *,
    further: bool = False,
) -> LayerSampler | None:
    """Return the sampling policy for a network; None if all layers always train.

    Args:
        network: The network.
        adapter: Options of the adapter.
        posterior: Options of the posterior.
        settings: Epochs, batch size, seed, and the policy.
        num_train: Number of training rows.
        further: Whether the network was trained before, so that all layers may have been drawn.

    Raises:
        InputError: There are fewer layers than `num_active`, or their number is not that of the
            weights; or an adapter that the posterior needs trained would never train.
    """
    options = adapter.layer_sampling or settings.layer_sampling
    if options is None:
        return None
    groups = _groups(network, posterior)
    num_layers = sum(not group.always for group in groups)
    options.check_layers(num_layers)
    num_steps = settings.num_steps(num_train)
    sampler = LayerSampler(
        options, groups, options.interval_of(num_steps, num_layers), settings.seed
    )
    # Adapters that start from the weight itself have directions for the noise from the start.
    if posterior.not_idle and not adapter.from_weight and not further:
        _check_all_drawn(sampler, num_steps, posterior)
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


class LayerSwitches(TrainerCallback, ExportableState):
    """Applies the sampling policy before every optimiser step.

    The optimiser must hold all groups, as it does if it was built before training began.
    """

    def __init__(self, sampler: LayerSampler, network: Network | None = None) -> None:
        """Switch the groups of `sampler`; a bayeslora network records which layers trained."""
        self._sampler = sampler
        self._is_ours = network is not None
        self._full = None if network is None else network.full
        self._step = 0
        self._rates: list[tuple[dict[str, Any], float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check that parameters are whole, rates can rise, and a resumed run draws the same layers.

        Raises:
            InputError: Parameters are sharded; with a ramp, an optimiser group mixes layers with
                other parameters; or the layers drawn differ from those of the checkpoint.
        """
        kind = str(getattr(args.distributed_state, "distributed_type", "")).rsplit(".", 1)[-1]
        if kind in {"FSDP", "DEEPSPEED", "MEGATRON_LM"}:
            raise InputError(
                f"layer sampling needs unsharded parameters, but {kind} shards them; train on one "
                "device or with data parallelism"
            )
        if self._sampler.options.ramp:
            self._check_rising(kwargs["optimizer"])
        stored = (state.stateful_callbacks or {}).get(type(self).__name__)
        if state.global_step and isinstance(stored, dict) and "attributes" in stored:
            self._sampler.check_state(stored["attributes"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Switch layers to train or rest, before the first pass of an accumulation window."""
        active = self._sampler.before_step(state.global_step, kwargs["optimizer"])
        if active is not None and self._full is not None:
            self._full.changed |= {*active, ALWAYS} & self._full.groups.keys()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Lower the layers' learning rates while they rise after a draw."""
        factor = self._sampler.lr_factor(state.global_step)
        self._rates = [(group, group["lr"]) for group in self._rising(kwargs["optimizer"])]
        for group, rate in self._rates:
            group["lr"] = rate * factor

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Restore the schedule's learning rates."""
        for group, rate in self._rates:
            group["lr"] = rate
        self._step = state.global_step + 1

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Make every layer train again, as before the first step."""
        self._sampler.finish()

    def _rising(self, optimizer: Any) -> list[dict[str, Any]]:
        """Return the layers' groups: by name in our own fits, else groups of layers alone."""
        groups: list[dict[str, Any]] = optimizer.param_groups
        if self._is_ours:
            return [group for group in groups if group.get("name") in _RISING]
        layers = self._layers()
        return [group for group in groups if layers.issuperset(map(id, group["params"]))]

    def _layers(self) -> set[int]:
        return {id(item) for group in self._sampler.layers for item in group.params}

    def _check_rising(self, optimizer: Any) -> None:
        """Raise InputError if an optimiser group mixes layers with other parameters."""
        if self._is_ours:
            return
        rising = {id(item) for group in self._rising(optimizer) for item in group["params"]}
        parameters = {id(item) for group in optimizer.param_groups for item in group["params"]}
        if (self._layers() & parameters) - rising:
            raise InputError(
                f"ramp={self._sampler.options.ramp} raises the learning rate of the drawn layers, "
                "but groups of this optimiser mix layers with other parameters; give the Trainer "
                "an optimiser with separate groups for layers, or leave ramp out"
            )

    def state(self) -> dict[str, Any]:
        """Return the state for checkpoints, which is compared when training resumes."""
        return {"args": {}, "attributes": self._sampler.state_dict(self._step)}


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
