"""What an adapter puts into a network: sites in place of linear layers, and a companion of them.

Sites are inserted into a model, merged, saved and loaded here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from bayeslora.adapters.base import Adapter


def trained_layer(weight: Tensor, device: torch.device) -> nn.Linear:
    """Return a trainable layer without bias whose weight is a copy of `weight`."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    # The layout of a loaded tensor: products round differently in another layout.
    start = weight.detach().to(device).clone(memory_format=torch.contiguous_format)
    layer.weight = nn.Parameter(start)
    return layer


@dataclass(frozen=True)
class SiteSpectrum:
    """Statistics of the change that one adapter makes to the weight of its layer.

    Attributes:
        name: Dotted name of the layer.
        singular_values: Singular values of the change ΔW, descending, without the zeros beyond its
            rank.
        norm: ‖ΔW‖_F.
        relative_norm: ‖ΔW‖_F / ‖W‖_F, W the frozen weight; NaN if that is zero.
        stable_rank: ‖ΔW‖²_F / ‖ΔW‖²_2; NaN if the change is zero.
        drift: See `low_rank.drift`.
        is_gated: Whether the change depends on the token, as in C-LoRA; the statistics are then
            those of the factors without the gate.
    """

    name: str
    singular_values: tuple[float, ...]
    norm: float
    relative_norm: float
    stable_rank: float
    drift: float
    is_gated: bool = False


