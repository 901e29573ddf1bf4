"""Depth: how many layers of a backbone to use; a decoder's last ones serve the next token."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from bayeslora.backbones.template import DEFAULT_FRAME, DEFAULT_PAIR_FRAME, RAW, Template
from bayeslora.errors import InputError
from bayeslora.foreign import find_layers
from bayeslora.option_checks import is_number

if TYPE_CHECKING:
    from bayeslora.backbones.load import Backbone


logger = logging.getLogger(__name__)

DEFAULT_SHARE, DEFAULT_FROZEN_SHARE = 0.8, 0.93
"""Default shares of a decoder's layers: with adapters, which replace the work of the upper layers,
and without; see reports/archive/reading."""


ALL_LAYERS = 1.0
"""The depth of a whole backbone, even of one whose layers are not one list."""

Depth = float | Literal["auto"]
"""A number of layers, a share of them, or `auto` for a choice by the training rows."""


def check_depth(depth: object) -> None:
    """Raise InputError unless a depth is `auto`, layers >= 1 or a share of them in (0, 1]."""
    if depth == "auto":
        return
    if not is_number(depth) or not (depth >= 1 if isinstance(depth, int) else 0 < depth <= 1):
        raise InputError(
            "depth must be a number of layers >= 1, a fraction such as 0.8 (1.0 is all layers), "
            f"or 'auto', got {depth!r}",
            option="depth",
        )


def num_layers(backbone: Backbone) -> int:
    """Return the number of layers of a backbone.

    Raises:
        InputError: Its layers are not one list, as with shared weights (ALBERT).
    """
    _, layers = find_layers(backbone.model)
    config: Any = backbone.model.config
    stated = getattr(config, "num_hidden_layers", None)
    if stated != len(layers):
        raise InputError(
            f"depth is not supported for {backbone.name}: it has a list of {len(layers)} layers, "
            f"but its configuration has {stated}"
        )
    return len(layers)


def default_depth(backbone: Backbone, *, adapted: bool) -> float | None:
    """Return the default depth: a share of a decoder's layers, else None for all.

    Args:
        backbone: A backbone; None if it is already cut or its layers are not one list.
        adapted: Whether there will be adapters.
    """
    if backbone.kind != "decoder" or backbone.depth is not None:
        return None
    try:
        num_layers(backbone)
    except InputError:
        return None
    return DEFAULT_SHARE if adapted else DEFAULT_FROZEN_SHARE


def resolve_depth(backbone: Backbone, depth: float) -> int:
    """Return the number of layers for a depth.

    Args:
        backbone: A whole backbone of L layers.
        depth: A number of layers from 1 to L, or a float share of L, rounded, at least 1.

    Raises:
        InputError: It exceeds the backbone's layers.
    """
    check_depth(depth)
    total = num_layers(backbone)
    layers = int(depth) if isinstance(depth, int) else max(1, round(depth * total))
    if layers > total:
        raise InputError(f"depth must be at most {total} for {backbone.name}, got {depth}")
    return layers


def read_at(backbone: Backbone, depth: float | None, template: Template | None) -> Backbone:
    """Return a backbone with a template and a depth.

    Args:
        backbone: A whole backbone without a template, or already in this form.
        depth: See `resolve_depth`; None for all layers.
        template: None keeps the backbone's template, if any.

    Raises:
        InputError: The depth exceeds the backbone's layers.
    """
    if template is not None:
        backbone = replace(backbone, template=None if template.frame == RAW else template)
    if depth is None or (isinstance(depth, float) and depth == ALL_LAYERS):
        return backbone
    return cut(backbone, resolve_depth(backbone, depth))


def read_as_asked(
    backbone: Backbone,
    depth: float | None,
    template: Template | None,
    *,
    pairs: bool = False,
    adapted: bool = True,
    max_length: int,
) -> tuple[Backbone, Backbone]:
    """Return a backbone with the requested or default template and depth: whole, and cut.

    By default a decoder uses a share of its layers and reads texts in the generic template, unless
    that would take more than half of the tokens. Other backbones read raw texts with all layers.

    Args:
        backbone: A whole backbone; existing settings are kept.
        depth: See `resolve_depth`; None for the default.
        template: None for the default.
        pairs: Whether there are second texts.
        adapted: Whether there will be adapters.
        max_length: Maximal number of tokens of a text with its template.

    Raises:
        InputError: The depth exceeds the backbone's layers.
    """
    if template is None and backbone.template is None and backbone.kind == "decoder":
        default = Template(DEFAULT_PAIR_FRAME if pairs else DEFAULT_FRAME)
        frame = backbone.tokenizer(default.filled("").whole)["input_ids"]
        template = default if 2 * len(frame) <= max_length else None
        if template is None:
            logger.warning(
                "no template is used for the texts: it would take %d of the %d tokens of "
                "max_length (--max-length)",
                len(frame),
                max_length,
            )
    whole = read_at(backbone, None, template)
    share = default_depth(whole, adapted=adapted)
    return whole, read_at(whole, share if depth is None else depth, None)


def cut(backbone: Backbone, layers: int) -> Backbone:
    """Return a backbone with its first `layers` layers and its final norm.

    It shares every tensor, the states of lower layers and the fingerprint with the whole backbone.

    Args:
        backbone: A whole backbone; not changed.
        layers: Number of layers to keep, from 1 to all.
    """
    total = num_layers(backbone)
    if layers == total:
        return backbone
    shorter = backbone.clone()
    _, items = find_layers(shorter.model)
    del items[layers:]
    config: Any = shorter.model.config
    # Settings with an entry per layer, such as those for sliding-window attention.
    for name, value in vars(config).copy().items():
        if isinstance(value, list) and len(value) == total:
            setattr(config, name, value[:layers])
    config.num_hidden_layers = layers
    return replace(shorter, depth=layers, known={})
