"""S²FT's selection of columns: heads and channels, with one budget over all adapted layers.

    random       a uniform draw without replacement
    weight       ‖W[:, u]‖_F
    activation   (Σ_{c∈u} E x_c²)^½
    product      (Σ_{c∈u} E x_c² ‖W[:, c]‖²)^½
    gradient     ‖∂L/∂W[:, u]‖_F

u are the columns of one unit: the columns of a head in the attention's output projection, or the
column of a feed-forward channel. Queries, keys and values stay unchanged, so with grouped queries a
head is trained independently of its group.

Source: Yang et al. 2024, arXiv 2412.06289.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

from bayeslora.adapters.s2ft.columns import Columns, check_columns
from bayeslora.adapters.stats import SecondMoment
from bayeslora.adapters.targets import coupled_targets, find_targets, is_attention_output
from bayeslora.errors import InputError
from bayeslora.io.files import open_tensors

if TYPE_CHECKING:
    from bayeslora.adapters.s2ft.options import S2FT

Choice = dict[str, Tensor]
"""Columns, [k] int64, by name of the layer."""

ADAPTER_FILE = "adapter.safetensors"
"""Name of the file with the tensors of the sites in a model directory."""


@dataclass(frozen=True)
class Units:
    """How the columns of one layer are grouped.

    Attributes:
        name: Name of the layer.
        count: Number of heads or channels.
        width: Columns per unit, which are contiguous.
        ratio: Share of all such units to train.
    """

    name: str
    count: int
    width: int
    ratio: float

    def __len__(self) -> int:
        """Number of columns."""
        return self.count * self.width


def column_targets(model: nn.Module, config: S2FT) -> list[str]:
    """Return the names of the layers to select columns from, in module order.

    Raises:
        InputError: See `find_targets`; or all named layers have a ratio of 0.
    """
    patterns = config.target_modules
    if patterns is None:
        ratios = (config.o_ratio, config.d_ratio)
        pairs = zip(coupled_targets(model), ratios, strict=True)
        patterns = tuple(pattern for pattern, ratio in pairs if ratio)
    names = find_targets(model, patterns, config.top_layers)
    targets = [name for name in names if _ratio(name, config)]
    if not targets:
        kind = "o_ratio" if is_attention_output(names[0]) else "d_ratio"
        raise InputError(f"{kind} is 0, and target_modules match no other layers: {names}")
    return targets


def units_at(model: nn.Module, names: Sequence[str], config: S2FT) -> list[Units]:
    """Return the units of linear layers, or of sites, with these names.

    Raises:
        InputError: The heads of an attention's output projection cannot be separated.
    """
    return [_units(model, name, config) for name in names]


def choose_columns(
    units: Sequence[Units],
    hosts: Mapping[str, Tensor],
    config: S2FT,
    generator: Generator,
    moments: Mapping[str, SecondMoment] | None = None,
) -> Choice:
    """Return the columns to train of each layer, possibly none.

    Args:
        units: Units of each layer.
        hosts: Weights [out, in] by name of the layer.
        config: Options; any selection but `gradient`, which is of `begin_by_gradient`.
        generator: Source of randomness, on the CPU.
        moments: Second moments of the layers' inputs by name, for the selections `activation` and
            `product`.

    Raises:
        InputError: See `free_units`.
    """
    free = free_units(units, config)
    if config.selection == "random":
        draws = {unit.name: torch.rand(unit.count, generator=generator) for unit in units}
        return largest_units(units, draws, free=free)
    squares = {
        unit.name: _squares(unit.name, hosts[unit.name], config.selection, moments or {})
        for unit in units
    }
    return largest_units(units, _scores(units, squares), largest=config.largest, free=free)


def begin_by_gradient(
    sites: Sequence[Columns],
    units: Sequence[Units],
    backward: Callable[[], object],
    *,
    largest: bool = True,
    free: Mapping[str, Tensor] | None = None,
) -> None:
    """Select the units whose columns have the largest loss gradient, and reset the sites to them.

    While `backward` runs, every column of the sites is trainable, which takes the memory of full
    fine-tuning of these layers.

    Args:
        sites: Sites to reset.
        units: Units of each site, in the same order.
        backward: Accumulates the gradient of the loss, in any number of `backward()` calls.
        largest: Whether to take the largest scores instead of the smallest.
        free: See `largest_units`.

    Raises:
        InputError: No gradient reaches a site, or it is not finite.
    """
    for site in sites:
        site.begin(torch.arange(site.in_features))
    backward()
    squares = {}
    for site in sites:
        gradient = site.sel.weight.grad
        if gradient is None:
            raise InputError(f"no gradient of the loss reaches the columns of {site.name}")
        squares[site.name] = gradient.double().square().sum(0).cpu()
    chosen = largest_units(units, _scores(units, squares), largest=largest, free=free)
    for site in sites:
        site.begin(chosen[site.name])


def free_units(units: Sequence[Units], config: S2FT) -> dict[str, Tensor] | None:
    """Return a mask [count] bool per layer of the units not in the models to avoid; None for all.

    Raises:
        InputError: A directory has no adapter of columns, or one for other or wider layers, or too
            few units are left.
    """
    if config.avoid is None:
        return None
    free = {unit.name: torch.ones(unit.count, dtype=torch.bool) for unit in units}
    for directory in config.avoid:
        is_known = False
        for name, idx in _columns_in(directory).items():
            for unit in units:
                if name == unit.name or name.endswith(f".{unit.name}"):
                    taken = check_columns(f"avoid={directory!r}: {name}", idx, len(unit))
                    free[unit.name][taken // unit.width] = False
                    is_known = True
        if not is_known:
            raise InputError(
                f"avoid={directory!r} changes none of the layers to select columns from, such as "
                f"{units[0].name}; was it fitted on another backbone?"
            )
    for ratio, kind in _kinds(units):
        num_free = sum(int(free[unit.name].sum()) for unit in kind)
        if num_free < (budget := _budget(ratio, kind)):
            heads = is_attention_output(kind[0].name)
            raise InputError(
                f"avoid={list(config.avoid)} leaves {num_free} of "
                f"{sum(unit.count for unit in kind)} {'heads' if heads else 'channels'}, but "
                f"{'o' if heads else 'd'}_ratio={ratio:g} needs {budget}"
            )
    return free


def _columns_in(directory: str) -> Choice:
    """Return the columns that a saved model changes, by full name of the layer."""
    path = Path(directory) / ADAPTER_FILE
    try:
        with open_tensors(path) as file:
            names = [name for name in file.keys() if name.endswith(".idx")]  # noqa: SIM118
            columns = {name.removesuffix(".idx"): file.get_tensor(name) for name in names}
    except InputError as error:
        raise error.within(f"avoid={directory!r} is not a model directory") from None
    if not columns:
        raise InputError(
            f"avoid={directory!r} contains no adapter 's2ft', so there are no columns to avoid"
        )
    return columns


def largest_units(
    units: Sequence[Units],
    scores: Mapping[str, Tensor],
    *,
    largest: bool = True,
    free: Mapping[str, Tensor] | None = None,
) -> Choice:
    """Return the columns of the units with the largest scores, with a budget per kind.

    A budget is a share of the units of all layers together, at least one. Ties go to the earlier
    unit.

    Args:
        units: Units of each layer.
        scores: [count] per layer.
        largest: Whether to take the largest scores instead of the smallest.
        free: Mask of the selectable units, [count] bool per layer; None for all.
    """
    chosen: Choice = {}
    for ratio, kind in _kinds(units):
        merged = torch.cat([scores[unit.name].double() for unit in kind])
        order = merged.argsort(descending=largest, stable=True)
        if free is not None:
            order = order[torch.cat([free[unit.name] for unit in kind])[order]]
        taken = torch.zeros(len(merged), dtype=torch.bool)
        taken[order[: _budget(ratio, kind)]] = True
        parts = torch.split(taken, [unit.count for unit in kind])
        for unit, part in zip(kind, parts, strict=True):
            chosen[unit.name] = part.repeat_interleave(unit.width).nonzero()[:, 0]
    return {unit.name: chosen[unit.name] for unit in units}


def _budget(ratio: float, kind: Sequence[Units]) -> int:
    """Return the number of units of one kind to train."""
    return max(1, round(ratio * sum(unit.count for unit in kind)))


def _kinds(units: Sequence[Units]) -> list[tuple[float, list[Units]]]:
    """Return heads and channels separately, each with its ratio."""
    heads = [unit for unit in units if is_attention_output(unit.name)]
    channels = [unit for unit in units if not is_attention_output(unit.name)]
    return [(kind[0].ratio, kind) for kind in (heads, channels) if kind]


def _scores(units: Sequence[Units], squares: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the root of the sum over each unit's columns."""
    return {
        unit.name: squares[unit.name].view(unit.count, unit.width).sum(1).sqrt() for unit in units
    }


def _squares(
    name: str, weight: Tensor, selection: str, moments: Mapping[str, SecondMoment]
) -> Tensor:
    """Return the squared score of each column, [in] float64."""
    norms = weight.detach().double().square().sum(0).cpu()
    if selection == "weight":
        return norms
    inputs = moments[name].matrix.diagonal()
    return inputs if selection == "activation" else inputs * norms


def _ratio(name: str, config: S2FT) -> float:
    return config.o_ratio if is_attention_output(name) else config.d_ratio


def _units(model: nn.Module, name: str, config: S2FT) -> Units:
    width = model.get_submodule(name).get_parameter("weight").shape[1]
    if not is_attention_output(name):
        return Units(name, width, 1, config.d_ratio)
    heads = _num_heads(model)
    if not heads or width % heads:
        raise InputError(
            f"{name}: its {width} inputs cannot be split into heads: the model's configuration "
            f"has num_attention_heads={heads}; choose other target_modules, or o_ratio=0"
        )
    return Units(name, heads, width // heads, config.o_ratio)


def _num_heads(model: nn.Module) -> int | None:
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    count = getattr(config, "num_attention_heads", None)
    return count if isinstance(count, int) else None
