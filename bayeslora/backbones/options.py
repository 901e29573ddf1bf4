"""The options of a question, one by one: features φ [N, C, d], and how likely each option is.

A question and its options are one sequence of tokens. Options attend to the question and to
themselves, never to each other, and each has the positions that it would have alone: the question
is run once, and every option has the states that a sequence of its own would have. An encoder reads
question and option together in both directions, so there each option carries the question along.

Of a decoder, the last feature of an option is the mean log-likelihood of its tokens, under the
adapted model. A last layer that weighs it by 1 and all others by 0 is the language model itself.
All features are less their mean over the options of the row, since no difference depends on it.

Where the template is for questions with a blank, an option goes on with what follows the blank, and
the log-likelihood is of that alone: the same words after every option.

Source: conditional logit, McFadden 1974; the log-likelihood per token of Brown et al. 2020, arXiv
2005.14165, section 2.4; of what follows a blank, Trinh and Le 2018, arXiv 1806.02847.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.backbones.encoder import Encoder, PreparedTexts, pool
from bayeslora.backbones.framed import framed
from bayeslora.backbones.load import Backbone
from bayeslora.backbones.prefix import LayerSplit
from bayeslora.backbones.template import Template, at_blank
from bayeslora.backbones.tokens import Batch, Tokens, model_inputs, padded
from bayeslora.backbones.verbaliser import head_weight
from bayeslora.errors import InputError
from bayeslora.logits import ABSENT
from bayeslora.option_checks import Pooling
from bayeslora.runtime import row_slices

FRAME = "Question: {text}\nAnswer:"
PAIR_FRAME = "{text_pair}\nQuestion: {text}\nAnswer:"
"""Of decoders, where no template is asked for; `{text_pair}` is the context."""
FILLING_FRAME = "Sentence: {filled}"
PAIR_FILLING_FRAME = "{text_pair}\nSentence: {filled}"
"""The same where every question has a blank."""

# Of a model's tokens an option may take at most half, so that something is left of the question.
_OPTION_SHARE = 2
# Logits over the vocabulary that are held at a time, where no gradient needs all of them.
_NUMBERS = 1 << 25


@dataclass(frozen=True)
class OptionTokens(Tokens):
    """Questions with their options, each in one sequence.

    Attributes:
        groups: Of each token: 0 where all options share it, else the number of its option, from 1.
        positions: Of each token.
        scored: Of each token: 1 where its likelihood counts, else 0.
        num_options: C, the most options of a question.
    """

    groups: tuple[NDArray[np.int64], ...] = ()
    positions: tuple[NDArray[np.int64], ...] = ()
    scored: tuple[NDArray[np.int64], ...] = ()
    num_options: int = 2

    def take(self, rows: Sequence[int]) -> OptionTokens:
        """Return some of the questions."""
        kept = super().take(rows)
        return replace(
            self,
            ids=kept.ids,
            types=kept.types,
            num_truncated=0,
            groups=tuple(self.groups[row] for row in rows),
            positions=tuple(self.positions[row] for row in rows),
            scored=tuple(self.scored[row] for row in rows),
        )

    def pad(self, rows: Sequence[int]) -> Batch:
        """Return what a model is called with, and `groups` [B, T], -1 at padding.

        `ends` [B, C] is the place of the last token of each option, -1 where there is none. Where
        options share something, there are K tokens of options in [B, K]: `spelled`, their ids;
        `before`, the places whose states predict them; `owners`, their options from 1, 0 at
        padding and where a token's likelihood does not count.
        """
        batch = super().pad(rows)
        groups = [self.groups[row] for row in rows]
        batch["groups"] = padded(groups, -1)
        batch["position_ids"] = padded([self.positions[row] for row in rows], 0)
        batch["ends"] = torch.from_numpy(np.stack([_ends(one, self.num_options) for one in groups]))
        if all((one == 0).any() for one in groups):
            own = [one > 0 for one in groups]
            ids = [self.ids[row][mine] for row, mine in zip(rows, own, strict=True)]
            before = [_before(one)[mine] for one, mine in zip(groups, own, strict=True)]
            scored = [self.scored[row] for row in rows]
            owners = [one[m] * s[m] for one, s, m in zip(groups, scored, own, strict=True)]
            batch |= {
                "spelled": padded(ids, 0),
                "before": padded(before, 0),
                "owners": padded(owners, 0),
            }
        return batch

    def arrays(self) -> Iterator[NDArray[np.int64]]:
        """Yield everything that decides the states of the questions."""
        yield from super().arrays()
        yield from self.groups


def _ends(groups: NDArray[np.int64], num_options: int) -> NDArray[np.int64]:
    ends = np.full(num_options, -1, dtype=np.int64)
    places = np.flatnonzero(groups > 0)
    # The last of equal indices is kept.
    ends[groups[places] - 1] = places
    return ends


def _before(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place before each token, which is the question's last for an option's first."""
    starts = np.diff(groups, prepend=0) != 0
    return np.where(starts, np.flatnonzero(groups == 0)[-1], np.arange(len(groups)) - 1)


