r"""What a decoder says of the classes before any label: rows of its own head for their names.

A language model names the next token. After a template such as `Review: {text}\nSentiment:` the
logits of the tokens " negative" and " positive" are those of a classifier that has seen no label.
They are linear in the last hidden state, so a last layer of these rows is that classifier.

Source: Schick and Schütze 2021, arXiv 2001.07676, for verbalisers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from bayeslora.backbones.load import Backbone, source_of
from bayeslora.backbones.template import Template
from bayeslora.backbones.untrusted import reading
from bayeslora.errors import InputError, unknown_choice

Verbaliser = Mapping[str, str] | Literal["names", "none"]
"""Words by class name, or all classes by their names, or no question to the language model."""

# "comp.sys.mac", "sci_med", "SciTech" and "LABEL_1" are several words each.
_WORD = re.compile(r"[^\W\d_]+?(?=[A-Z][a-z])|[^\W\d_]+|\d+")


def check_verbaliser(verbaliser: object) -> None:
    """Raise InputError unless it is `names`, `none` or words by class name."""
    if isinstance(verbaliser, str) and verbaliser in ("names", "none"):
        return
    if not isinstance(verbaliser, Mapping) or not all(
        isinstance(text, str) for pair in verbaliser.items() for text in pair
    ):
        raise InputError(
            "verbaliser must be 'names', 'none', or a mapping of class names to words, got "
            f"{verbaliser!r}"
        )


def class_words(names: Sequence[str], given: Mapping[str, str] | None = None) -> list[str]:
    """Return the words that stand for each class: those given, or the words in its name.

    Args:
        names: C class names in index order.
        given: Words by class name.

    Raises:
        InputError: A class is unknown, has no words, or the words of another class.
    """
    given = given or {}
    for name in given:
        if name not in names:
            raise InputError(f"verbaliser: {unknown_choice('class', name, names)}")
    words = []
    for name in names:
        own = " ".join(_WORD.findall(name)) or name
        words.append(" ".join(given.get(name, own).split()))
    for name, found in zip(names, words, strict=True):
        if not found:
            raise InputError(f"verbaliser: class {name!r} has no words")
        if name in given and words.count(found) > 1:
            raise InputError(f"verbaliser: two classes have the words {found!r}")
    return words


def class_rows(backbone: Backbone, words: Sequence[str]) -> Tensor:
    """Return the rows of a decoder's language-model head for the words of each class.

    The row of several tokens is their mean.

    Args:
        backbone: A decoder, whole or cut; its template says what comes before the words.
        words: Of each of C classes.

    Returns:
        [C, d] float32: `states @ rows.T` are the logits of a whole backbone's last hidden states.

    Raises:
        InputError: It is an encoder, or its head is no linear layer without bias.
    """
    if backbone.kind != "decoder":
        raise InputError(
            f"{backbone.name} is an encoder: it names no next token, so it says nothing of the "
            "classes without labels; choose a decoder"
        )
    head = head_weight(backbone)
    ids = [tokens_after(backbone.tokenizer, backbone.template, found) for found in words]
    return torch.stack([head[row].float().mean(0) for row in ids])


def head_weight(backbone: Backbone) -> Tensor:
    """Return the weight [V, d] of the language-model head.

    Raises:
        InputError: It cannot be loaded, or the head is no linear layer of the states without bias.
    """
    from transformers import AutoModelForCausalLM

    model: Any = backbone.model
    if model.config.tie_word_embeddings:
        weight: Tensor = model.get_input_embeddings().weight.detach()
    else:
        with reading(f"{backbone.name}: its language-model head cannot be loaded"):
            whole: Any = AutoModelForCausalLM.from_pretrained(
                source_of(backbone.name), dtype=next(model.parameters()).dtype, use_safetensors=True
            )
            head = whole.get_output_embeddings()
        if getattr(head, "bias", None) is not None:
            raise InputError(f"{backbone.name}: its language-model head has a bias")
        weight = head.weight.detach()
    if weight.ndim != 2 or weight.shape[1] != backbone.num_features:
        raise InputError(
            f"{backbone.name}: its language-model head has shape {list(weight.shape)}, and states "
            f"have {backbone.num_features} numbers"
        )
    return weight.to(backbone.device)


def tokens_after(tokenizer: Any, template: Template | None, words: str) -> list[int]:
    """Return the tokens of words where they come after the template."""
    before = "x" if template is None else template.filled("x", "x").whole
    between = "" if before[-1:].isspace() else " "
    start: list[int] = tokenizer(before, add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer(before + between + words, add_special_tokens=False)["input_ids"]
    pairs = enumerate(zip(start, whole, strict=False))
    same = next((place for place, (old, new) in pairs if old != new), len(start))
    return whole[same:]
