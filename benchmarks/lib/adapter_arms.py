"""Arms of the training benchmarks: adapters with their learning rates.

An arm is an adapter with its learning rates, or another way to train some parameters of a language
model. Initialisations computed from the weights are cached, since they depend neither on the seed
nor on the rate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.inject import adapter_state, inject, load_adapter_state
from bayeslora.adapters.layer_sampling import ALWAYS, Group, LayerSampler
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.optimizers import build_optimizer
from bayeslora.adapters.pissa import PiSSA
from bayeslora.adapters.polar import PoLAR
from bayeslora.adapters.site import Site
from bayeslora.adapters.stats import SecondMoment, second_moments
from bayeslora.adapters.targets import find_targets
from bayeslora.contrib.corda import CorDA
from bayeslora.contrib.lisa import LISA
from bayeslora.contrib.s2ft import S2FT
from bayeslora.io.files import atomic_file
from benchmarks.lib.causal_lm import BLOCK, GENERIC, TARGET, Texts, next_token_loss, open_model

RANK = 16
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_EVERYWHERE: dict[str, Any] = {"r": RANK, "target_modules": LINEARS, "num_layers": None}
_CONTEXT_BATCH = 8


@dataclass(frozen=True)
class Setting:
    """Settings shared by all runs.

    Attributes:
        source: Directory of the language model.
        texts: Texts to learn and texts to remember.
        starts: Cache directory for initialisations.
    """

    source: Path
    texts: Texts
    starts: Path


@dataclass
class Trainee:
    """A model ready to be trained.

    Attributes:
        model: The language model.
        optimizer: Optimiser of the trained parameters.
        sites: Adapters of the model; empty if its own weights are trained.
        before_step: Called with the step number before each step.
        beside: Bytes of weights stored in addition to the model's own, trained or not.
    """

    model: nn.Module
    optimizer: Optimizer
    sites: list[Any] = field(default_factory=list)
    before_step: Callable[[int], object] = lambda _: None
    beside: int = 0


Begin = Callable[[Setting, "Arm", float, int], Trainee]
"""Creates the trainee from setting, arm, learning rate and seed."""


def adapted(setting: Setting, arm: Arm, lr: float, seed: int) -> Trainee:
    """Return the model with the arm's adapter."""
    config = _configured(arm, lr)
    model = open_model(setting.source)
    stored = isinstance(config, PiSSA | CorDA)
    sites = inject(model, config, seed, blank=stored)
    if stored:
        load_adapter_state(sites, start_of(setting, arm))
    beside = sum(item.nbytes for site in sites for item in site.tensors().values())
    return Trainee(model, build_optimizer(sites, [], config, lr), list(sites), beside=beside)


def whole(setting: Setting, _arm: Arm, lr: float, _seed: int) -> Trainee:
    """Return the model with all parameters trainable."""
    model = open_model(setting.source).requires_grad_(True)
    return Trainee(model, AdamW(model.parameters(), lr=lr, weight_decay=0.0))


def sampled(
    setting: Setting,
    _arm: Arm,
    lr: float,
    seed: int,
    *,
    lowest: bool = False,
    train_embedding: bool = False,
) -> Trainee:
    """Return the model with two trainable layers, and optionally a trainable embedding.

    The layers are resampled before every step, or are the lowest two, which keep the most
    activations.
    """
    model = open_model(setting.source)
    options = LISA(num_layers=None, interval=1, train_embedding=train_embedding)
    if lowest:
        num_layers = model.config.num_hidden_layers  # type: ignore[union-attr]
        options = replace(options, mode="weighted", weights=(1, 1, *[0] * (num_layers - 2)))  # type: ignore[operator]
    layers = options.full_layers(model, lambda: ("model.norm",))
    # The output layer shares the embedding, which may have been replaced.
    model.tie_weights()  # type: ignore[operator]
    groups = [
        Group(name, tuple(items.values()), name == ALWAYS) for name, items in layers.groups.items()
    ]
    parameters = [item for group in groups for item in group.params]
    optimizer = AdamW(parameters, lr=lr, weight_decay=0.0)
    policy = LayerSampler(options, groups, 1, seed)
    return Trainee(
        model,
        optimizer,
        before_step=lambda step: policy.before_step(step, optimizer),
        # Original weights of the trainable parameters, which belong to the shared backbone.
        beside=sum(item.nbytes for item in parameters),
    )


@dataclass(frozen=True)
class Arm:
    """One way to train the model.

    Attributes:
        adapter: Options without the learning rate; None without an adapter.
        rates: Learning rates in ascending order.
        context: Name of the context text for the initialisation; empty if it needs none.
        begin: Creates the trainee.
    """

    adapter: Adapter | None
    rates: tuple[float, ...]
    context: str = ""
    begin: Begin = adapted


