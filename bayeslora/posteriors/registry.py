"""Every posterior that a name can stand for: built in, registered, or of an installed package."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from bayeslora.errors import InputError
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
            "or what makes the last layer itself"
        )
    has_moment = getattr(checked, "over_trained", False) or getattr(checked, "from_start", "")
    if _defines(checked, "over_weights") and not has_moment:
        raise InputError(
            f"{where}: {checked.__name__} is over the weights of a network, so it has to say "
            "over_trained = True if it is fitted to adapters that are trained already, or in "
            "from_start why it cannot be"
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

stored_posterior = CATALOGUE.stored
provider = CATALOGUE.provider
listed_posteriors = CATALOGUE.listed


def register_posterior(config: type[T]) -> type[T]:
    """Make a posterior of your own known by its name, for this process; usable as a decorator.

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
    if value == "best":
        raise InputError(
            "posterior 'best' is chosen by calibrate among posteriors of a finished network: "
            "calibrate(..., posterior='best'), bayeslora calibrate --posterior best"
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
            f"out: it is for {having}"
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
            "nothing; leave num_samples (--num-samples) out"
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
