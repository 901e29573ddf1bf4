"""Features φ [N, C, d] per option of a question, and the log-likelihood of each option.

A question and its options form one sequence of tokens. Options attend to the question and to
themselves, never to each other, and have the positions of a separate sequence: the question is run
once, and every option has the states that it would have in its own sequence. An encoder reads
question and option bidirectionally, so each of its options contains the question.

For a decoder, the last feature of an option is the mean log-likelihood of its tokens under the
adapted model. A last layer that weights it by 1 and all other features by 0 is the language model
itself. The mean over the options of a row is subtracted from all features, since no difference
between options depends on it.

With a template for questions with a blank, an option is followed by the text after the blank, and
the log-likelihood is that of this text only: the same words after every option.

Source: conditional logit, McFadden 1974; the log-likelihood per token of Brown et al. 2020, arXiv
2005.14165, section 2.4; of what follows a blank, Trinh and Le 2018, arXiv 1806.02847.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.backbones.encoder import Encoder, PreparedTexts, pool
from bayeslora.backbones.load import Backbone
from bayeslora.backbones.prefix import LayerSplit
from bayeslora.backbones.reading import head_weight
from bayeslora.backbones.template import Template, at_blank
from bayeslora.backbones.tokens import Batch, Tokens, characters, framed, model_inputs, padded
from bayeslora.errors import InputError
from bayeslora.logits import ABSENT
from bayeslora.processes import row_slices

FRAME = "Question: {text}\nAnswer:"
PAIR_FRAME = "{text_pair}\nQuestion: {text}\nAnswer:"
"""Default templates of decoders; `{text_pair}` is the context."""
FILLING_FRAME = "Sentence: {filled}"
PAIR_FILLING_FRAME = "{text_pair}\nSentence: {filled}"
"""Default templates of decoders if every question has a blank."""

# An option may take at most half of the tokens, so that a part of the question remains.
_OPTION_SHARE = 2
# Maximal number of vocabulary logits in memory at a time, without gradients.
_NUMBERS = 1 << 25


@dataclass(frozen=True)
class OptionTokens(Tokens):
    """Questions with their options, one sequence per question.

    Attributes:
        groups: Per token: 0 if all options share it, else the number of its option, from 1.
        positions: Per token: its position.
        scored: Per token: 1 if its likelihood counts, else 0.
        num_options: C, the maximal number of options of a question.
    """

    groups: tuple[NDArray[np.int64], ...] = ()
    positions: tuple[NDArray[np.int64], ...] = ()
    scored: tuple[NDArray[np.int64], ...] = ()
    num_options: int = 2

    @property
    def columns(self) -> dict[str, Any]:
        """Per field with a number for each token: one int64 array per question."""
        own = {"groups": self.groups, "positions": self.positions, "scored": self.scored}
        return super().columns | own

    def pad(self, rows: Sequence[int]) -> Batch:
        """Return the model inputs, and `groups` [B, T], -1 at padding.

        `ends` [B, C] is the index of the last token of each option, -1 for missing options. If the
        options share tokens, the K option tokens have [B, K] entries: `spelled`, their ids;
        `before`, the indices of the states that predict them; `owners`, their options from 1, 0 at
        padding and for tokens whose likelihood does not count.
        """
        batch = super().pad(rows)
        groups = [self.groups[row] for row in rows]
        batch["groups"] = padded(groups, -1)
        batch["position_ids"] = padded([self.positions[row] for row in rows], 0)
        batch["ends"] = torch.from_numpy(
            np.stack([_ends(group, self.num_options) for group in groups])
        )
        if all((group == 0).any() for group in groups):
            columns = {
                "spelled": [self.ids[row] for row in rows],
                "before": [_previous(group) for group in groups],
                "owners": [self.groups[row] * self.scored[row] for row in rows],
            }
            for name, arrays in columns.items():
                chosen = [array[group > 0] for array, group in zip(arrays, groups, strict=True)]
                batch[name] = padded(chosen, 0)
        return batch


def _ends(groups: NDArray[np.int64], num_options: int) -> NDArray[np.int64]:
    ends = np.full(num_options, -1, dtype=np.int64)
    indices = np.flatnonzero(groups > 0)
    # For equal indices the last assignment wins.
    ends[groups[indices] - 1] = indices
    return ends


def _previous(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index before each token: for an option's first token, the question's last."""
    starts = np.diff(groups, prepend=0) != 0
    return np.where(starts, np.flatnonzero(groups == 0)[-1], np.arange(len(groups)) - 1)


