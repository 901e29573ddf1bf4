r"""Zero-shot classification by a decoder: rows of its language-model head for the class names.

After a template such as `Review: {text}\nSentiment:` the logits of the next tokens " negative" and
" positive" are those of a zero-shot classifier. They are linear in the last hidden state, so a last
layer with these rows is this classifier.

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
from bayeslora.errors import InputError, unknown_choice
from bayeslora.foreign import reading

Verbaliser = Mapping[str, str] | Literal["names", "none"]
"""Words by class name, `names` for the class names themselves, or `none` for no verbaliser."""

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


def class_words(names: Sequence[str], verbaliser: Mapping[str, str] | None = None) -> list[str]:
    """Return the words of each class: from `verbaliser`, or else from its name.

    Args:
        names: C class names in index order.
        verbaliser: Words by class name.

    Raises:
        InputError: A class is unknown, has no words, or has the same words as another class.
    """
    verbaliser = verbaliser or {}
    for name in verbaliser:
        if name not in names:
            raise InputError(f"verbaliser: {unknown_choice('class', name, names)}")
    words = []
    for name in names:
        default = " ".join(_WORD.findall(name)) or name
        words.append(" ".join(verbaliser.get(name, default).split()))
    for name, phrase in zip(names, words, strict=True):
        if not phrase:
            raise InputError(f"verbaliser: class {name!r} has no words")
        if name in verbaliser and words.count(phrase) > 1:
            raise InputError(f"verbaliser: two classes have the words {phrase!r}")
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
        InputError: The head cannot be loaded, or is not a linear layer of the states without bias.
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
            f"{backbone.name}: its language-model head has shape {list(weight.shape)}, but its "
            f"states have {backbone.num_features} features"
        )
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
