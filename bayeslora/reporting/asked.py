"""What a report was asked for beyond the scores of all rows: sets, groups, classes, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bayeslora.metrics.clusters import check_columns, column_names
from bayeslora.metrics.intervals import IntervalMethod
from bayeslora.metrics.near_far import KINDS, check_kinds
from bayeslora.reporting.inputs import Method

Names = str | Sequence[str] | None
"""One name, several, or none."""


@dataclass(frozen=True)
class Asked:
    """Options of `evaluate` that a report passes on.

    Attributes:
        near: Names of out-of-distribution sets to average over as near ones.
        far: Names of those to average over as far ones.
        group_by: Columns whose values are scored apart.
        by_class: Whether every class is scored.
        cluster_by: Column whose equal values mark rows that are drawn together.
        interval: Which bootstrap intervals.
    """

    near: tuple[str, ...] = ()
    far: tuple[str, ...] = ()
    group_by: tuple[str, ...] = ()
    by_class: bool = False
    cluster_by: str | None = None
    interval: IntervalMethod = "percentile"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that every method must have."""
        return column_names([*self.group_by, *column_names(self.cluster_by)])

    @property
    def pairing(self) -> dict[str, Any]:
        """The options that a paired comparison knows as well."""
        return {"cluster_by": self.cluster_by, "interval": self.interval}

    def as_given(self) -> dict[str, Any]:
        """Return the options that differ from the default, as keyword arguments."""
        default = asdict(NOTHING)
        found = {key: value for key, value in asdict(self).items() if value != default[key]}
        return {key: [*one] if isinstance(one, tuple) else one for key, one in found.items()}

    def check(self, methods: Sequence[Method]) -> None:
        """Complain of a set or a column that a method lacks, before anything is scored.

        Raises:
            InputError: It is so.
        """
        for one in methods:
            check_kinds({kind: getattr(self, kind) for kind in KINDS}, [*one.ood])
            check_columns(one.predictions, self.columns)


NOTHING = Asked()
"""The scores of all rows, and no more."""


def asked_for(
    *,
    near: Names,
    far: Names,
    group_by: Names,
    by_class: bool,
    cluster_by: str | None,
    interval: IntervalMethod,
) -> Asked:
    """Return the options, where one name may stand for a sequence of one."""
    return Asked(
        near=column_names(near),
        far=column_names(far),
        group_by=column_names(group_by),
        by_class=by_class,
        cluster_by=cluster_by,
        interval=interval,
    )
