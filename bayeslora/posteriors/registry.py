"""Every posterior that a name can stand for: built in, registered, or of an installed package."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from bayeslora import options
from bayeslora._version import __version__
from bayeslora.errors import InputError
from bayeslora.option_checks import LINKS, check_choice, check_count
from bayeslora.posteriors.base import Posterior, completed
from bayeslora.posteriors.config import VBLL
from bayeslora.posteriors.last_layer.estimates import MAP, MLE, TemperatureScaling
from bayeslora.posteriors.last_layer.gvbll.options import GVBLL
from bayeslora.posteriors.last_layer.laplace.options import Laplace
from bayeslora.posteriors.last_layer.nuts.options import NUTS
from bayeslora.posteriors.plugins import Offer, check_options_class, offers
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

logger = logging.getLogger(__name__)

_LAST_LAYER = (MLE, MAP, VBLL, GVBLL, Laplace, NUTS, TemperatureScaling)
_WEIGHTS = (MCDropout, Ensemble, LaplaceLoRA, SWAG, TFB, BLoB, IVON, ScalaBL, CLoRA)
POSTERIORS: dict[str, type[Posterior]] = {
    config.name: config for config in (*_LAST_LAYER, *_WEIGHTS)
}
"""The built-in posteriors by name."""

# The one thing here that changes, and `register_posterior` alone changes it.
_registered: dict[str, type[Any]] = {}


@dataclass(frozen=True)
class Listed:
    """A posterior with its origin.

    Attributes:
        config: The class of its options.
        package: Who provides it: a package with its version, or the module that registered it.
    """

    config: type[Any]
    package: str


class _Available(Mapping[str, type[Any]]):
    """Classes of options by name; a package's is imported when it is asked for, and no other."""

    def __getitem__(self, name: str) -> type[Any]:
        known = POSTERIORS.get(name) or _registered.get(name)
        if known is not None:
            return known
        found = _offered(name)
        if not found:
            raise KeyError(name)
        if len(found) > 1:
            packages = ", ".join(offer.package for offer in found)
            raise InputError(f"posterior {name!r} is offered by several packages: {packages}")
        return found[0].load()

    def __contains__(self, name: object) -> bool:
        return name in POSTERIORS or name in _registered or bool(_offered(name))

    def __iter__(self) -> Iterator[str]:
        theirs = (offer.name for offer in offers())
        return iter(dict.fromkeys([*POSTERIORS, *_registered, *theirs]))

    def __len__(self) -> int:
        return sum(1 for _ in self)


_AVAILABLE = _Available()


def register_posterior(config: type[T]) -> type[T]:
    """Make a posterior of your own known by its name, for this process; usable as a decorator.

    A package registers with an entry point instead, which needs no call: see docs/extending.md.

    Args:
        config: A frozen dataclass of options with the class variables `name`, `summary`, `source`,
            `passes`, `parameters` and `head`, or a subclass of `Posterior`; see
            `check_options_class`. What was defined and registered before under the
            same module and class name is replaced.

    Returns:
        The class itself.

    Raises:
        InputError: It is not such a class, or its name is taken.
    """
    check_options_class(config, f"posterior {getattr(config, 'name', config)!r}")
    name: str = config.name  # type: ignore[attr-defined]
    if name in POSTERIORS:
        raise InputError(f"posterior {name!r} is built in; choose another name")
    known = _registered.get(name)
    if known is not None and _place(known) != _place(config):
        raise InputError(f"posterior {name!r} is registered already, by {_place(known)}")
    _registered[name] = completed(config)
    return config


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
    name = getattr(value, "name", None)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and isinstance(name, str):
        known = _AVAILABLE.get(name)
        if known is None or not isinstance(value, known):
            raise InputError(
                f"posterior {name!r}: class {_place(type(value))} is not registered; give it a "
                "name of its own and call bayeslora.register_posterior on it"
            )
    return options.resolve("posterior", value, _AVAILABLE)


def stored_posterior(record: Mapping[str, Any]) -> Any:
    """Return the options of a saved model's posterior.

    Args:
        record: Name and options.

    Raises:
        InputError: Nothing installed provides it, or an option is not allowed.
    """
    name = str(record.get("name"))
    if name not in _AVAILABLE:
        raise InputError(
            f"the model's posterior {name!r} is not built in and no installed package provides it; "
            "install the package that does, or call bayeslora.register_posterior on its class"
        )
    return options.resolve("posterior", record, _AVAILABLE)


def check_link(config: Any, link: str | None) -> None:
    """Complain about a link that a prediction would not use.

    Args:
        config: Options of the posterior.
        link: What was asked for; None takes the posterior's own.

    Raises:
        InputError: There is no such link, or the posterior has none to choose.
    """
    if link is None:
        return
    check_choice("link", link, LINKS)
    if config.link is None:
        having = ", ".join(repr(name) for name, one in POSTERIORS.items() if one.link)
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
    check_count("num_samples", num_samples, least=0)
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


def provider(config: Any) -> dict[str, str]:
    """Return name and version of the package that provides a posterior; nothing for our own."""
    name = config.name
    if name in POSTERIORS or name in _registered:
        return {}
    dists = (offer.entry.dist for offer in _offered(name))
    return {dist.name: dist.version for dist in dists if dist is not None}


def described(config: Any) -> str:
    """Return the name of a posterior, with its package where it is not our own, for messages."""
    packages = ", ".join(f"{name} {version}" for name, version in provider(config).items())
    return f"posterior {config.name!r}" + (packages and f" of package {packages}")


def listed_posteriors() -> list[Listed]:
    """Return every posterior that works; a warning names each package whose one does not."""
    ours = f"bayeslora {__version__}"
    found = [Listed(config, ours) for config in POSTERIORS.values()]
    found += [Listed(config, config.__module__) for config in _registered.values()]
    for offer in offers():
        if offer.name in _registered:
            continue
        try:
            found.append(Listed(_usable(offer), offer.package))
        except InputError as error:
            logger.warning("%s", error)
    return found


def _usable(offer: Offer) -> type[Any]:
    if offer.name in POSTERIORS:
        raise InputError(
            f"posterior {offer.name!r} of package {offer.package} is not used: the name is that of "
            "a posterior that is built in"
        )
    return _AVAILABLE[offer.name]


def _offered(name: object) -> list[Offer]:
    return [offer for offer in offers() if offer.name == name]


def _place(config: type[Any]) -> str:
    return f"{config.__module__}.{config.__qualname__}"
