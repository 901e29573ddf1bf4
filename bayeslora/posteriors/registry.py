"""All posteriors by name: built in, registered, or from an installed package.

A method is one file: its options, which the registry imports when the name is used, and the module
that they describe, which `build_head` or `build_weights` makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeVar

from bayeslora.errors import InputError
from bayeslora.option_checks import Draws, Link, checked
from bayeslora.options import BuiltIn, Catalogue
from bayeslora.posteriors.base import Posterior

if TYPE_CHECKING:
    from bayeslora.posteriors.types import LastLayer, Network, WeightPosterior

T = TypeVar("T")

_LAST_LAYER = "bayeslora.posteriors.last_layer"
_WEIGHTS = "bayeslora.posteriors.weights"
POSTERIORS = BuiltIn(
    {
        "mle": "bayeslora.posteriors.point:MLE",
        "map": "bayeslora.posteriors.point:MAP",
        "vbll": f"{_LAST_LAYER}.vbll:VBLL",
        "gvbll": f"{_LAST_LAYER}.gvbll:GVBLL",
        "laplace": f"{_LAST_LAYER}.laplace:Laplace",
        "nuts": f"{_LAST_LAYER}.nuts:NUTS",
        "prototypes": f"{_LAST_LAYER}.prototypes:Prototypes",
        "temperature": "bayeslora.posteriors.point:TemperatureScaling",
        "mc_dropout": f"{_WEIGHTS}.mc_dropout:MCDropout",
        "ensemble": "bayeslora.posteriors.point:Ensemble",
        "laplace_lora": f"{_WEIGHTS}.laplace_lora:LaplaceLoRA",
        "swag": f"{_WEIGHTS}.swag:SWAG",
        "tfb": f"{_WEIGHTS}.tfb:TFB",
        "blob": f"{_WEIGHTS}.blob:BLoB",
        "ivon": f"{_WEIGHTS}.ivon:IVON",
        "scalabl": f"{_WEIGHTS}.scalabl:ScalaBL",
        "clora": f"{_WEIGHTS}.clora:CLoRA",
    }
)
"""The built-in posteriors by name."""

COMPARED = ("mle", "temperature", "laplace", "vbll")
"""The posteriors that a calibration is compared with, simplest first: last layers that are fitted
within seconds."""

# Keeps the seeds apart from those of the adapters' initial weights.
_SEED_STEP = 1 << 32


def own_softmax() -> Posterior:
    """Return the network's own prediction, before any posterior is fitted to it."""
    config: Posterior = POSTERIORS["mle"]()
    return config


def closed_form() -> Posterior:
    """Return a last layer that is fitted without gradients and reports its evidence."""
    config: Posterior = POSTERIORS["vbll"](covariance="eigenbasis")
    return config


def names_where(condition: Callable[[type[Posterior]], bool]) -> str:
    """Return the names of the built-in posteriors that satisfy a condition, for messages."""
    return ", ".join(repr(name) for name, config in POSTERIORS.items() if condition(config))


DEFAULT_POSTERIOR = "vbll"

CATALOGUE = Catalogue("posterior", POSTERIORS, Posterior)
"""All posteriors by name, including those of other packages."""

BEST = "best"
"""Name by which `calibrate` chooses the posterior with the lowest cross-validated NLL."""

FOR_FEW_ROWS = "laplace"
"""What `best` is where too few rows compare candidates: its mean is the network's own."""

provider = CATALOGUE.provider


def register_posterior(config: type[T]) -> type[T]:
    """Register a posterior of your own under its name, for this process; usable as a decorator.

    A package registers with an entry point instead, which needs no call: see docs/extending.md.

    Args:
        config: A frozen dataclass that derives from `Posterior`. A class registered earlier under
            the same module and class name is replaced.

    Returns:
        The class itself.

    Raises:
        InputError: The class does not derive from `Posterior`, or its name is taken.
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
        raise InputError(
            f"link {link!r} has no effect on posterior {config.name!r}",
            code="no-effect",
            options=("link",),
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
            "no draws",
            code="no-effect",
            options=("num_samples",),
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
            f"posterior {config.name!r} needs low-rank factors, and this adapter has none",
            code="no-factors",
        )


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
    """Build the last layer of a posterior.

    Args:
        config: Options of the posterior.
        num_features: d, including the constant column, if any.
        num_classes: C.
        shared: Whether one weight vector is shared by all options of a row: weights are then
            [1, d] and features [N, C, d], see `posteriors.types`.
        mean_sq_norm: Mean ‖φ‖² of the training features when training starts.
        seed: Seed of draws and Markov chains.
        extra: `extra_config()` of a fitted head, to load its state into the new one.

    Raises:
        InputError: The posterior does not support options.
    """
    cls = type(config)
    if shared and cls.head is not Posterior.head and cls.shared_head is Posterior.shared_head:
        raise InputError(
            f"posterior {config.name!r} has a weight vector per class, and the options of a "
            "question have no class",
            code="not-on-options",
        )
    made = cls.shared_head if shared else cls.head
    make: Callable[..., LastLayer] = resolve_name(made) if isinstance(made, str) else made
    classes = 1 if shared else num_classes
    head = make(config, num_features, classes, mean_sq_norm=mean_sq_norm, seed=seed)
    head.prepare(extra or {})
    return head


def build_weights(
    config: Posterior, network: Network, seed: int = 0, *, fitted: bool = False
) -> WeightPosterior | None:
    """Build the posterior over the weights of a network; None if only its last layer is random.

    Args:
        config: Options of the posterior.
        network: Network, complete except for this posterior.
        seed: Seed of a random initialisation.
        fitted: Whether tensors of a fitted posterior will be loaded into it.
    """
    return config.over_weights(network, seed=seed + _SEED_STEP, fitted=fitted)
