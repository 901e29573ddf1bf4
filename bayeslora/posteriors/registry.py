"""Every posterior that a name can stand for: built in, registered, or of an installed package.

`build_head` and `build_weights` make what its options describe, and check that of another package.
Free of torch until they are called.
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
from bayeslora.posteriors.last_layer.estimates import MAP, MLE, TemperatureScaling
from bayeslora.posteriors.last_layer.gvbll.options import GVBLL
from bayeslora.posteriors.last_layer.laplace.options import Laplace
from bayeslora.posteriors.last_layer.nuts.options import NUTS
from bayeslora.posteriors.last_layer.prototypes.options import Prototypes
from bayeslora.posteriors.last_layer.vbll.options import VBLL
from bayeslora.posteriors.weights.blob.options import BLoB
from bayeslora.posteriors.weights.clora.options import CLoRA
from bayeslora.posteriors.weights.dropout.options import MCDropout
from bayeslora.posteriors.weights.ensemble import Ensemble
from bayeslora.posteriors.weights.ivon.options import IVON
from bayeslora.posteriors.weights.laplace_lora.options import LaplaceLoRA
from bayeslora.posteriors.weights.scalabl.options import ScalaBL
from bayeslora.posteriors.weights.swag.options import SWAG
from bayeslora.posteriors.weights.tfb.options import TFB

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

OWN_SOFTMAX = MLE()
"""The answer of a network itself, before any posterior is fitted to it."""

CLOSED_FORM = VBLL(covariance="eigenbasis")
"""A last layer that is fitted to features without gradients, and says the evidence of a fit."""

# Other numbers than those that the adapters start from.
_SEED_STEP = 1 << 32

_TEXTS = ("name", "summary", "source", "passes", "parameters")


def check_posterior(found: Any, where: str) -> type[Any]:
    """Return a class of another package, completed, if it can stand for a posterior.

    Args:
        found: What should be a frozen dataclass with the class variables `name`, `summary`,
            `source`, `passes`, `parameters` (text) and `head` (`module:object`, or the object). A
            subclass of `Posterior` that defines `make_head` or `over_weights` needs no `head`.
        where: What it is and whose, for messages.

    Raises:
        InputError: It is something else; the message says what is missing.
    """
    checked = check_options_class(found, where, _TEXTS)
    head = getattr(checked, "head", None)
    has_head = callable(head) or (isinstance(head, str) and ":" in head)
    is_option = "head" in {field.name for field in dataclasses.fields(checked)}
    if is_option or not (has_head or _defines(checked, "make_head", "over_weights")):
        raise InputError(
            f"{where}: {checked.__name__} lacks the class variables 'head'; it is 'module:object', "
            "or what makes the last layer itself",
            code="package",
        )
    has_moment = getattr(checked, "over_trained", False) or getattr(checked, "from_start", "")
    if _defines(checked, "over_weights") and not has_moment:
        raise InputError(
            f"{where}: {checked.__name__} is over the weights of a network, so it has to say "
            "over_trained = True if it is fitted to adapters that are trained already, or in "
            "from_start why it cannot be",
            code="package",
        )
    return completed(checked)


def _defines(found: type[Any], *hooks: str) -> bool:
    """Return whether a class derives from `Posterior` and has a hook of its own."""
    return issubclass(found, Posterior) and any(
        getattr(found, hook) is not getattr(Posterior, hook) for hook in hooks
    )


def names_where(holds: Callable[[type[Posterior]], bool]) -> str:
    """Return the built-in posteriors of which something holds, by name, for messages."""
    return ", ".join(repr(name) for name, one in POSTERIORS.items() if holds(one))


CATALOGUE = Catalogue("posterior", POSTERIORS, check_posterior)
"""Every posterior by name, those of other packages included."""

BEST = "best"
"""What `calibrate` takes for the posterior with the lowest cross-validated NLL."""

stored_posterior = CATALOGUE.stored
provider = CATALOGUE.provider


def register_posterior(config: type[T]) -> type[T]:
    """Register a posterior of your own under its name, for this process; usable as a decorator.

    A package registers with an entry point instead, which needs no call: see docs/extending.md.

    Args:
        config: A frozen dataclass of options with the class variables `name`, `summary`, `source`,
            `passes`, `parameters` and `head`, or a subclass of `Posterior`; see
            `check_posterior`. What was defined and registered before under the
            same module and class name is replaced.

    Returns:
        The class itself.

    Raises:
        InputError: It is not such a class, or its name is taken.
    """
    return CATALOGUE.register(config)


def resolve_posterior(value: object) -> Any:
    """Return the options that a name, `name:key=value,…`, a mapping or an object stands for.

    Packages are looked through only for a name that is neither built in nor registered.

    Raises:
        InputError: The name, an option or its value is not allowed, or the package that provides
            the posterior is broken.
    """
    if value == BEST:
        raise InputError(
            f"posterior {BEST!r} is chosen by calibrate among posteriors of a finished network: "
            f"calibrate(..., posterior={BEST!r}), bayeslora calibrate --posterior {BEST}"
        )
    return CATALOGUE.resolve(value)


def check_link(config: Any, link: str | None) -> None:
    """Raise InputError for a link that a prediction would not use.

    Args:
        config: Options of the posterior.
        link: What was asked for; None takes the posterior's own.

    Raises:
        InputError: There is no such link, or the posterior has none to choose.
    """
    if link is None:
        return
    checked("link", link, Link)
    if config.link is None:
        having = names_where(lambda one: bool(one.link))
        raise InputError(
            f"link {link!r} has no effect on posterior {config.name!r}, whose probabilities are "
            "the softmax of its logits, or the mean of that over its draws; leave link (--link) "
            f"out: it is for {having}",
            code="no-effect",
        )


def check_draws(config: Any, num_samples: int) -> None:
    """Raise InputError for a number of draws that a prediction would not use.

    Args:
        config: Options of the posterior.
        num_samples: What was asked for; 0, the mean, is right for every posterior.
    """
    checked("num_samples", num_samples, Draws)
    if num_samples and config.name in POSTERIORS and config.num_samples is None:
        raise InputError(
            f"num_samples {num_samples} has no effect on posterior {config.name!r}, which draws "
            "nothing; leave num_samples (--num-samples) out",
            code="no-effect",
        )


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
            f"posterior {config.name!r} is over factors, and this adapter has "
            "none; choose a low-rank adapter, or another posterior: "
            f"{names_where(lambda one: not one.over_factors)}",
            code="no-factors",
        )


def draws_to_predict(config: Any, num_samples: int | None) -> bool:
    """Return whether a prediction draws anything, so that its seed has an effect.

    Chains and mixtures keep the draws of their fit; of another package's posterior nothing is
    known, and it counts as drawing.

    Args:
        config: Options of the posterior.
        num_samples: Draws that were asked for; None takes the posterior's own number.
    """
    if config.name not in POSTERIORS:
        return True
    draws = config.link is not None or config.is_sampled
    return bool(draws and (config.num_samples if num_samples is None else num_samples))


def described(config: Any) -> str:
    """Return the name of a posterior, with its package where it is not our own, for messages."""
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
    try:
        head.prepare(extra or {})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the record of a fitted {config.name} head is damaged: {error}", code="damaged"
        ) from None
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
            f"the head of {described(config)}, {found!r}, cannot be loaded: {error}",
            code="package",
        ) from error
    return factory


def _shared(config: Posterior, num_features: int, **options: Any) -> LastLayer:
    if type(config).head:
        raise InputError(
            f"{described(config)} has no last layer for the format 'options', whose options share "
            "one weight vector; take the format 'letters'",
            code="not-on-options",
        )
    return config.make_shared_head(num_features, **options)


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
            f"the head of {described(config)}, a {type(head).__name__}, lacks {missing}; "
            "bayeslora.posteriors.types.LastLayer says what a last layer must be able to do",
            code="package",
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
        raise FailedError(f"the weights of {described(config)} cannot be made: {reason}") from error
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
            f"the weights of {described(config)} have a method draw that no prediction would call; "
            f"{type(config).__name__} has to say is_sampled = True",
            code="package",
        )
    complete_weights(weights)
    return weights