class OptionsEncoder(Encoder):
    """A backbone that reads options one by one: features are [B, C, d + 1], or [B, C, d + 2].

    The last column is the known logit of the option, `ABSENT` where there is none and else zero,
    and of a decoder the column before it the mean log-likelihood of its tokens.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        layers_path: str,
        start: int,
        max_length: int,
        pooling: Pooling | None = None,
    ) -> None:
        """Wrap a backbone; see `Encoder`.

        Raises:
            InputError: The model cannot read several options in one sequence, or its
                language-model head is not a linear layer of its states.
        """
        super().__init__(
            backbone,
            layers_path=layers_path,
            start=start,
            max_length=max_length,
            pooling=pooling,
        )
        self._vocabulary = head_weight(backbone) if backbone.kind == "decoder" else None
        if not self._found_out("options in one sequence", self._packs):
            raise InputError(
                f"{backbone.name} gives an option other states beside others than alone: its "
                "attention takes no mask of its own; choose another backbone, or the format "
                "'letters'"
            )

    @property
    def is_language_model(self) -> bool:
        """Whether the log-likelihood of an option is one of its features."""
        return self._vocabulary is not None

    @property
    def num_features(self) -> int:
        """Width of what a last layer weighs: d, and 1 for the log-likelihood of a decoder."""
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
        advance: Callable[[int], object] = lambda _: None,
        keep: bool = False,
    ) -> PreparedTexts:
        """Tokenise questions with their options, and run the frozen prefix over them.

        Raises:
            InputError: There are no options.
        """
        if choices is None:
            raise InputError(
                "the model reads options one by one, and these rows are texts without options"
            )
        most = max(map(len, choices)) if available is None else available.shape[1]
        tokens = self._tokenised(texts, pairs, choices, most)
        return self.with_prefix(tokens, advance, keep=keep)

    def forward(self, batch: Batch) -> Tensor:
        """Return the features [B, C, ...] float32 of a collated batch, with gradients."""
        device = self.backbone.device
        states = self.states(batch)
        ends = batch["ends"].to(device)
        present = ends >= 0
        if self.pooling == "last":
            rows = torch.arange(len(ends), device=device)[:, None]
            found = states[rows, ends.clamp_min(0)].float()
        else:
            numbers = torch.arange(1, ends.shape[1] + 1, device=device)[:, None]
            member = (batch["groups"].to(device)[:, None] == numbers).float()
            found = member @ states.float() / member.sum(-1, keepdim=True).clamp_min(1)
        if self._vocabulary is not None:
            likely = _log_likelihoods(states, batch, self._vocabulary, ends.shape[1])
            found = torch.cat([found, likely[..., None]], -1)
        share = present.float() / present.sum(1, keepdim=True)
        found = found - (share[:, None] @ found)
        found = torch.where(present[..., None], found, 0.0)
        return torch.cat([found, (~present).float()[..., None] * ABSENT], -1)

    def pooled(self, batch: Batch) -> Tensor:
        """Return the mean state [B, d] of what all options share, or of all of them."""
        states = self.states(batch)
        shared = (batch["groups"] == 0) & batch["attention_mask"].bool()
        read = shared if bool(shared.any()) else batch["attention_mask"]
        return pool(states, read.to(states.device), "mean")

    def root_mean_square(self, features: Tensor) -> float:
        """Return the root mean square norm of the states of the options that there are."""
        present = features[..., -1] == 0
        states = features[..., : self.num_scaled][present]
        return float(states.double().square().sum(-1).mean().sqrt())

    def _tokenised(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        choices: Sequence[Sequence[str]],
        num_options: int,
    ) -> OptionTokens:
        causal = self.backbone.kind == "decoder"
        read = _decoder_rows if causal else _encoder_rows
        rows, cut = read(self.backbone, texts, pairs, choices, self.max_length)
        pad_id = int(self.backbone.tokenizer.pad_token_id or 0)
        return OptionTokens(
            tuple(row.ids for row in rows),
            cut,
            pad_id,
            tuple(row.types for row in rows) if len(rows[0].types) else None,
            groups=tuple(row.groups for row in rows),
            positions=tuple(row.positions for row in rows),
            scored=tuple(row.scored for row in rows),
            num_options=num_options,
        )

    def _packs(self) -> bool:
        """Return whether an option has the states in a sequence of several that it has alone."""
        rows, _ = (_decoder_rows if self.backbone.kind == "decoder" else _encoder_rows)(
            replace(self.backbone, template=None),
            ["a question"],
            None,
            [["one", "and another one"]],
            self.max_length,
        )
        row = rows[0]
        whole = LayerSplit(self.model, "", 0)
        together = whole.suffix(hidden=None, **model_inputs(_batch([row]), self.backbone.device))
        for number in (1, 2):
            chosen = np.flatnonzero((row.groups == 0) | (row.groups == number))
            alone = row.take(chosen)
            plain = {
                "input_ids": torch.from_numpy(alone.ids)[None],
                "attention_mask": torch.ones(1, len(chosen), dtype=torch.int64),
            }
            if len(alone.types):
                plain["token_type_ids"] = torch.from_numpy(alone.types)[None]
            expected = whole.suffix(hidden=None, **model_inputs(plain, self.backbone.device))
            found = together[:, torch.from_numpy(chosen)]
            if not self._same(found, expected, plain["attention_mask"]):
                return False
        return True


@dataclass(frozen=True)
class _Row:
    """One question with its options; arrays are [T] int64."""

    ids: NDArray[np.int64]
    groups: NDArray[np.int64]
    positions: NDArray[np.int64]
    scored: NDArray[np.int64]
    types: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def take(self, places: NDArray[np.int64]) -> _Row:
        types = self.types[places] if len(self.types) else self.types
        ids, groups, positions, scored = (
            array[places] for array in (self.ids, self.groups, self.positions, self.scored)
        )
        return _Row(ids, groups, positions, scored, types)


def _batch(rows: Sequence[_Row]) -> Batch:
    tokens = OptionTokens(
        tuple(row.ids for row in rows),
        0,
        0,
        tuple(row.types for row in rows) if len(rows[0].types) else None,
        groups=tuple(row.groups for row in rows),
        positions=tuple(row.positions for row in rows),
        scored=tuple(row.scored for row in rows),
        num_options=max(int(row.groups.max()) for row in rows),
    )
    return tokens.pad(range(len(rows)))


def _decoder_rows(
    backbone: Backbone,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    choices: Sequence[Sequence[str]],
    max_length: int,
) -> tuple[list[_Row], int]:
    """Return the question, then every option after a space, and how many questions were cut."""
    tokenizer = backbone.tokenizer
    template = backbone.template or Template(FRAME if pairs is None else PAIR_FRAME)
    between = "" if template.filled("x", "x").whole[-1:].isspace() else " "
    flat = [f"{between}{text}" for row in choices for text in row]
    found = tokenizer(flat, add_special_tokens=False, verbose=False)["input_ids"]
    after: Sequence[list[int]] = [[]] * len(texts)
    if template.fills:  # a question without a blank ends where its options begin
        parts = [at_blank(text) or (text, "") for text in texts]
        texts, rests = [before for before, _ in parts], [rest for _, rest in parts]
        after = tokenizer(rests, add_special_tokens=False, verbose=False)["input_ids"]
    most = max_length // _OPTION_SHARE
    answers = iter([item[:most] or [int(tokenizer.pad_token_id or 0)] for item in found])
    options = [[next(answers) for _ in row] for row in choices]
    ends = [[(a + rest)[:most] for a in row] for row, rest in zip(options, after, strict=True)]
    room = max_length - max(len(item) for row in ends for item in row)
    prompts, cut = framed(
        tokenizer, template, texts, pairs, room, pair_first=True, keep_end=template.fills
    )
    rows = []
    for prompt, row, end, rest in zip(prompts["input_ids"], options, ends, after, strict=True):
        places = [np.arange(len(prompt)), *(len(prompt) + np.arange(len(e)) for e in end)]
        whole = _row([prompt, *end], places, range(1 + len(end)))
        if rest:  # the same words follow every option, and they alone count
            counts = [np.arange(len(e)) >= len(a) for a, e in zip(row, end, strict=True)]
            scored = np.concatenate([np.ones(len(prompt)), *counts]).astype(np.int64)
            whole = replace(whole, scored=scored)
        rows.append(whole)
    return rows, cut


def _encoder_rows(
    backbone: Backbone,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    choices: Sequence[Sequence[str]],
    max_length: int,
) -> tuple[list[_Row], int]:
    """Return every option after its question, as pairs of texts, and how many were cut."""
    tokenizer: Any = backbone.tokenizer
    contexts = [""] * len(texts) if pairs is None else pairs
    first = [f"{context} {text}".strip() for context, text in zip(contexts, texts, strict=True)]
    counts = [len(row) for row in choices]
    options = [text for row in choices for text in row]
    found = tokenizer(
        [text for text, count in zip(first, counts, strict=True) for _ in range(count)],
        options,
        truncation=True,
        max_length=max_length,
    )
    whole = tokenizer(first, verbose=False)["input_ids"]
    cut = sum(len(item) > max_length for item in whole)
    ids, kinds = (iter(found.get(name, ())) for name in ("input_ids", "token_type_ids"))
    typed = "token_type_ids" in found
    rows = []
    for count in counts:
        parts = [next(ids) for _ in range(count)]
        row = _row(parts, [np.arange(len(part)) for part in parts], range(1, count + 1))
        if typed:
            types = np.concatenate([next(kinds) for _ in range(count)])
            row = replace(row, types=types.astype(np.int64))
        rows.append(row)
    return rows, cut


def _row(
    parts: Sequence[Sequence[int]], places: Sequence[NDArray[np.int64]], groups: Sequence[int]
) -> _Row:
    lengths = [len(part) for part in parts]
    return _Row(
        np.concatenate([np.asarray(part, dtype=np.int64) for part in parts]),
        np.repeat(np.asarray(groups, dtype=np.int64), lengths),
        np.concatenate(places).astype(np.int64),
        np.ones(sum(lengths), dtype=np.int64),
    )


def _log_likelihoods(states: Tensor, batch: Batch, weight: Tensor, num_options: int) -> Tensor:
    """Return the mean log-likelihood [B, C] of each option's tokens, nats; 0 where there is none.

    Args:
        states: [B, T, d], the last hidden states.
        batch: With `spelled`, `before` and `owners`, [B, K].
        weight: [V, d], of the language-model head.
        num_options: C.
    """
    device = states.device
    ids, before, owners = (batch[name].to(device) for name in ("spelled", "before", "owners"))
    rows = torch.arange(len(ids), device=device)[:, None]
    read = states[rows, before].flatten(0, 1)
    targets = ids.flatten()
    # With gradients all logits are kept anyway.
    most = len(read) * len(weight) if torch.is_grad_enabled() else _NUMBERS
    parts = []
    for some in row_slices(len(read), len(weight), most):
        logits = (read[some] @ weight.T.to(read.dtype)).float()
        parts.append(logits.gather(1, targets[some, None])[:, 0] - logits.logsumexp(1))
    numbers = torch.arange(1, num_options + 1, device=device)[:, None]
    member = (owners[:, None] == numbers).float()
    total = (member @ torch.cat(parts).view_as(ids)[..., None])[..., 0]
    return total / member.sum(-1).clamp_min(1)