class OptionsEncoder(Encoder):
    """A backbone that encodes each option: features are [B, C, d + 1], or [B, C, d + 2].

    The last column is the known logit of the option, `ABSENT` for missing options and else zero;
    for a decoder the column before it is the mean log-likelihood of the option's tokens.
    """

    def __init__(self, backbone: Backbone, **options: Any) -> None:
        """Wrap a backbone; see `Encoder`.

        Raises:
            InputError: The model cannot read several options in one sequence, or its
                language-model head is not a linear layer of its states.
        """
        super().__init__(backbone, **options)
        self.middle = None  # scores of texts do not apply to options
        self._vocabulary = head_weight(backbone) if backbone.kind == "decoder" else None
        if not self._cached_answer("options in one sequence", self._packs):
            raise InputError(
                f"{backbone.name} cannot read several options in one sequence, because its "
                "attention does not accept a custom mask; choose another backbone, or format "
                "'letters'"
            )

    @property
    def is_language_model(self) -> bool:
        """Whether the log-likelihood of an option is one of its features."""
        return self._vocabulary is not None

    @property
    def num_features(self) -> int:
        """Input width of a last layer: d, plus 1 for the log-likelihood of a decoder."""
        return self.backbone.num_features + self.is_language_model

    @property
    def num_scaled(self) -> int:
        """d, the width of the backbone."""
        return self.backbone.num_features

    def prepare(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        choices: Sequence[Sequence[str]] | None = None,
        available: NDArray[np.bool_] | None = None,
        rows: Any = None,
        advance: Callable[[int], object] = lambda _: None,
        keep: bool = False,
    ) -> PreparedTexts:
        """Tokenise questions with their options; see `Encoder.prepare`."""
        tokens = _read(self.backbone, texts, pairs, choices or (), self.max_length)
        if available is not None:
            tokens = replace(tokens, num_options=available.shape[1])
        return self.with_prefix(tokens, {}, rows, advance, keep=keep)

    def forward(self, batch: Batch) -> Tensor:
        """Return the features [B, C, ...] float32 of a collated batch, with gradients."""
        device = self.backbone.device
        states = self.states(batch)
        ends = batch["ends"].to(device)
        present = ends >= 0
        if self.pooling == "last":
            rows = torch.arange(len(ends), device=device)[:, None]
            features = states[rows, ends.clamp_min(0)].float()
        else:
            numbers = torch.arange(1, ends.shape[1] + 1, device=device)[:, None]
            member = (batch["groups"].to(device)[:, None] == numbers).float()
            features = member @ states.float() / member.sum(-1, keepdim=True).clamp_min(1)
        if self._vocabulary is not None:
            log_likelihoods = _log_likelihoods(states, batch, self._vocabulary, ends.shape[1])
            features = torch.cat([features, log_likelihoods[..., None]], -1)
        share = present.float() / present.sum(1, keepdim=True)
        features = features - (share[:, None] @ features)
        features = torch.where(present[..., None], features, 0.0)
        return torch.cat([features, (~present).float()[..., None] * ABSENT], -1)

    def pooled(self, batch: Batch) -> Tensor:
        """Return the mean state [B, d] over the shared tokens, or over all if none are shared."""
        states = self.states(batch)
        shared = (batch["groups"] == 0) & batch["attention_mask"].bool()
        mask = shared if bool(shared.any()) else batch["attention_mask"]
        return pool(states, mask.to(states.device), "mean")

    def root_mean_square(self, features: Tensor) -> float:
        """Return the root mean square norm of the states of all present options."""
        return super().root_mean_square(features[features[..., -1] == 0])

    def _packs(self) -> bool:
        """Return whether an option has the same states among other options as alone."""
        backbone, device = replace(self.backbone, template=None), self.backbone.device
        choices = [["one", "and another one"]]
        tokens = _read(backbone, ["a question"], None, choices, self.max_length)
        groups, whole = tokens.groups[0], LayerSplit(self.model, "", 0)
        packed = whole.suffix(hidden=None, **model_inputs(tokens.pad([0]), device))
        for number in (1, 2):
            chosen = np.flatnonzero((groups == 0) | (groups == number))
            types = None if tokens.types is None else (tokens.types[0][chosen],)
            alone = Tokens((tokens.ids[0][chosen],), 0, tokens.pad_id, types).pad([0])
            expected = whole.suffix(hidden=None, **model_inputs(alone, device))
            actual = packed[:, torch.from_numpy(chosen)]
            if not self._same(actual, expected, alone["attention_mask"]):
                return False
        return True


