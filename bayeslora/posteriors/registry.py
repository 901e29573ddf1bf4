"""All posteriors by name: built in, registered, or from an installed package.

`build_head` and `build_weights` build the modules that the options describe, and check those of
other packages. Free of torch until they are called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeVar

from bayeslora.errors import FailedError, InputError
from bayeslora.option_checks import Draws, Link, checked
from bayeslora.plugins import Catalogue, check_options_class
from bayeslora.posteriors.base import Posterior, completed
from bayeslora.posteriors.options import (
    GVBLL,
    IVON,
    MAP,
    MLE,
    NUTS,
    SWAG,
    TFB,
    VBLL,
    BLoB,
    CLoRA,
    Ensemble,
    Laplace,
    LaplaceLoRA,
    MCDropout,
    Prototypes,
    ScalaBL,
    TemperatureScaling,
)

if TYPE_CHECKING:
    from torch import nn

    from bayeslora.posteriors.types import LastLayer, Network

T = TypeVar("T")

_LAST_LAYER = (MLE, MAP, VBLL, GVBLL, Laplace, NUTS, Prototypes, TemperatureScaling)
_WEIGHTS = (MCDropout, Ensemble, LaplaceLoRA, SWAG, TFB, BLoB, IVON, ScalaBL, CLoRA)
POSTERIORS: dict[str, type[Posterior]] = {
    config.name: config for config in (*_LAST_LAYER, *_WEIGHTS)
}
"""The built-in posteriors by name."""

_PLACES = {
    config.compared: name for name, config in POSTERIORS.items() if config.compared is not None
}
COMPARED = tuple(_PLACES[place] for place in sorted(_PLACES))
"""Names of the posteriors that a calibration is compared with, simplest first."""

OWN_SOFTMAX = MLE()
"""The network's own prediction, before any posterior is fitted to it."""

CLOSED_FORM = VBLL(covariance="eigenbasis")
"""A last layer that is fitted to features without gradients, and reports the fit's evidence."""

# Keeps the seeds apart from those of the adapters' initial weights.
_SEED_STEP = 1 << 32

_TEXTS = ("name", "summary", "source", "passes", "parameters")


def check_posterior(candidate: Any, description: str) -> type[Any]:
    """Check that a class of another package defines a posterior, and add missing defaults.

    Args:
        candidate: A frozen dataclass with the class variables `name`, `summary`, `source`,
            `passes`, `parameters` (text) and `head` (`module:object`, or the object). A subclass
            of `Posterior` that defines `make_head`, or is over weights, needs no `head`.
        description: Description and owner of the class, for messages.

    Raises:
        InputError: The class is not valid; the message says what is missing.
    """
    config = check_options_class(candidate, description, _TEXTS)
    head = getattr(config, "head", None)
    has_head = callable(head) or (isinstance(head, str) and ":" in head and head != Posterior.head)
    is_option = "head" in {field.name for field in dataclasses.fields(config)}
    if is_option or not (has_head or _defines(config, "make_head") or is_over_weights(config)):
        raise InputError(
            f"{description}: {config.__name__} lacks the class variable 'head': 'module:object', "
            "or a callable that makes the last layer",
            code="package",
        )
    has_moment = getattr(config, "over_trained", False) or getattr(config, "from_start", "")
    if is_over_weights(config) and not has_moment:
        raise InputError(
            f"{description}: {config.__name__} is over the weights of a network, so it must set "
            "over_trained = True if it is fitted to trained adapters, or from_start to the "
            "reason why it cannot be",
            code="package",
        )
    return completed(config)


def is_over_weights(config: type[Any]) -> bool:
    """Return whether options are of a posterior over the weights of a network."""
    return _defines(config, "weights") or _defines(config, "over_weights")


def _defines(config: type[Any], member: str) -> bool:
    """Return whether a class derives from `Posterior` and overrides a member."""
    return issubclass(config, Posterior) and getattr(config, member) is not getattr(
        Posterior, member
    )


def names_where(condition: Callable[[type[Posterior]], bool]) -> str:
    """Return the names of the built-in posteriors that satisfy a condition, for messages."""
    return ", ".join(repr(name) for name, config in POSTERIORS.items() if condition(config))


