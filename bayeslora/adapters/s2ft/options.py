"""S²FT: training of weight columns, those of a few heads and channels.

    y = x Wᵀ + b + x[…, idx] Dᵀ

Source: Yang et al. 2024, arXiv 2412.06289; `columns.py` has the layer, `selection.py` the choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

from bayeslora.adapters.base import Adapter, TrainingRows
from bayeslora.errors import InputError
from bayeslora.option_checks import Count, NotNegative, OnlyWith, Positive, UpToOne

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from bayeslora.adapters.s2ft.columns import Columns
    from bayeslora.adapters.site import Site

LEARNED = ("activation", "gradient", "product")
"""Selections that run training rows."""


@dataclass(frozen=True)
class S2FT(Adapter):
    """A few attention heads and feed-forward channels, trained in full while the rest is frozen.

    A head is its columns of the attention's output projection, a channel its column of the
    feed-forward down projection. Both budgets are shares of all adapted layers together: some
    layers get more than others, and some none.
    """

    name: ClassVar[str] = "s2ft"
    summary: ClassVar[str] = "trains a few heads and channels of the weights; the rest stays frozen"
    use: ClassVar[str] = (
        "Training single heads and channels, or merging several fits that change different columns."
    )
    source: ClassVar[str] = "Yang et al. 2024, arXiv 2412.06289"
    parameters: ClassVar[str] = "out per column"
    default_lr: ClassVar[float] = 1e-2
    only_with: ClassVar[OnlyWith] = {
        "largest": tuple(("selection", name) for name in ("weight", *LEARNED)),
        "context_rows": tuple(("selection", name) for name in LEARNED),
    }

    o_ratio: Annotated[
        UpToOne,
        "Share of the attention heads to train, at least one; 0 leaves attention unchanged.",
    ] = 0.052
    d_ratio: Annotated[
        UpToOne,
        "Share of the feed-forward channels to train, at least one; 0 leaves them unchanged.",
    ] = 0.02
    selection: Annotated[
        Literal["activation", "gradient", "product", "random", "weight"],
        "Selection of heads and channels: `random`; or by the norm of the columns (`weight`), of "
        "their inputs on training rows (`activation`), of both together (`product`), or of the "
        "loss's gradient (`gradient`).",
    ] = "random"
    largest: Annotated[bool, "Whether to select the largest norms; otherwise the smallest."] = True
    avoid: Annotated[
        tuple[str, ...] | None,
        "Model directories whose columns are not selected, so that their changes and this one "
        "can be added to the same weight. The ratios remain shares of all heads and channels.",
    ] = None
    context_rows: Annotated[
        Count,
        "Maximum number of training rows that are run for a selection, evenly spread over them.",
    ] = 1000
    target_modules: Annotated[
        tuple[str, ...] | None,
        "Endings of dotted module names, or regular expressions for whole names; None means the "
        "output and down projections of the architecture. An attention output is split into "
        "heads, any other layer into channels.",
    ] = None
    num_layers: int | Literal["auto"] | None = "auto"
    lr: Annotated[
        Positive | None, "Learning rate of AdamW on the columns; None means {default_lr}."
    ] = None
    weight_decay: Annotated[
        NotNegative, "Decoupled weight decay of the columns towards their pretrained values."
    ] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.o_ratio and not self.d_ratio:
            raise InputError("o_ratio and d_ratio are both 0, so nothing would be trained")

    @property
    def starts_from_rows(self) -> bool:
        """Whether the selection of columns depends on training rows."""
        return self.selection in LEARNED

    @property
    def start_alike(self) -> str:
        """All selections except `random` give every member the same columns."""
        return (
            ""
            if self.selection == "random"
            else "choose selection=random, which gives each member other columns"
        )

    def targets(self, model: nn.Module) -> list[str]:
        """Return the layers to select columns from; see `column_targets`."""
        from bayeslora.adapters.s2ft.selection import column_targets

        return column_targets(model, self)

    def make_sites(
        self,
        model: nn.Module,
        hosts: Mapping[str, nn.Linear],
        generator: Generator,
        *,
        blank: bool = False,
    ) -> list[Site]:
        """Return a `Columns` for each layer, without columns if `blank`."""
        import torch

        from bayeslora.adapters.s2ft.columns import Columns
        from bayeslora.adapters.s2ft.selection import choose_columns, units_at

        columns: Mapping[str, Tensor] = {}
        if not blank:
            units = units_at(model, list(hosts), self)
            weights = {name: host.get_parameter("weight") for name, host in hosts.items()}
            columns = choose_columns(units, weights, self, generator)
        none = torch.zeros(0, dtype=torch.int64)
        return [Columns(name, host, columns.get(name, none)) for name, host in hosts.items()]

    def check_start(self, model: nn.Module, names: Sequence[str]) -> None:
        """Check that the models to avoid leave enough columns; see `free_units`."""
        from bayeslora.adapters.s2ft.selection import free_units, units_at

        free_units(units_at(model, names, self), self)

    def begin(self, rows: TrainingRows) -> None:
        """Select the columns of the sites by training rows."""
        import torch

        from bayeslora.adapters.s2ft.selection import (
            begin_by_gradient,
            choose_columns,
            free_units,
            units_at,
        )

        sites = [cast("Columns", site) for site in rows.sites]
        units = units_at(rows.model, [site.name for site in sites], self)
        if self.selection == "gradient":
            begin_by_gradient(
                sites,
                units,
                lambda: rows.backward(self.context_rows),
                largest=self.largest,
                free=free_units(units, self),
            )
            return
        moments = rows.moments(self.context_rows)
        weights: dict[str, Tensor] = {site.name: site.weight for site in sites}
        chosen = choose_columns(units, weights, self, torch.Generator(), moments)
        for site in sites:
            site.begin(chosen[site.name])
