"""From a configuration to the last layer, and the posterior over weights, that it describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any

from torch import nn

from bayeslora.errors import InputError
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.registry import described
from bayeslora.posteriors.types import LastLayer, LastLayerDefaults, Network

# Other numbers than those that the adapters start from.
_SEED_STEP = 1 << 32

Head = LastLayer

_DEFAULTS = {name: verb for name, verb in vars(LastLayerDefaults).items() if name[0] != "_"}
_VERBS = sorted(
    name
    for name in {*vars(LastLayer), *LastLayer.__annotations__} - {*_DEFAULTS}
    if not name.startswith("_")
)


def build(
    config: Posterior,
    num_features: int,
    num_classes: int,
    *,
    shared: bool = False,
    mean_sq_norm: float = 1.0,
    seed: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> Head:
    """Return the head of a configuration: an `nn.Module` that satisfies `LastLayer`.

    Its `make_head` makes it, or, of another package's posterior, what its class names in `head`.

    Args:
        config: Which posterior, with its options.
        num_features: d, the constant column included where there is one.
        num_classes: C.
        shared: Whether one weight vector is shared by all options of a row.
        mean_sq_norm: Mean ‖φ‖² of the training features when training starts.
        seed: Of the draws that a sampled bound takes, and of Markov chains.
        extra: `extra_config()` of a fitted head, to load its state into the new one.

    Raises:
        InputError: `extra` is not what `extra_config()` of such a head returns, a bound is not
            for so many classes, or a third party's head cannot be found or is no `LastLayer`.
    """
    if shared:
        head = _shared(config, num_features, mean_sq_norm=mean_sq_norm, seed=seed)
    else:
        make = _factory(config)
        head = make(config, num_features, num_classes, mean_sq_norm=mean_sq_norm, seed=seed)
    _check_head(config, head)
    _complete(head)
    try:
        head.prepare(extra or {})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the record of a fitted {config.name} head is damaged: {error}") from None
    return head


def _factory(config: Posterior) -> Callable[..., Any]:
    # Looked up on the class, where a function is not bound to the options.
    found: str | Callable[..., Any] = type(config).head
    if not found:
        return type(config).make_head
    if not isinstance(found, str):
        return found
    try:
        factory: Callable[..., Any] = resolve_name(found)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"the head of {described(config)}, {found!r}, cannot be loaded: {error}"
        ) from error
    return factory


def _shared(config: Posterior, num_features: int, **options: Any) -> Head:
    if type(config).head:
        raise InputError(
            f"{described(config)} has no last layer for the format 'options', whose options share "
            "one weight vector; take the format 'letters'"
        )
    return config.make_shared_head(num_features, **options)


def _complete(head: object) -> None:
    """Give the head of another package the verbs that it need not have."""
    for name, verb in _DEFAULTS.items():
        if not hasattr(head, name):
            setattr(type(head), name, verb)


def _check_head(config: Posterior, head: object) -> None:
    if not isinstance(head, nn.Module):
        raise InputError(
            f"the head of {described(config)} must be a torch.nn.Module, got {type(head).__name__}"
        )
    missing = ", ".join(repr(verb) for verb in _VERBS if not hasattr(head, verb))
    if missing:
        raise InputError(
            f"the head of {described(config)}, a {type(head).__name__}, lacks {missing}; "
            "bayeslora.posteriors.types.LastLayer says what a last layer must be able to do"
        )


def build_weights(
    config: Posterior, network: Network, seed: int = 0, *, fitted: bool = False
) -> nn.Module | None:
    """Return the posterior over the weights of a network; None if only its last layer is random.

    Args:
        config: Which posterior, with its options.
        network: Complete but for this posterior.
        seed: Of a random start.
        fitted: Whether tensors of a fitted posterior will be loaded into it.

    Raises:
        InputError: There are too many weights for the structure that was asked for, the posterior
            needs low-rank factors and the sites have none, or a third party's is not what such a
            posterior must be.
    """
    if config.over_factors:
        check_factors(config, low_rank=all(site.has_factors for site in network.sites))
    weights = config.over_weights(network, seed=seed + _SEED_STEP, fitted=fitted)
    if weights is None:
        return None
    draws = hasattr(weights, "draw")
    if not isinstance(weights, nn.Module) or (config.is_sampled and not draws):
        raise InputError(
            f"the weights of {described(config)} must be a torch.nn.Module"
            + (" with a method draw" if config.is_sampled else "")
            + f", got {type(weights).__name__}"
        )
    if draws and not config.is_sampled:
        raise InputError(
            f"the weights of {described(config)} have a method draw that no prediction would call; "
            f"{type(config).__name__} has to say is_sampled = True"
        )
    return weights


def check_factors(config: Posterior, *, low_rank: bool) -> None:
    """Raise InputError for a posterior that is over the factors of an adapter that has none.

    Args:
        config: Which posterior.
        low_rank: Whether the adapter's sites have factors.

    Raises:
        InputError: It is one of these.
    """
    if config.over_factors and not low_rank:
        raise InputError(
            f"posterior {config.name!r} is over the factors of a low-rank adapter, and columns of "
            "a weight, as adapter 's2ft' trains, have none; choose another adapter, or 'swag', "
            "'ivon', 'laplace_lora', 'ensemble' or a posterior of the last layer"
        )