_Row = dict[str, NDArray[np.int64]]
"""Per field of `OptionTokens`: the [T] numbers of one question with its options."""


def _read(
    backbone: Backbone,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    choices: Sequence[Sequence[str]],
    max_length: int,
) -> OptionTokens:
    """Tokenise questions with their options."""
    read = _decoder_rows if backbone.kind == "decoder" else _encoder_rows
    rows, cut = read(backbone, texts, pairs, choices, max_length)
    columns: dict[str, Any] = {name: tuple(row[name] for row in rows) for name in rows[0]}
    pad_id = int(backbone.tokenizer.pad_token_id or 0)
    most = max(map(len, choices))
    return OptionTokens(num_truncated=cut, pad_id=pad_id, num_options=most, **columns)


def _decoder_rows(
    backbone: Backbone,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    choices: Sequence[Sequence[str]],
    max_length: int,
) -> tuple[list[_Row], int]:
    """Return rows of the question and every option after a space, and the number of cut rows."""
    tokenizer = backbone.tokenizer
    template = backbone.template or Template(FRAME if pairs is None else PAIR_FRAME)
    separator = "" if template.filled("x", "x").whole[-1:].isspace() else " "
    most = characters(max_length)
    pairs = None if pairs is None else [pair[:most] for pair in pairs]
    flat = [f"{separator}{text}" for row in choices for text in row]
    encoded = tokenizer(flat, add_special_tokens=False, verbose=False)["input_ids"]
    endings: list[list[int]] = [[] for _ in texts]
    if template.fills:  # a question without a blank ends where its options begin
        parts = [at_blank(text) or (text, "") for text in texts]
        texts, rests = [stem for stem, _ in parts], [rest for _, rest in parts]
        endings = tokenizer(rests, add_special_tokens=False, verbose=False)["input_ids"]
    after = [*map(len, endings)]
    limit = max_length // _OPTION_SHARE
    answers = iter([item[:limit] or [int(tokenizer.pad_token_id or 0)] for item in encoded])
    options = [[next(answers) for _ in row] for row in choices]
    for index, (row, rest) in enumerate(zip(options, endings, strict=True)):
        if rest:  # as many of these words for every option, and at least one
            count = max(1, min(len(rest), limit - max(map(len, row))))
            endings[index] = rest[:count]
            options[index] = [answer[: limit - count] for answer in row]
    ends = [[a + rest for a in row] for row, rest in zip(options, endings, strict=True)]
    rooms = [max_length - max(map(len, row)) for row in ends]
    prompts, cut = framed(
        tokenizer, template, texts, pairs, rooms, pair_first=True, keep_end=template.fills
    )
    lengths = iter(map(len, encoded))
    for index, (texts_of_row, num_words) in enumerate(zip(choices, after, strict=True)):
        cut[index] |= max(next(lengths) for _ in texts_of_row) + num_words > limit
    rows = []
    for prompt, row, end, rest in zip(prompts["input_ids"], options, ends, endings, strict=True):
        positions = [np.arange(len(prompt)), *(len(prompt) + np.arange(len(e)) for e in end)]
        whole = _row([prompt, *end], positions, range(1 + len(end)))
        if rest:  # only these words, the same after every option, are scored
            counts = [np.arange(len(e)) >= len(a) for a, e in zip(row, end, strict=True)]
            whole["scored"] = np.concatenate([np.ones(len(prompt)), *counts]).astype(np.int64)
        rows.append(whole)
    return rows, int(cut.sum())


