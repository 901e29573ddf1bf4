"""Tokenisation of texts in a template, with truncation that preserves the frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.backbones.template import Template


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
        tokenizer: Tokenizer; with `is_fast` the cut is exact, otherwise proportional.
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
            return_offsets_mapping=bool(tokenizer.is_fast),
            verbose=False,
        )
        too_long = []
        for index, (row, item) in enumerate(zip(pending, filled, strict=True)):
            ids[row] = encoded["input_ids"][index]
            excess = len(ids[row]) - int(most[row])
            if excess > 0:
                offsets = encoded["offset_mapping"][index] if tokenizer.is_fast else None
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


def _num_kept(span: tuple[int, int], excess: int, offsets: Sequence[tuple[int, int]] | None) -> int:
    """Return how many characters of a text, fewer than it has, remain without `excess` tokens."""
    start, end = span
    if offsets is None:
        return max(0, min(end - start - excess, (end - start) * 9 // 10))
    inside = [low for low, high in offsets if low < end and high > start and high > low]
    if len(inside) <= excess:
        return 0
    return min(max(inside[-excess] - start, 0), end - start - 1)