# A common grid, so that arms can be compared at every rate. LoRA, which starts at zero, and
# CorDA-KPM, which starts at the smallest components, prefer larger rates and have one more.
_RATES = (1e-4, 3e-4, 1e-3, 3e-3)

ARMS: dict[str, Arm] = {
    "lora": Arm(LoRA(alpha=RANK, **_EVERYWHERE), (*_RATES, 1e-2)),
    "pissa": Arm(PiSSA(**_EVERYWHERE), _RATES),
    "corda-ipm": Arm(CorDA(**_EVERYWHERE), _RATES, TARGET),
    # The options require a context, but the context of the arm is used.
    "corda-kpm": Arm(CorDA(mode="kpm", context=("kept",), **_EVERYWHERE), (*_RATES, 1e-2), GENERIC),
    "polar": Arm(PoLAR(alpha=32, **_EVERYWHERE), (1e-3, 4e-3, 1e-2)),
    # The same number of trained parameters as LoRA.
    "s2ft": Arm(S2FT(o_ratio=0.16, d_ratio=0.124, num_layers=None), (2e-4, 1e-3, 3e-3, 1e-2)),
    "lisa": Arm(None, (1e-4, 3e-4, 1e-3, 3e-3), begin=sampled),
}
"""Arms of `adapter_speed`."""

LISA_ARM = "lisa"
LOWEST = "lisa, lowest layers"
PUBLISHED = "lisa, lowest layers and embedding"
MEMORY_ARMS: dict[str, Arm] = {
    "full fine-tuning": Arm(None, (1e-5,), begin=whole),
    **{name: replace(ARMS[name], rates=(1e-3,)) for name in ("lora", "pissa", "polar", "s2ft")},
    LISA_ARM: replace(ARMS["lisa"], rates=(1e-4,)),
    LOWEST: Arm(None, (1e-4,), begin=partial(sampled, lowest=True)),
    PUBLISHED: Arm(None, (1e-4,), begin=partial(sampled, lowest=True, train_embedding=True)),
}
"""Arms of `adapter_memory`."""


@dataclass(frozen=True)
class ContextRows:
    """Known second moments, as `bayeslora.adapters.base.TrainingRows`."""

    model: nn.Module
    sites: Sequence[Site]
    known: Mapping[str, SecondMoment]

    def moments(self, count: int, texts: Sequence[str] | None = None) -> Mapping[str, SecondMoment]:
        """Return the known second moments."""
        return self.known

    def backward(self, count: int) -> None:
        """Raise, as an arm has no rows with labels."""
        raise NotImplementedError


def start_of(setting: Setting, arm: Arm) -> dict[str, Tensor]:
    """Return the initial tensors of an adapter that starts from the weights, cached on disk."""
    context = setting.texts.contexts[arm.context] if arm.context else None
    identity = [str(arm.adapter), str(setting.source.resolve()), BLOCK]
    digest = hashlib.sha256(repr(identity).encode())
    if context is not None:
        digest.update(context.numpy().tobytes())
    file = setting.starts / f"{digest.hexdigest()[:24]}.safetensors"
    if not file.is_file():
        model = open_model(setting.source)
        config = _configured(arm, 1.0)
        moments = {} if context is None else moments_of(model, config, context)
        sites = inject(model, config, 0)
        if config.starts_from_rows:
            config.begin(ContextRows(model, sites, moments))
        tensors = adapter_state(sites)
        with atomic_file(file) as temporary:
            save_file(tensors, str(temporary))
    return load_file(file)


def _configured(arm: Arm, lr: float) -> Adapter:
    if arm.adapter is None:
        raise ValueError("this arm has no adapter, and needs a `begin` of its own")
    return replace(arm.adapter, lr=lr)


def moments_of(model: nn.Module, config: Adapter, blocks: Tensor) -> Mapping[str, SecondMoment]:
    """Return the second moments of the inputs to all target layers of an adapter, on blocks."""
    layers = {
        name: model.get_submodule(name)
        for name in find_targets(model, config.target_modules, config.top_layers)
    }
    batches = (
        {"input_ids": part, "attention_mask": torch.ones_like(part)}
        for part in blocks.split(_CONTEXT_BATCH)
    )
    return second_moments(partial(_forward, model), layers, batches)


def _forward(model: nn.Module, batch: Mapping[str, Tensor]) -> object:
    return next_token_loss(model, batch["input_ids"])
