"""Default epochs of a fit; free of torch, for the help."""

from __future__ import annotations

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.registry import ADAPTERS
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.registry import POSTERIORS

DEFAULT_EPOCHS = 5
DEFAULT_EPOCHS_LONG = 15


def default_epochs(
    adapter: Adapter | type[Adapter],
    posterior: Posterior | type[Posterior],
    *,
    validated: bool,
) -> int:
    """Return the default number of epochs.

    Without validation rows to stop training it is short, since most adapters separate the training
    rows early.

    Args:
        adapter: Adapter or its class.
        posterior: Posterior or its class.
        validated: Whether there are validation rows.
    """
    lasts = validated or adapter.trains_long
    long = lasts and posterior.chooses_epoch
    return DEFAULT_EPOCHS_LONG if long else DEFAULT_EPOCHS


def epochs_table() -> list[tuple[str, int, int]]:
    """Return the default epochs as rows: methods, with validation rows, without."""
    usual = next(config for config in POSTERIORS.values() if config.chooses_epoch)
    long = [config for config in ADAPTERS.values() if config.trains and config.trains_long]
    other = next(config for config in ADAPTERS.values() if config.trains and config not in long)
    fixed = [config for config in POSTERIORS.values() if not config.chooses_epoch]

    def row(name: str, adapter: type[Adapter], posterior: type[Posterior]) -> tuple[str, int, int]:
        with_rows, without = (
            default_epochs(adapter, posterior, validated=validated) for validated in (True, False)
        )
        return name, with_rows, without

    return [
        *(row(f"adapter {config.name}", config, usual) for config in long),
        row("other adapters", other, usual),
        *(row(f"posterior {config.name}", other, config) for config in fixed),
    ]
