"""How many layers of a backbone are read: a decoder's last ones are made for the next token."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bayeslora.backbones.template import Template
from bayeslora.errors import InputError
from bayeslora.layer_list import find_layers
from bayeslora.option_checks import is_number, is_whole

if TYPE_CHECKING:
    from bayeslora.backbones.load import Backbone


def check_depth(depth: object) -> None:
    """Raise InputError unless a depth is a number of layers >= 1 or a share of them in (0, 1]."""
    whole = is_whole(depth) and depth >= 1
    share = is_number(depth) and not is_whole(depth) and 0 < depth <= 1
    if not (whole or share):
        raise InputError(
            "depth must be a number of layers >= 1 or a share of them such as 0.8 (1.0 is all), "
            f"got {depth!r}"
        )


def num_layers(backbone: Backbone) -> int:
    """Return how many layers a backbone has.

    Raises:
        InputError: Its layers are not one list, as where they share weights (ALBERT).
    """
    _, layers = find_layers(backbone.model)
    config: Any = backbone.model.config
    stated = getattr(config, "num_hidden_layers", None)
    if stated != len(layers):
        raise InputError(
            f"{backbone.name} cannot be read at another depth: it has a list of {len(layers)} "
            f"layers and its configuration says {stated}"
        )
    return len(layers)


def resolve_depth(backbone: Backbone, depth: float) -> int:
    """Return the number of layers that a depth stands for.

    Args:
        backbone: A whole backbone of L layers.
        depth: A number of layers from 1 to L, or, as a float, a share of L, rounded, at least 1.

    Raises:
        InputError: It is beyond the backbone's layers.
    """
    check_depth(depth)
    total = num_layers(backbone)
    layers = int(depth) if is_whole(depth) else max(1, round(depth * total))
    if layers > total:
        raise InputError(f"depth must be at most {total} for {backbone.name}, got {depth}")
    return layers


def read_at(backbone: Backbone, depth: float | None, template: Template | None) -> Backbone:
    """Return a backbone that reads texts in a frame and ends after some of its layers.

    Args:
        backbone: A whole backbone without a template, or one that is read this way already.
        depth: See `resolve_depth`; None for all layers.
        template: None for none.

    Raises:
        InputError: The depth is beyond the backbone's layers.
    """
    if template is not None:
        backbone = replace(backbone, template=template)
    return backbone if depth is None else cut(backbone, resolve_depth(backbone, depth))


def cut(backbone: Backbone, layers: int) -> Backbone:
    """Return a backbone that ends after its first `layers` layers, with its final norm.

    Every tensor is shared with the whole one, and so are states of lower layers; the fingerprint
    stays that of the whole.

    Args:
        backbone: A whole backbone; it stays as it is.
        layers: How many layers to keep, from 1 to all.
    """
    total = num_layers(backbone)
    if layers == total:
        return backbone
    shorter = backbone.clone()
    _, items = find_layers(shorter.model)
    del items[layers:]
    config: Any = shorter.model.config
    # Settings with an entry per layer, such as which ones attend to a window.
    for name, value in vars(config).copy().items():
        if isinstance(value, list) and len(value) == total:
            setattr(config, name, value[:layers])
    config.num_hidden_layers = layers
    return replace(shorter, depth=layers, known={})
