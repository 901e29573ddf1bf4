"""Tokenisation of texts, and padded batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from bayeslora.backbones.load import Backbone
from bayeslora.backbones.template import PAIR, Template
from bayeslora.errors import InputError
from bayeslora.foreign import reading

_LONG = 64  # characters per token; English has four or five
_FEWEST = 128  # tokens
_AT_A_TIME = 4096  # texts per call of the tokenizer

UNEQUAL_TEXTS = ("text", "text and more text, so that the other one is padded beside it")
"""Two texts whose lengths differ under any tokenizer, so that the first needs padding."""


Batch = dict[str, Tensor]
"""Keyword arguments of a forward pass, each [B, ...]."""


@dataclass(frozen=True)
class Tokens:
    """Tokenised texts, unpadded.

    Attributes:
        ids: One int64 array of token ids per text.
        num_truncated: Number of texts longer than the limit.
        pad_id: Id of the padding token.
        types: Token type ids of pairs: the text (0 or 1) of each token; None if the tokenizer has
            none.
        pads_left: Whether padding precedes the text.
        num_options: C for questions with options; 0 for texts.
    """

    ids: tuple[NDArray[np.int64], ...]
    num_truncated: int
    pad_id: int
    types: tuple[NDArray[np.int64], ...] | None = None
    pads_left: bool = False
    num_options: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N]: tokens of each text."""
        return np.array([len(item) for item in self.ids], dtype=np.int64)

    @property
    def columns(self) -> dict[str, Any]:
        """Per field with a number for each token: one int64 array per text."""
        return {"ids": self.ids} | ({} if self.types is None else {"types": self.types})

    def take(self, rows: Sequence[int]) -> Self:
        """Return some of the texts; their `num_truncated` is unknown and set to 0."""
        columns: dict[str, Any] = {
            name: tuple(column[row] for row in rows) for name, column in self.columns.items()
        }
        return replace(self, num_truncated=0, **columns)

    def pad(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return the model inputs for `rows`, each [B, T] int64.

        They are `input_ids`, `attention_mask`, and `token_type_ids` unless `types` is None.
        """
        chosen = [self.ids[row] for row in rows]
        masks = [np.ones(len(item), dtype=np.int64) for item in chosen]
        inputs = {"input_ids": (chosen, self.pad_id), "attention_mask": (masks, 0)}
        if self.types is not None:
            inputs["token_type_ids"] = ([self.types[row] for row in rows], 0)
        return {name: padded(*item, left=self.pads_left) for name, item in inputs.items()}

    def arrays(self) -> Iterator[NDArray[np.int64]]:
        """Yield all arrays that determine the states of the texts, apart from their lengths."""
        for column in self.columns.values():
            yield from column


def model_inputs(batch: Batch, device: torch.device) -> Batch:
    """Return the inputs of a model on its device.

    With `groups` [B, T] the mask is [B, 1, T, T]: a token attends to its own group and, if the
    batch has `before`, also to group 0, but then to no later token.
    """
    names = (
        *("input_ids", "inputs_embeds", "pixel_values"),
        *("attention_mask", "position_ids", "token_type_ids"),
    )
    inputs = {name: batch[name].to(device) for name in names if name in batch}
    if "groups" in batch:
        groups = batch["groups"].to(device)
        seen = groups[:, None, :] == groups[:, :, None]
        if "before" in batch:
            seen = (seen | (groups[:, None, :] == 0)).tril()
        inputs["attention_mask"] = seen[:, None]
    return inputs


def real_tokens(name: str, states: Tensor, mask: Tensor) -> Tensor:
    """Return a boolean mask [...] of the states of a batch that belong to real tokens.

    If a layer sees one state per row, all of them are real.

    Args:
        name: Name of the layer in the error message.
        states: [B, T, d], [B·T, d], or [B, d].
        mask: [B, T], 1 at real tokens.

    Raises:
        InputError: The states have another shape.
    """
    rows, tokens = mask.shape
    leading = states.shape[:-1]
    if leading == (rows,):
        return torch.ones(rows, dtype=torch.bool, device=states.device)
    if leading not in {(rows, tokens), (rows * tokens,)}:
        raise InputError(
            f"{name} has inputs of shape {list(states.shape)}, expected {rows} rows of {tokens} "
            f"tokens, or {rows} rows; choose other target_modules"
        )
    return mask.bool().reshape(leading).to(states.device)


def tokenise(
    backbone: Backbone,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int,
    as_its_owner: bool = False,
    keep_end: bool = False,
) -> Tokens:
    """Tokenise texts, or pairs of texts, to at most `max_length` tokens.

    With a template, its text is cut first, then the second text, so that the frame survives.
    Without a template, an encoder's tokenizer joins and cuts pairs itself, and a decoder reads the
    two texts on separate lines; the first is cut, so that the end, where the feature is read, is
    kept.

    Args:
        backbone: Provides the tokenizer, the template and the position limit.
        texts: N texts.
        pairs: N second texts, or None.
        max_length: Maximal number of tokens.
        as_its_owner: Whether to leave everything to the tokenizer, including a decoder's pairs and
            the types of single texts, as for a classifier that was trained elsewhere.
        keep_end: Whether a text in a template is cut at its beginning, and only once its second
            text is empty.

    Raises:
        InputError: The template leaves no room for a text or does not match the presence of second
            texts.
    """
    limit = usable_length(backbone, max_length)
    pad_id = int(backbone.tokenizer.pad_token_id or 0)
    template = backbone.template
    if template is not None:
        _check_template(backbone, template, limit, pairs=pairs is not None)
    joined = (
        template is None and pairs is not None and backbone.kind == "decoder" and not as_its_owner
    )
    typed = template is None and (pairs is not None or as_its_owner)
    if getattr(backbone.tokenizer, "truncation_side", "right") == "right":
        most = characters(limit)
        texts = texts if keep_end else [text[:most] for text in texts]
        pairs = pairs if pairs is None or joined else [pair[:most] for pair in pairs]
    ids: list[NDArray[np.int64]] = []
    types: list[NDArray[np.int64]] = []
    cut = 0
    # A tokenizer's lists of Python integers take far more memory than the arrays.
    for start in range(0, len(texts), _AT_A_TIME):
        first = texts[start : start + _AT_A_TIME]
        second = None if pairs is None else pairs[start : start + _AT_A_TIME]
        # Regular expressions of a foreign tokenizer may fail on a text with a Rust panic.
        with reading(f"the tokenizer of {backbone.name} failed on a text"):
            if template is not None:
                encoded, was_cut = framed(
                    backbone.tokenizer,
                    template,
                    first,
                    second,
                    limit,
                    pair_first=keep_end,
                    keep_end=keep_end,
                )
                num_cut = int(was_cut.sum())
            elif joined and second is not None:
                encoded, num_cut = _decoder_pairs(backbone.tokenizer, first, second, limit)
            else:
                encoded, num_cut = _plain(backbone.tokenizer, first, second, limit)
        # A text without tokens gets the feature of one padding token.
        ids += _arrays(encoded["input_ids"], pad_id)
        types += _arrays(encoded.get("token_type_ids", []), 0) if typed else []
        cut += num_cut
    return Tokens(tuple(ids), cut, pad_id, tuple(types) if types else None)


def characters(limit: int) -> int:
    """Return a number of characters that surely holds the first `limit` tokens of a text.

    Tokenising a book takes minutes, though most of it is cut off.
    """
    return _LONG * max(limit, _FEWEST)


def _check_template(backbone: Backbone, template: Template, limit: int, *, pairs: bool) -> None:
    if pairs != template.takes_pairs:
        problem = "no place for them" if pairs else "a place for them, but the data has none"
        raise InputError(f"second texts: the template has {problem} ({PAIR})")
    frame = len(backbone.tokenizer(template.filled("").whole)["input_ids"])
    if frame >= limit:
        raise InputError(
            f"the template alone has {frame} tokens, which leaves no room for a text within "
            f"{limit} tokens; shorten it or raise max_length"
        )


def _arrays(lists: Sequence[list[int]], empty: int) -> list[NDArray[np.int64]]:
    return [np.asarray(item or [empty], dtype=np.int64) for item in lists]


def padded(arrays: Sequence[NDArray[np.int64]], fill: int, *, left: bool = False) -> Tensor:
    """Return [B, T] int64: arrays of different lengths, padded on one side."""
    rows, side = [torch.from_numpy(item) for item in arrays], "left" if left else "right"
    return pad_sequence(rows, batch_first=True, padding_value=fill, padding_side=side)


def length_batches(lengths: NDArray[np.int64], batch_size: int) -> Iterator[list[int]]:
    """Yield all rows in batches of similar length, longest first.

    The longest batch comes first, so that running out of memory happens immediately or never.
    """
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size].tolist()


def position_limit(backbone: Backbone) -> int | None:
    """Return the maximal number of tokens that a model has positions for; None for no limit.

    Models with only relative positions, such as DeBERTa-v2, may configure a number without effect.
    """
    config = getattr(backbone.model, "config", None)
    limit = getattr(config, "max_position_embeddings", None)
    tables = [
        part
        for name, part in backbone.model.named_modules()
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding)
    ]
    is_relative = bool(getattr(config, "relative_attention", False)) and not tables
    if not isinstance(limit, int) or limit <= 0 or is_relative:
        return None
    # RoBERTa-like models count positions of real tokens from the padding index on.
    reserved = [part.padding_idx + 1 for part in tables if part.padding_idx is not None]
    return limit - max(reserved, default=0)


def usable_length(backbone: Backbone, max_length: int) -> int:
    """Return the maximal number of tokens per text: `max_length`, or fewer by its positions."""
    return min(max_length, position_limit(backbone) or max_length)


def _plain(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, limit: int
) -> tuple[dict[str, list[list[int]]], int]:
    second = None if pairs is None else list(pairs)
    # verbose=False: texts beyond the model's length are expected and counted below.
    whole = dict(tokenizer(list(texts), second, add_special_tokens=True, verbose=False))
    long = [row for row, item in enumerate(whole["input_ids"]) if len(item) > limit]
    if long:
        truncated = tokenizer(
            [texts[row] for row in long],
            None if pairs is None else [pairs[row] for row in long],
            truncation=True,
            max_length=limit,
        )
        for name, items in whole.items():
            for row, item in zip(long, truncated[name], strict=True):
                items[row] = item
    return whole, len(long)


def _decoder_pairs(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str], limit: int
) -> tuple[dict[str, list[list[int]]], int]:
    first = tokenizer([f"{text}\n" for text in texts], verbose=False)["input_ids"]
    second = tokenizer(list(pairs), add_special_tokens=False, verbose=False)["input_ids"]
    ids, cut = [], 0
    for head, tail in zip(first, second, strict=True):
        cut += len(head) + len(tail) > limit
        end = tail[-limit:]
        ids.append(head[: limit - len(end)] + end)
    return {"input_ids": ids}, cut


def framed(
    tokenizer: Any,
    template: Template,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    limits: int | Sequence[int],
    *,
    pair_first: bool = False,
    keep_end: bool = False,
) -> tuple[dict[str, list[list[int]]], NDArray[np.bool_]]:
    """Return the ids of filled templates with at most `limits` tokens, and which texts were cut.

    The whole string is tokenised at once, as by any other tool. A text that is too long is cut at
    the character where its first superfluous token begins, repeatedly, since the tokens at the cut
    may change.

    Args:
        tokenizer: Fast tokenizer, which knows the characters of each token.
        template: Template whose frame alone fits.
        texts: N texts.
        pairs: N second texts, or None; cut once the text is empty.
        limits: Maximal number of tokens, of all texts or of each.
        pair_first: Whether to cut second texts first, and texts once these are empty.
        keep_end: Whether to cut texts at the beginning.
    """
    first = list(texts)
    second: list[str | None] = [None] * len(first) if pairs is None else list(pairs)
    ids: list[list[int]] = [[] for _ in first]
    pending, cut = list(range(len(first))), np.zeros(len(first), dtype=bool)
    most = np.broadcast_to(limits, len(first))
    while pending:
        filled = [template.filled(first[row], second[row]) for row in pending]
        encoded = tokenizer(
            [item.whole for item in filled],
            add_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        too_long = []
        for index, (row, item) in enumerate(zip(pending, filled, strict=True)):
            ids[row] = encoded["input_ids"][index]
            excess = len(ids[row]) - int(most[row])
            if excess > 0:
                offsets = encoded["offset_mapping"][index]
                pair = item.pair if item.pair is not None and item.pair[0] < item.pair[1] else None
                cuts_pair = pair is not None and (pair_first or item.text[0] == item.text[1])
                if pair is not None and cuts_pair:
                    second[row] = (second[row] or "")[: _num_kept(pair, excess, offsets)]
                elif item.text[0] < item.text[1]:
                    num_kept = _num_kept(item.text, excess, offsets)
                    first[row] = (
                        first[row][-num_kept:] if keep_end and num_kept else first[row][:num_kept]
                    )
                else:
                    continue  # nothing is left to cut
                too_long.append(row)
        cut[too_long] = True
        pending = too_long
    return {"input_ids": ids}, cut


def _num_kept(span: tuple[int, int], excess: int, offsets: Sequence[tuple[int, int]]) -> int:
    """Return how many characters of a text, fewer than it has, remain without `excess` tokens."""
    start, end = span
    inside = [low for low, high in offsets if low < end and high > start and high > low]
    if len(inside) <= excess:
        return 0
    return min(max(inside[-excess] - start, 0), end - start - 1)
