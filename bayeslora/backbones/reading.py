r"""Depth at which a backbone is read, and words for its classes.

A decoder is used below its last layers, which serve the next token. After a template such as
`Review: {text}\nSentiment:` the logits of the next tokens " negative" and " positive" are those of
a zero-shot classifier. They are linear in the last hidden state, so a last layer with these rows is
this classifier.

Source: Schick and Schütze 2021, arXiv 2001.07676, for verbalisers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from bayeslora.backbones.load import Backbone, source_of
from bayeslora.backbones.template import DEFAULT_FRAME, DEFAULT_PAIR_FRAME, RAW, Template
from bayeslora.errors import InputError, unknown_choice
from bayeslora.foreign import find_layers

DEFAULT_SHARE, DEFAULT_FROZEN_SHARE = 0.8, 0.93
"""Default shares of a decoder's layers: with adapters, which replace the work of the upper layers,
and without; see reports/archive/reading."""


ALL_LAYERS = 1.0
"""The depth of a whole backbone, even of one whose layers are not one list."""


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
) -> tuple[Backbone, Backbone]:
    """Return a backbone with the requested or default template and depth: whole, and cut.

    By default a decoder uses a share of its layers and reads texts in the generic template. Other
    backbones read raw texts with all layers.

    Args:
        backbone: A whole backbone; existing settings are kept.
        depth: See `resolve_depth`; None for the default.
        template: None for the default.
        pairs: Whether there are second texts.
        adapted: Whether there will be adapters.

    Raises:
        InputError: The depth exceeds the backbone's layers.
    """
    if template is None and backbone.template is None and backbone.kind == "decoder":
        template = Template(DEFAULT_PAIR_FRAME if pairs else DEFAULT_FRAME)
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


Verbaliser = Mapping[str, str] | Literal["names", "none"]
"""Words by class name, `names` for the class names themselves, or `none` for no verbaliser."""

# "comp.sys.mac", "sci_med", "SciTech" and "LABEL_1" are several words each.
_WORD = re.compile(r"[^\W\d_]+?(?=[A-Z][a-z])|[^\W\d_]+|\d+")


def class_words(names: Sequence[str], verbaliser: Mapping[str, str] | None = None) -> list[str]:
    """Return the words of each class: from `verbaliser`, or else from its name.

    Args:
        names: C class names in index order.
        verbaliser: Words by class name.

    Raises:
        InputError: A class is unknown.
    """
    verbaliser = verbaliser or {}
    for name in verbaliser:
        if name not in names:
            raise InputError(f"verbaliser: {unknown_choice('class', name, names)}")
    words = []
    for name in names:
        default = " ".join(_WORD.findall(name)) or name
        words.append(" ".join(verbaliser.get(name, default).split()))
    return words


def class_rows(backbone: Backbone, words: Sequence[str]) -> Tensor:
    """Return the rows of a decoder's language-model head for the words of each class.

    Rows of several tokens are averaged.

    Args:
        backbone: A decoder, whole or cut; its template precedes the words.
        words: Words of each of C classes.

    Returns:
        [C, d] float32: `states @ rows.T` are the logits of a whole backbone's last hidden states.

    Raises:
        InputError: It is an encoder, or its head is not a linear layer without bias.
    """
    if backbone.kind != "decoder":
        raise InputError(
            f"a verbaliser needs a decoder, and {backbone.name} is an encoder; choose a decoder"
        )
    head = head_weight(backbone)
    ids = [tokens_after(backbone.tokenizer, backbone.template, phrase) for phrase in words]
    return torch.stack([head[row].float().mean(0) for row in ids])


def head_weight(backbone: Backbone) -> Tensor:
    """Return the weight [V, d] of the language-model head.

    Raises:
        InputError: The head has a bias.
    """
    from transformers import AutoModelForCausalLM

    model: Any = backbone.model
    if model.config.tie_word_embeddings:
        weight: Tensor = model.get_input_embeddings().weight.detach()
    else:
        whole: Any = AutoModelForCausalLM.from_pretrained(
            source_of(backbone.name), dtype=next(model.parameters()).dtype, use_safetensors=True
        )
        head = whole.get_output_embeddings()
        if getattr(head, "bias", None) is not None:
            raise InputError(f"{backbone.name}: its language-model head has a bias")
        weight = head.weight.detach()
    return weight.to(backbone.device)


def tokens_after(tokenizer: Any, template: Template | None, words: str) -> list[int]:
    """Return the tokens of words that follow the template."""
    prompt = "x" if template is None else template.filled("x", "x").whole
    separator = "" if prompt[-1:].isspace() else " "
    start: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer(prompt + separator + words, add_special_tokens=False)["input_ids"]
    pairs = enumerate(zip(start, whole, strict=False))
    common = next((index for index, (old, new) in pairs if old != new), len(start))
    return whole[common:]
