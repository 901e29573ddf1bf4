"""Tokenising texts inside a template, cut so that the frame survives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bayeslora.backbones.template import Template


def framed(
    tokenizer: Any,
    template: Template,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    limit: int,
    *,
    pair_first: bool = False,
    keep_end: bool = False,
) -> tuple[dict[str, list[list[int]]], int]:
    """Return the ids of filled templates of at most `limit` tokens, and how many texts were cut.

    The whole string is tokenised at once, as any other tool would do with it, and a text that is
    too long is cut in characters, where its first superfluous token begins. Cut again and again,
    since the tokens at the cut may come out differently.

    Args:
        tokenizer: Of a model; with `is_fast` the cut is exact, otherwise by proportion.
        template: Its frame alone has to fit.
        texts: N texts.
        pairs: N second texts, or None; they are cut once nothing is left of the text.
        limit: Tokens kept.
        pair_first: Whether second texts are cut first, and texts once nothing is left of these.
        keep_end: Whether texts lose their beginning.
    """
    first = list(texts)
    second: list[str | None] = [None] * len(first) if pairs is None else list(pairs)
    ids: list[list[int]] = [[] for _ in first]
    todo, cut = list(range(len(first))), 0
    while todo:
        filled = [template.filled(first[row], second[row]) for row in todo]
        found = tokenizer(
            [item.whole for item in filled],
            add_special_tokens=True,
            return_offsets_mapping=bool(tokenizer.is_fast),
            verbose=False,
        )
        long = []
        for place, (row, item) in enumerate(zip(todo, filled, strict=True)):
            ids[row] = found["input_ids"][place]
            excess = len(ids[row]) - limit
            if excess > 0:
                offsets = found["offset_mapping"][place] if tokenizer.is_fast else None
                pair = item.pair if item.pair is not None and item.pair[0] < item.pair[1] else None
                cuts_pair = pair is not None and (pair_first or item.text[0] == item.text[1])
                if pair is not None and cuts_pair:
                    second[row] = (second[row] or "")[: _kept(pair, excess, offsets)]
                elif item.text[0] < item.text[1]:
                    kept = _kept(item.text, excess, offsets)
                    first[row] = first[row][-kept:] if keep_end and kept else first[row][:kept]
                else:
                    continue  # nothing is left to cut
                long.append(row)
        cut = max(cut, len(long))
        todo = long
    return {"input_ids": ids}, cut


def _kept(span: tuple[int, int], excess: int, offsets: Sequence[tuple[int, int]] | None) -> int:
    """Return how many characters of a text to keep, fewer than it has, to lose `excess` tokens."""
    start, end = span
    if offsets is None:
        return max(0, min(end - start - excess, (end - start) * 9 // 10))
    inside = [low for low, high in offsets if low < end and high > start and high > low]
    if len(inside) <= excess:
        return 0
    return min(max(inside[-excess] - start, 0), end - start - 1)