def _encoder_rows(
    backbone: Backbone,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    choices: Sequence[Sequence[str]],
    max_length: int,
) -> tuple[list[_Row], int]:
    """Return rows of question-option pairs, and the number of cut rows."""
    tokenizer: Any = backbone.tokenizer
    contexts = [""] * len(texts) if pairs is None else pairs
    first = [f"{context} {text}".strip() for context, text in zip(contexts, texts, strict=True)]
    most = characters(max_length)
    first = [text[:most] for text in first]
    counts = [len(row) for row in choices]
    options = [text for row in choices for text in row]
    encoded = tokenizer(
        [text for text, count in zip(first, counts, strict=True) for _ in range(count)],
        options,
        truncation=True,
        max_length=max_length,
    )
    room = max_length - int(tokenizer.num_special_tokens_to_add(pair=True))
    questions, answers = (
        tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
        for part in (first, options)
    )
    lengths = iter(map(len, answers))
    cut = sum(
        len(question) + max(next(lengths) for _ in range(count)) > room
        for question, count in zip(questions, counts, strict=True)
    )
    ids, kinds = (iter(encoded.get(name, ())) for name in ("input_ids", "token_type_ids"))
    typed = "token_type_ids" in encoded
    rows = []
    for count in counts:
        parts = [next(ids) for _ in range(count)]
        row = _row(parts, [np.arange(len(part)) for part in parts], range(1, count + 1))
        if typed:
            row["types"] = np.concatenate([next(kinds) for _ in range(count)]).astype(np.int64)
        rows.append(row)
    return rows, cut


def _row(
    parts: Sequence[Sequence[int]], positions: Sequence[NDArray[np.int64]], groups: Sequence[int]
) -> _Row:
    lengths = [len(part) for part in parts]
    return {
        "ids": np.concatenate([np.asarray(part, dtype=np.int64) for part in parts]),
        "groups": np.repeat(np.asarray(groups, dtype=np.int64), lengths),
        "positions": np.concatenate(positions).astype(np.int64),
        "scored": np.ones(sum(lengths), dtype=np.int64),
    }


def _log_likelihoods(states: Tensor, batch: Batch, weight: Tensor, num_options: int) -> Tensor:
    """Return the mean log-likelihood [B, C] of each option's tokens in nats; 0 without tokens.

    Args:
        states: [B, T, d], the last hidden states.
        batch: Batch with `spelled`, `before` and `owners`, [B, K].
        weight: [V, d], weight of the language-model head.
        num_options: C.
    """
    device = states.device
    ids, before, owners = (batch[name].to(device) for name in ("spelled", "before", "owners"))
    rows = torch.arange(len(ids), device=device)[:, None]
    selected = states[rows, before].flatten(0, 1)
    targets = ids.flatten()
    # With gradients, all logits stay in memory anyway.
    limit = len(selected) * len(weight) if torch.is_grad_enabled() else _NUMBERS
    parts = []
    for chunk in row_slices(len(selected), len(weight), limit):
        logits = (selected[chunk] @ weight.T.to(selected.dtype)).float()
        parts.append(logits.gather(1, targets[chunk, None])[:, 0] - logits.logsumexp(1))
    numbers = torch.arange(1, num_options + 1, device=device)[:, None]
    member = (owners[:, None] == numbers).float()
    total = (member @ torch.cat(parts).view_as(ids)[..., None])[..., 0]
    return total / member.sum(-1).clamp_min(1)