CATALOGUE = Catalogue("posterior", POSTERIORS, check_posterior)
"""All posteriors by name, including those of other packages."""

BEST = "best"
"""Name by which `calibrate` chooses the posterior with the lowest cross-validated NLL."""

stored_posterior = CATALOGUE.stored
provider = CATALOGUE.provider


def register_posterior(config: type[T]) -> type[T]:
    """Register a posterior of your own under its name, for this process; usable as a decorator.

    A package registers with an entry point instead, which needs no call: see docs/extending.md.

    Args:
        config: A frozen dataclass of options with the class variables `name`, `summary`, `source`,
            `passes`, `parameters` and `head`, or a subclass of `Posterior`; see
            `check_posterior`. A class registered earlier under the same module and class name is
            replaced.

    Returns:
        The class itself.

    Raises:
        InputError: The class is not valid, or its name is taken.
    """
    return CATALOGUE.register(config)


def resolve_posterior(value: object) -> Any:
    """Return the options for a name, `name:key=value,…`, a mapping or an object.

    Packages are searched only for a name that is neither built in nor registered.

    Raises:
        InputError: The name, an option or its value is not allowed, or the package that provides
            the posterior is broken.
    """
    if value == BEST:
        raise InputError(
            f"posterior {BEST!r} compares posteriors for a finished network and is only for "
            f"calibrate: calibrate(..., posterior={BEST!r}), bayeslora calibrate --posterior "
            f"{BEST}"
        )
    return CATALOGUE.resolve(value)


def check_link(config: Any, link: str | None) -> None:
    """Raise InputError for a link that a prediction would not use.

    Args:
        config: Options of the posterior.
        link: Requested link; None means the posterior's own.

    Raises:
        InputError: The link is unknown, or the posterior has none to choose.
    """
    if link is None:
        return
    checked("link", link, Link)
    if config.link is None:
        names = names_where(lambda posterior: bool(posterior.link))
        raise InputError(
            f"link {link!r} has no effect on posterior {config.name!r}, whose probabilities are "
            "the softmax of its logits, or the mean softmax over its draws; leave link (--link) "
            f"out: it is for {names}",
            code="no-effect",
        )


def check_draws(config: Any, num_samples: int) -> None:
    """Raise InputError for a number of draws that a prediction would not use.

    Args:
        config: Options of the posterior.
        num_samples: Requested number; 0, the mean, is valid for every posterior.
    """
    checked("num_samples", num_samples, Draws)
    if num_samples and config.name in POSTERIORS and config.num_samples is None:
        raise InputError(
            f"num_samples {num_samples} has no effect on posterior {config.name!r}, which makes "
            "no draws; leave num_samples (--num-samples) out",
            code="no-effect",
        )


def check_factors(config: Posterior, *, low_rank: bool) -> None:
    """Raise InputError if a posterior over factors meets an adapter without factors.

    Args:
        config: Options of the posterior.
        low_rank: Whether the adapter's sites have factors.

    Raises:
        InputError: The posterior is over factors, and the adapter has none.
    """
    if config.over_factors and not low_rank:
        raise InputError(
            f"posterior {config.name!r} needs low-rank factors, and this adapter has none; choose "
            "a low-rank adapter, or another posterior: "
            f"{names_where(lambda posterior: not posterior.over_factors)}",
            code="no-factors",
        )


def draws_to_predict(config: Any, num_samples: int | None) -> bool:
    """Return whether a prediction draws random numbers, so that its seed has an effect.

    Chains and mixtures keep the draws of their fit. A posterior of another package is assumed to
    draw.

    Args:
        config: Options of the posterior.
        num_samples: Requested draws; None means the posterior's default.
    """
    if config.name not in POSTERIORS:
        return True
    draws = config.link is not None or config.is_sampled
    return bool(draws and (config.num_samples if num_samples is None else num_samples))


def described(config: Any) -> str:
    """Return the name of a posterior, with its package if it is not built in, for messages."""
    packages = ", ".join(f"{name} {version}" for name, version in provider(config).items())
    return f"posterior {config.name!r}" + (packages and f" of package {packages}")