class Site(nn.Module):
    """A frozen linear layer plus a trained change of its weight.

    Subclasses define `forward`, `change` and `linears`, and override other methods if needed.

    Attributes:
        has_factors: Whether the change is a product of low-rank factors, as in `LowRank`.
        name: Dotted path of the module in its host.
        scale: The factor s in front of the change.
        weight: [out, in], the frozen weight.
        bias: [out] or None, frozen.
        centred: Whether `origin()` is a part of the frozen weight, which decay to 0 would shrink.

    Args:
        name: Dotted path of the replaced layer in its host.
        host: The layer to replace. Its weight and bias are shared, not copied, and frozen.
        scale: The factor s in front of the change.
    """

    has_factors: ClassVar[bool] = False
    centred: bool = False

    def __init__(self, name: str, host: nn.Linear, scale: float = 1.0) -> None:
        super().__init__()
        self.name = name
        self.scale = scale
        self.weight = host.weight.requires_grad_(False)
        self.bias = None if host.bias is None else host.bias.requires_grad_(False)

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return self.weight.shape[0]

    @property
    def is_gated(self) -> bool:
        """Whether the change of the weight depends on the input."""
        return False

    @property
    def dropout_probability(self) -> float:
        """Probability that an input of the change is dropped while training."""
        return 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] for inputs [..., in], in the frozen layer's precision."""
        raise NotImplementedError

    def change(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return `(A [k, in], B [out, k])`; the change of the weight is `s·B·A`.

        Args:
            dtype: Dtype of the result; None means the adapter's.
        """
        raise NotImplementedError

    @property
    def can_set_change(self) -> bool:
        """Whether `set_change` is possible."""
        return False

    def set_change(self, A: Tensor, B: Tensor) -> None:
        """Set the change to the nearest one to `s·B·A` that the parameters can express.

        Args:
            A: [k, in].
            B: [out, k].
        """
        raise NotImplementedError

    def linears(self) -> dict[str, nn.Linear]:
        """Return the linear layers that hold the parameters, each called once per forward pass."""
        raise NotImplementedError

    def check_fixed(self) -> None:
        """Raise InputError if the change of the weight is not a single matrix."""

    def delta(self) -> Tensor:
        """Return the change of the weight, [out, in], in the adapter's precision.

        Raises:
            InputError: See `check_fixed`.
        """
        self.check_fixed()
        A, B = self.change()
        return self.scale * (B @ A)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return a frozen linear layer with the change merged in, in the host's precision.

        Raises:
            InputError: See `check_fixed`.
        """
        delta = self.delta()
        weight = (self.weight.to(delta.dtype) + delta).to(self.weight.dtype)
        has_bias = self.bias is not None
        layer = nn.Linear(self.in_features, self.out_features, bias=has_bias, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        return layer.train(self.training)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the adapter's parameters by name: the weights of `linears()`."""
        return {key: layer.get_parameter("weight") for key, layer in self.linears().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save: `trainable()` and those needed to load them."""
        return dict(self.trainable())

    def resize(self, stored: Mapping[str, Tensor]) -> None:
        """Adopt the shapes that stored tensors determine.

        Args:
            stored: The file's tensors of this site, named as in `tensors()`; some may be missing.

        Raises:
            InputError: A tensor that determines shapes is invalid.
        """

    def origin(self) -> dict[str, Tensor]:
        """Return the centre of a prior over `trainable()`, where the change is 0."""
        return {key: torch.zeros_like(value) for key, value in self.trainable().items()}

    def manifold(self) -> dict[str, str]:
        """Return the manifold (`stiefel`) of each constrained parameter."""
        return {}


class Companion(nn.Module):
    """What an adapter trains besides its sites, or in place of them; see `Adapter.companion`.

    It is trained, saved, moved and resumed with the sites. Its columns are values of a row that
    travel with it into every batch, such as the context of a gate.
    """

    def columns(self, rows: Any, count: int, features: Callable[[], Tensor]) -> dict[str, Tensor]:
        """Return columns [N, …] of rows by name, on the CPU.

        Each row's values must depend on this row alone.

        Args:
            rows: `Examples`, or None for texts without any.
            count: Number of rows N.
            features: Returns their features [N, d] from the frozen backbone.

        Raises:
            InputError: The rows lack something.
        """
        return {}

    def applied(self, batch: Mapping[str, Tensor]) -> AbstractContextManager[object]:
        """Return a context manager for a pass of a batch, which has the columns of its rows."""
        return nullcontext()

    def closed(self) -> AbstractContextManager[object]:
        """Return a context manager under which passes are those of the frozen backbone."""
        return nullcontext()

    def optimizers(self) -> Sequence[Optimizer]:
        """Return the optimisers of what it trains, with named groups."""
        return ()

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save by name, beside those of the sites."""
        return {}

    def resize(self, stored: Mapping[str, Tensor]) -> None:
        """Adopt the shapes that stored tensors determine, named as in `tensors()`."""

    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Load all of its tensors, named as in `tensors()`.

        Raises:
            InputError: A tensor is missing, unexpected, or of another shape.
        """

    def figures(self, columns: Mapping[str, Tensor]) -> dict[str, float]:
        """Return diagnostics on the training rows, for the history of the epochs and the record.

        Args:
            columns: Those of the training rows.
        """
        return {}

    def summary(self) -> dict[str, float]:
        """Return statistics of the trained parameters for the record, besides those of sites."""
        return {}

    def spectra(self) -> list[SiteSpectrum]:
        """Return statistics of the weights of the backbone that it changes by itself."""
        return []


def inject(model: nn.Module, config: Adapter, seed: int, *, blank: bool = False) -> list[Site]:
    """Replace linear layers of `model` by adapted layers, in place, and freeze the rest.

    The model computes the same function as before until the adapters are trained.

    Args:
        model: The host; only adapter parameters still require a gradient afterwards.
        config: The adapter's options.
        seed: Seed of the random initialisation; the same seed gives the same factors.
        blank: Whether to skip an initialisation from the weights, because the adapter's tensors
            will be loaded. An adapter that starts from training rows is always blank until its
            `begin`.

    Returns:
        The sites, in module order.

    Raises:
        InputError: See `find_targets`; or the rank exceeds a layer's size. The model is then
            unchanged.
    """
    hosts: Any = {name: model.get_submodule(name) for name in config.targets(model)}
    generator = Generator().manual_seed(seed)
    blank = blank or config.starts_from_rows
    return put(model, config.make_sites(model, hosts, generator, blank=blank))


def put(model: nn.Module, sites: Sequence[Site]) -> list[Site]:
    """Insert sites at the paths of their names and freeze the rest.

    Returns the sites in module order.
    """
    for site in sites:
        _replace(model, site.name, site)
    adapters = {id(value) for site in find_sites(model) for value in site.trainable().values()}
    for parameter in model.parameters():
        if id(parameter) not in adapters:
            parameter.requires_grad_(False)
    names = {site.name for site in sites}
    return [site for site in find_sites(model) if site.name in names]


def find_sites(model: nn.Module) -> list[Site]:
    """Return the adapters in `model`, in module order."""
    return [module for module in model.modules() if isinstance(module, Site)]


def export(model: nn.Module) -> nn.Module:
    """Return a copy of `model` with every adapter merged into a plain linear layer."""
    plain = copy.deepcopy(model)
    sites = [(name, item) for name, item in plain.named_modules() if isinstance(item, Site)]
    for name, site in sites:
        _replace(plain, name, site.merged())
    return plain


def adapter_state(sites: Sequence[Site]) -> dict[str, Tensor]:
    """Return copies of all adapter tensors on the CPU, named `<module>.A`, `.B` and `.core`.

    A change relative to a start adds `.A0` and `.B0`; see `Site.tensors`.
    """
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in _named_tensors(sites).items()
    }


@torch.no_grad()
def load_adapter_state(sites: Sequence[Site], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors named as in `adapter_state` into the sites, which adopt their shapes."""
    lay_out(sites, tensors)
    for name, value in _named_tensors(sites).items():
        value.copy_(tensors[name])


def lay_out(sites: Sequence[Site], tensors: Mapping[str, Tensor]) -> None:
    """Resize sites to the shapes of tensors named as in `adapter_state`; see `Site.resize`."""
    for site in sites:
        names = {key: f"{site.name}.{key}" for key in site.tensors()}
        site.resize({key: tensors[name] for key, name in names.items() if name in tensors})


def _named_tensors(sites: Sequence[Site]) -> dict[str, Tensor]:
    return {f"{site.name}.{key}": value for site in sites for key, value in site.tensors().items()}


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
