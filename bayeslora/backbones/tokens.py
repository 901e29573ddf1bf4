"""Texts to token ids, and token ids to padded batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bayeslora.backbones.load import Backbone


@dataclass(frozen=True)
class Tokens:
    """Tokenised texts, unpadded.

    Attributes:
        ids: One int64 array of token ids a text.
        num_truncated: How many texts were longer than the limit.
        pad_id: The id that padding takes.
    """

    ids: tuple[NDArray[np.int64], ...]
    num_truncated: int
    pad_id: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N]: tokens of each text."""
        return np.array([len(item) for item in self.ids], dtype=np.int64)

    def pad(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return `input_ids` and `attention_mask` [B, T] int64 of `rows`, padded on the right."""
        chosen = [self.ids[row] for row in rows]
        width = max(len(item) for item in chosen)
        input_ids = np.full((len(chosen), width), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(chosen), width), dtype=np.int64)
        for place, item in enumerate(chosen):
            input_ids[place, : len(item)] = item
            mask[place, : len(item)] = 1
        return torch.from_numpy(input_ids), torch.from_numpy(mask)


def tokenise(
    backbone: Backbone,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int,
) -> Tokens:
    """Tokenise texts, or pairs of texts, to at most `max_length` tokens.

    An encoder's pair is joined and cut as its tokenizer does it. A decoder reads the two texts on
    separate lines; the first is cut, so that the end, where the feature is read, is kept.
    """
    tokenizer = backbone.tokenizer
    limit = min(max_length, _position_limit(backbone))
    if pairs is not None and backbone.kind == "decoder":
        ids, cut = _decoder_pairs(tokenizer, texts, pairs, limit)
    else:
        ids, cut = _plain(tokenizer, texts, pairs, limit)
    pad_id = int(tokenizer.pad_token_id or 0)
    # A text without tokens still has a feature: that of one padding token.
    arrays = tuple(np.asarray(item or [pad_id], dtype=np.int64) for item in ids)
    return Tokens(arrays, cut, pad_id)


def length_batches(lengths: NDArray[np.int64], batch_size: int) -> Iterator[list[int]]:
    """Yield all rows in batches of similar length, the longest first.

    The longest batch comes first so that running out of memory happens at once or not at all.
    """
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size].tolist()


def _position_limit(backbone: Backbone) -> int:
    limit = getattr(backbone.model.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return 1 << 30
    # RoBERTa and its kin count real tokens from the padding's position on.
    reserved = [
        part.padding_idx + 1
        for name, part in backbone.model.named_modules()
        if name.endswith("position_embeddings")
        and isinstance(part, nn.Embedding)
        and part.padding_idx is not None
    ]
    return limit - max(reserved, default=0)


def _plain(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, limit: int
) -> tuple[list[list[int]], int]:
    second = None if pairs is None else list(pairs)
    # verbose=False: exceeding the model's length is expected here and counted below.
    whole = tokenizer(list(texts), second, add_special_tokens=True, verbose=False)["input_ids"]
    long = [row for row, item in enumerate(whole) if len(item) > limit]
    if long:
        again = tokenizer(
            [texts[row] for row in long],
            None if pairs is None else [pairs[row] for row in long],
            truncation=True,
            max_length=limit,
        )["input_ids"]
        for row, item in zip(long, again, strict=True):
            whole[row] = item
    return whole, len(long)


def _decoder_pairs(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str], limit: int
) -> tuple[list[list[int]], int]:
    first = tokenizer([f"{text}\n" for text in texts], verbose=False)["input_ids"]
    second = tokenizer(list(pairs), add_special_tokens=False, verbose=False)["input_ids"]
    ids, cut = [], 0
    for head, tail in zip(first, second, strict=True):
        cut += len(head) + len(tail) > limit
        kept = tail[-limit:]
        ids.append(head[: limit - len(kept)] + kept)
    return ids, cut