def build_head(
    config: Posterior,
    num_features: int,
    num_classes: int,
    *,
    shared: bool = False,
    mean_sq_norm: float = 1.0,
    seed: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> LastLayer:
    """Build the head of a posterior: an `nn.Module` that satisfies `LastLayer`.

    Args:
        config: Options of the posterior.
        num_features: d, including the constant column, if any.
        num_classes: C.
        shared: Whether one weight vector is shared by all options of a row.
        mean_sq_norm: Mean ‖φ‖² of the training features when training starts.
        seed: Seed for the draws of a sampled bound and for Markov chains.
        extra: `extra_config()` of a fitted head, to load its state into the new one.

    Raises:
        InputError: `extra` is not an `extra_config()` of such a head, a bound does not support
            this number of classes, or a third party's head cannot be loaded or is no `LastLayer`.
    """
    completed(type(config))  # a class of another package that was never registered
    if shared:
        _check_shared(config)
        head = config.make_shared_head(num_features, mean_sq_norm=mean_sq_norm, seed=seed)
    else:
        _check_loads(config)
        head = config.make_head(num_features, num_classes, mean_sq_norm=mean_sq_norm, seed=seed)
    _check_head(config, head)
    try:
        head.prepare(extra or {})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the record of a fitted {config.name} head is damaged: {error}", code="damaged"
        ) from None
    return head


def _check_loads(config: Posterior) -> None:
    head = type(config).head
    try:
        if isinstance(head, str):
            resolve_name(head)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"the head of {described(config)}, {head!r}, cannot be loaded: {error}",
            code="package",
        ) from error


def _check_shared(config: Posterior) -> None:
    home = next(kind for kind in type(config).__mro__ if "head" in vars(kind))
    usual = Posterior.shared_head
    # A head has no form for options unless the class that names it names that form too.
    if home is Posterior or vars(home).get("shared_head", usual) != usual or config.per_class:
        return
    raise InputError(
        f"{described(config)} does not support the format 'options', whose options share one "
        "weight vector; choose the format 'letters'",
        code="not-on-options",
    )


def _check_head(config: Posterior, head: object) -> None:
    from torch import nn

    from bayeslora.posteriors.types import completed_head

    if not isinstance(head, nn.Module):
        raise InputError(
            f"the head of {described(config)} must be a torch.nn.Module, got {type(head).__name__}",
            code="package",
        )
    missing = ", ".join(map(repr, completed_head(head)))
    if missing:
        raise InputError(
            f"the head of {described(config)}, a {type(head).__name__}, lacks {missing}; see "
            "bayeslora.posteriors.types.LastLayer for what a last layer needs",
            code="package",
        )


def build_weights(
    config: Posterior, network: Network, seed: int = 0, *, fitted: bool = False
) -> nn.Module | None:
    """Build the posterior over the weights of a network; None if only its last layer is random.

    Args:
        config: Options of the posterior.
        network: Network, complete except for this posterior.
        seed: Seed of a random initialisation.
        fitted: Whether tensors of a fitted posterior will be loaded into it.

    Raises:
        InputError: There are too many weights for the requested structure, the posterior needs
            low-rank factors and the sites have none, or a third party's posterior lacks a
            required member.
        FailedError: A third party's method fails; the message names its package.
    """
    from torch import nn

    from bayeslora.posteriors.types import complete_weights

    if config.over_factors:
        check_factors(config, low_rank=all(site.has_factors for site in network.sites))
    try:
        weights = config.over_weights(network, seed=seed + _SEED_STEP, fitted=fitted)
    except InputError:
        raise
    except Exception as error:  # a method of another package may raise anything
        if config.name in POSTERIORS:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise FailedError(
            f"the weights of {described(config)} cannot be created: {reason}"
        ) from error
    if weights is None:
        return None
    draws = hasattr(weights, "draw")
    if not isinstance(weights, nn.Module) or (config.is_sampled and not draws):
        raise InputError(
            f"the weights of {described(config)} must be a torch.nn.Module"
            + (" with a method draw" if config.is_sampled else "")
            + f", got {type(weights).__name__}",
            code="package",
        )
    if draws and not config.is_sampled:
        raise InputError(
            f"the weights of {described(config)} have a method draw, which predictions call only "
            f"if {type(config).__name__} sets is_sampled = True",
            code="package",
        )
    complete_weights(weights)
    return weights
