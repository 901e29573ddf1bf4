"""From a configuration to the last layer, and the posterior over weights, that it describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any

from torch import nn

from bayeslora.adapters.site import Site
from bayeslora.errors import InputError
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.blob import BLoBWeights
from bayeslora.posteriors.clora import CLoRAWeights
from bayeslora.posteriors.dropout import MCDropoutDraws
from bayeslora.posteriors.ivon import IVONWeights
from bayeslora.posteriors.laplace_lora import LaplaceLoRAWeights
from bayeslora.posteriors.registry import described
from bayeslora.posteriors.scalabl import ScalaBLWeights
from bayeslora.posteriors.swag import SWAGWeights
from bayeslora.posteriors.tfb import TFBWeights
from bayeslora.posteriors.types import LastLayer, LastLayerDefaults

# Other numbers than those that the adapters start from.
_SEED_STEP = 1 << 32

Head = LastLayer
Weights = (
    SWAGWeights
    | TFBWeights
    | BLoBWeights
    | IVONWeights
    | ScalaBLWeights
    | CLoRAWeights
    | LaplaceLoRAWeights
    | MCDropoutDraws
)

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
        mean_sq_norm: Mean ‖φ‖² of the training features when training starts.
        seed: Of the draws that a sampled bound takes, and of Markov chains.
        extra: `extra_config()` of a fitted head, to load its state into the new one.

    Raises:
        InputError: `extra` is not what `extra_config()` of such a head returns, a bound is not
            for so many classes, or a third party's head cannot be found or is no `LastLayer`.
    """
    make = _factory(config)
    head: Head = make(config, num_features, num_classes, mean_sq_norm=mean_sq_norm, seed=seed)
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
    config: Posterior, sites: Sequence[Site], head: Head, seed: int = 0
) -> Weights | None:
    """Return the posterior over adapter weights of a configuration, an `nn.Module`.

    The configuration's class says in `weights` who makes it, and in `over_factors` whether its
    sites have to be low-rank. It has `draw`, except for a Laplace approximation, which is
    linearised instead. None where the configuration has none, where it is not of the sites alone
    (MC dropout), and for ensembles.

    Args:
        config: Which posterior, with its options.
        sites: The adapters, inside their model already.
        head: The last layer.
        seed: Of a random start.

    Raises:
        InputError: There are too many weights for the structure that was asked for, or the
            posterior needs low-rank factors and the sites have none.
    """
    found = config.weights
    if not found:
        return None
    make: Callable[..., Weights] = resolve_name(found)
    check_factors(config, low_rank=all(site.has_factors for site in sites))
    return make(config, sites, head, seed + _SEED_STEP)


def check_factors(config: Posterior, *, low_rank: bool) -> None:
    """Complain about a posterior that is over the factors of an adapter that has none.

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
