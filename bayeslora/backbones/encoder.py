"""From texts to features φ [N, d] by the frozen prefix and the adapted upper layers."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bayeslora.backbones.images import Pixels, blank_pixels, extra_tokens, read_pixels
from bayeslora.backbones.load import Backbone, Kind, lasting_name
from bayeslora.backbones.prefix import (
    LayerSplit,
    MiddleLayer,
    PrefixStates,
    compute_prefix,
    inputs_of,
    mean_state,
    middle_layer,
    spans_of,
)
from bayeslora.backbones.tokens import (
    UNEQUAL_TEXTS,
    Batch,
    Tokens,
    length_batches,
    model_inputs,
    tokenise,
    usable_length,
)
from bayeslora.io import FROZEN_STATES, keep_tensors, kept_file, most_bytes, read_kept
from bayeslora.logits import ABSENT
from bayeslora.option_checks import Pooling
from bayeslora.processes import current

logger = logging.getLogger(__name__)

POOLING: Mapping[Kind, Pooling] = {"decoder": "last", "encoder": "mean", "vision": "first"}
"""Default pooling per kind of backbone."""
_PREFIX_BATCH = 32
_PROBE = "a text"
# Bounds the memory of long-running processes, which see ever new texts.
_KEPT_BYTES = 4 << 30
# States that take less time to compute are not worth a file.
_WORTH_SECONDS = 1.0
# Version; increase it when a change of this package changes the states of a backbone.
_STATES = 2
# Relative to the largest value; real differences exceed rounding by orders of magnitude.
_ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}


@dataclass(frozen=True)
class PreparedTexts:
    """Texts ready for any number of passes of the upper layers.

    Attributes:
        tokens: The tokenised texts.
        prefix: Their states at the split, or None if the split is at the bottom.
        labels: [N] int64, -1 where there is none; [0] if they were not told.
        columns: Further values [N, …] of the rows: `known` [N, C] float32, logits known
            beforehand, and those of the adapter's companion.
    """

    tokens: Tokens | Pixels
    prefix: PrefixStates | None
    labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64), kw_only=True)
    columns: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_options(self) -> int:
        """Number of options that questions are padded to; 0 for texts."""
        return self.tokens.num_options

    def take(self, rows: Sequence[int]) -> PreparedTexts:
        """Return some of the texts, without copying their states."""
        prefix = self.prefix
        if prefix is not None:
            prefix = prefix.take(rows)
        columns = {name: values[list(rows)] for name, values in self.columns.items()}
        labels = self.labels[list(rows)] if len(self.labels) else self.labels
        return PreparedTexts(self.tokens.take(rows), prefix, labels=labels, columns=columns)

    def collate(self, rows: Sequence[int]) -> Batch:
        """Return the padded batch of `rows`: inputs, columns, and maybe `hidden`."""
        batch = self.tokens.pad(rows)
        if self.prefix is not None:
            batch["hidden"] = self.prefix.pad(rows)
            if self.prefix.middle is not None:
                batch["middle"] = self.prefix.middle[list(rows)]
        return batch | {name: values[list(rows)] for name, values in self.columns.items()}


def with_letters(question: str, options: Sequence[str]) -> str:
    """Return a question followed by its options, each on a line after its letter."""
    lines = [f"{chr(ord('A') + index)}) {text}" for index, text in enumerate(options)]
    return "\n".join([f"Question: {question}", *lines])


def pool(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Return features [B, d] float32 from the last hidden states [B, T, d].

    `first` takes the first position, `last` the last position whose mask is 1, for padding on
    either side, and `mean` the mean over positions whose mask is 1.
    """
    if pooling == "first":
        return hidden[:, 0].float()
    if pooling == "last":
        rows, steps = (torch.arange(n, device=hidden.device) for n in attention_mask.shape)
        return hidden[rows, (attention_mask * steps).argmax(1)].float()
    return mean_state(hidden, attention_mask)


class FeatureExtractor(nn.Module):
    """From prepared texts to features, batch by batch; `forward` defines the features.

    Attributes:
        one_by_one: Whether texts are run singly, since padding would change their features.
        companion: The `bayeslora.adapters.site.Companion` of the sites, or None.
        middle: The layer in the middle of the backbone whose input is one state per token; None if
            there is none.
    """

    one_by_one = False

    def __init__(self) -> None:
        super().__init__()
        self.companion: Any = None
        self.middle: MiddleLayer | None = None

    @property
    def num_features(self) -> int:
        """Width d of a feature, without known logits."""
        raise NotImplementedError

    @property
    def num_scaled(self) -> int:
        """Number of leading columns of a feature that have the scale of the states."""
        return self.num_features

    def root_mean_square(self, features: Tensor) -> float:
        """Return the root mean square norm of this encoder's features [N, ...]."""
        states = features[..., : self.num_scaled]
        return float(states.double().square().sum(-1).mean().sqrt())

    def prepare(self, *args: Any, **options: Any) -> PreparedTexts:
        """Return texts in the form that `features` takes; see `Encoder.prepare`."""
        raise NotImplementedError

    def forget(self, prepared: PreparedTexts) -> None:
        """Drop the cache of `prepare` for these texts; here there is none."""

    def with_columns(self, prepared: PreparedTexts, rows: Any) -> PreparedTexts:
        """Return prepared texts with the columns of the adapter's companion, if there is one.

        Args:
            prepared: N texts.
            rows: The `Examples` of the texts, or None.
        """
        if self.companion is None:
            return prepared

        @torch.no_grad()
        def features() -> Tensor:
            parts: dict[int, Tensor] = {}
            with _evaluating(self), self._closed():
                for indices in self.batches(prepared.tokens.lengths, 64):
                    pooled = self.pooled(prepared.collate(indices)).cpu()
                    parts.update(zip(indices, pooled, strict=True))
            return torch.stack([parts[index] for index in range(len(prepared))])

        columns = self.companion.columns(rows, len(prepared), features)
        return replace(prepared, columns={**prepared.columns, **columns})

    def pooled(self, batch: Batch) -> Tensor:
        """Return one vector [B, d] float32 per text."""
        features: Tensor = self(batch)
        return features

    def _closed(self) -> AbstractContextManager[object]:
        """Return the context manager for passes of the frozen backbone."""
        return nullcontext() if self.companion is None else self.companion.closed()

    def _applied(self, batch: Batch) -> AbstractContextManager[object]:
        """Return the context manager for the pass of a batch."""
        return nullcontext() if self.companion is None else self.companion.applied(batch)

    def features(self, prepared: PreparedTexts, **options: Any) -> Tensor:
        """Return the features [N, ...] float32 on the CPU, in the order of the texts.

        The mode (training or evaluation) is not changed: MC dropout needs training mode.

        Args:
            prepared: The texts.
            **options: As for `features_and_middle`.
        """
        return self.features_and_middle(prepared, **options)[0]

    @torch.no_grad()
    def features_and_middle(
        self,
        prepared: PreparedTexts,
        *,
        rows: Sequence[int] | None = None,
        batch_size: int = 64,
        advance: Callable[[int], object] = lambda _: None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return `features`, and the mean states [N, d] float32 of the tokens in the middle.

        The latter come from the same passes; None without `middle`.
        """
        chosen = np.arange(len(prepared)) if rows is None else np.asarray(rows)
        result = torch.zeros(len(chosen), self.num_features)
        middle: Tensor | None = None
        world = current()
        batches = self.batches(prepared.tokens.lengths[chosen], batch_size)
        for number, taken in enumerate(world.rounds(batches)):
            indices, is_own = world.turn(taken)
            with world.own_noise(number):
                features, means = self._run(prepared.collate(chosen[indices].tolist()))
            if features.shape[1:] != result.shape[1:]:
                result = torch.zeros(len(chosen), *features.shape[1:])
            if means is not None and middle is None:
                middle = torch.zeros(len(chosen), means.shape[1])
            if is_own:
                result[indices] = features.cpu()
                if means is not None and middle is not None:
                    middle[indices] = means.cpu()
            advance(sum(map(len, taken)))
        world.merge_(result)
        if middle is not None:
            world.merge_(middle)
        return result, middle

    def _run(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the features of a batch, and the mean states [B, d] in the middle."""
        if self.middle is None:
            return self(batch), None
        if "middle" in batch:
            return self(batch), batch["middle"]
        with inputs_of(self.middle.layer) as states:
            features = self(batch)
        return features, mean_state(states[0], batch["attention_mask"])

    def batches(self, lengths: NDArray[np.int64], batch_size: int) -> Iterator[list[int]]:
        """Yield the indices of texts with [N] lengths in batches of similar length."""
        return length_batches(lengths, 1 if self.one_by_one else batch_size)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Set a module to evaluation mode for a while."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def _forget_oldest(known: dict[str, PrefixStates]) -> None:
    """Evict the least recently used states beyond the limit; the newest always stay."""
    sizes = {key: states.num_bytes for key, states in known.items()}
    excess = sum(sizes.values()) - _KEPT_BYTES
    for key in list(known)[:-1]:
        if excess > 0:
            del known[key]
            excess -= sizes[key]


class Encoder(FeatureExtractor):
    """From texts to features by a backbone with or without adapters."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        layers_path: str,
        start: int,
        max_length: int,
        pooling: Pooling | None = None,
    ) -> None:
        """Wrap a backbone whose adapters, if any, are in layer `start` or above.

        Args:
            backbone: The backbone; with adapters, a separate clone.
            layers_path: Dotted name of the list of layers.
            start: Index of the first layer that may have an adapter.
            max_length: Maximal number of tokens per text.
            pooling: How to pool the states of a text; None takes the default of its kind.
        """
        super().__init__()
        self.pooling = pooling or POOLING[backbone.kind]
        self.model = backbone.model
        self.backbone = backbone
        self.max_length = usable_length(backbone, max_length)
        self._split = LayerSplit(backbone.model, layers_path, start)
        if not self._cached_answer(f"cut of {layers_path} at {start}", self._split_is_exact):
            logger.warning(
                "cannot run the layers of %s below layer %d separately; every pass runs all layers",
                backbone.name,
                start,
            )
            self._split = LayerSplit(backbone.model, layers_path, 0)
        # Images of a batch have the same size and no padding.
        padded = backbone.kind != "vision"
        self.one_by_one = padded and not self._cached_answer("padding", self._ignores_padding)
        if self.one_by_one:
            logger.warning(
                "the features of %s depend on padding: it is trained on batches, but other "
                "passes run one text at a time",
                backbone.name,
            )
        layer = middle_layer(backbone.model) if padded else None
        if layer is not None and self._cached_answer(
            "middle", lambda: layer.reads_tokens(self._run_unequal)
        ):
            self.middle = layer

    @property
    def num_features(self) -> int:
        """d, the width of the backbone."""
        return self.backbone.num_features

    @property
    def first_running_layer(self) -> int:
        """Index of the first layer after the frozen prefix."""
        return self._split.start

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
        """Tokenise texts and run the frozen prefix over them, once per set of texts.

        Questions are followed by their options, each after its letter.

        Args:
            texts: N texts.
            pairs: N second texts, or None.
            choices: The options of each text, or None.
            available: [N, C] bool, the classes or options that each text has; None for all.
            rows: The `Examples` of the texts, for the columns of the adapter's companion.
            advance: Called with the number of finished texts.
            keep: Whether slow results may be cached on disk.
        """
        backbone, length = self.backbone, self.max_length
        tokens: Tokens | Pixels
        if backbone.kind == "vision":  # texts are paths of images
            config = self.model.config
            tokens = read_pixels(texts, backbone.tokenizer, config, max_length=length)
        else:
            lettered = choices is not None
            if choices is not None:
                texts = [with_letters(*row) for row in zip(texts, choices, strict=True)]
            tokens = tokenise(backbone, texts, pairs, max_length=length, keep_end=lettered)
        columns = {}
        if available is not None and not available.all():
            columns["known"] = torch.from_numpy(np.where(available, 0.0, ABSENT)).float()
        return self.with_prefix(tokens, columns, rows, advance, keep=keep)

    def with_prefix(
        self,
        tokens: Tokens | Pixels,
        columns: dict[str, Tensor],
        rows: Any,
        advance: Callable[[int], object],
        *,
        keep: bool,
    ) -> PreparedTexts:
        """Return tokenised texts with their states at the split; see `prepare`."""
        prefix = None
        if self._split.start == 0:
            advance(len(tokens))
        else:
            with _evaluating(self.model):
                prefix = self._prefix(tokens, advance, keep=keep)
        return self.with_columns(PreparedTexts(tokens, prefix, columns=columns), rows)

    @property
    def _middle_is_frozen(self) -> bool:
        """Whether the middle is below the split, so that its states are computed once."""
        return self.middle is not None and self.middle.number < self._split.start

    def probe(self) -> PreparedTexts:
        """Return two short texts of unequal length, without template and states."""
        return PreparedTexts(self._raw(UNEQUAL_TEXTS), None)

    def forget(self, prepared: PreparedTexts) -> None:
        """Drop the texts' states at the split, which all clones of the backbone share."""
        known: dict[str, PrefixStates] = self.backbone.prefix_states
        for key in [key for key, states in known.items() if states is prepared.prefix]:
            del known[key]

    def forward(self, batch: Batch) -> Tensor:
        """Return the features [B, d] float32 of a collated batch, with gradients.

        Known logits of the batch, if any, follow as C more columns.
        """
        features, known = self.pooled(batch), batch.get("known")
        return features if known is None else torch.cat([features, known.to(features.device)], 1)

    def pooled(self, batch: Batch) -> Tensor:
        """Return only the features [B, d] float32, with gradients."""
        states, mask = self.states(batch), batch["attention_mask"].to(self.backbone.device)
        if self.backbone.kind == "vision" and self.pooling == "mean":
            num_extra = extra_tokens(self.model.config)
            states, mask = states[:, num_extra:], mask[:, num_extra:]
        return pool(states, mask, self.pooling)

    def states(self, batch: Batch) -> Tensor:
        """Return the last hidden states [B, T, d] of a collated batch, with gradients."""
        device = self.backbone.device
        hidden = batch.get("hidden")
        if hidden is not None:
            hidden = hidden.to(device, next(self.model.parameters()).dtype)
        inputs = model_inputs(batch, device)
        if "inputs_embeds" in inputs:
            dtype = next(self.model.parameters()).dtype
            inputs["inputs_embeds"] = inputs["inputs_embeds"].to(dtype)
        with self._applied(batch):
            return self._split.suffix(hidden=hidden, **inputs)

    def running(self) -> frozenset[str]:
        """Return the names of the backbone's modules that run after the frozen prefix."""
        with self._closed():
            return self._split.running(**self._probe())

    def run_probe(self) -> None:
        """Run the whole model on a short text."""
        with self._closed():
            self.model(**self._probe())

    def _run_unequal(self) -> Tensor:
        """Run the whole model on texts of unequal length and return their mask [B, T]."""
        batch = model_inputs(self._raw(UNEQUAL_TEXTS).pad([0, 1]), self.backbone.device)
        self.model(**batch)
        return batch["attention_mask"]

    def count_calls(self) -> Counter[str]:
        """Return the number of calls of each module in a pass of the whole model, in call order."""
        with self._closed():
            return Counter(self._split.called(**self._probe()))

    def _probe(self) -> Batch:
        return model_inputs(self._raw([_PROBE]).pad([0]), self.backbone.device)

    def _raw(self, texts: Sequence[str]) -> Tokens | Pixels:
        """Return tokens of texts without the template, which may need pairs, or blank images."""
        if self.backbone.kind == "vision":
            reader, config = self.backbone.tokenizer, self.model.config
            return blank_pixels(len(texts), reader, config, max_length=self.max_length)
        return tokenise(replace(self.backbone, template=None), texts, max_length=self.max_length)

    def _cached_answer(self, question: str, answer: Callable[[], bool]) -> bool:
        """Return the answer, computed once for a backbone and its clones."""
        known: dict[str, bool] = self.backbone.known
        if question not in known:
            with _evaluating(self.model), torch.no_grad():
                known[question] = answer()
        return known[question]

    def _split_is_exact(self) -> bool:
        """Return whether the layers below and above the split reproduce the whole model."""
        if self._split.start == 0:
            return True
        whole = LayerSplit(self.model, "", 0)
        batch = self._raw(UNEQUAL_TEXTS).pad([0, 1])
        inputs = model_inputs(batch, self.backbone.device)
        expected = whole.suffix(hidden=None, **inputs)
        try:
            states = self._split.suffix(hidden=self._split.prefix(**inputs), **inputs)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return False
        return self._same(states, expected, batch["attention_mask"])

    def _ignores_padding(self) -> bool:
        """Return whether padding leaves a text's states unchanged."""
        tokens, device = self._raw(UNEQUAL_TEXTS), self.backbone.device
        batch, single = tokens.pad([0, 1]), tokens.pad([0])
        whole = LayerSplit(self.model, "", 0)
        length = single["attention_mask"].shape[1]
        padded = whole.suffix(hidden=None, **model_inputs(batch, device))[:1, :length]
        expected = whole.suffix(hidden=None, **model_inputs(single, device))
        return self._same(padded, expected, single["attention_mask"])

    def _same(self, actual: Tensor, expected: Tensor, mask: Tensor) -> bool:
        if actual.shape != expected.shape:
            return False
        real = mask.bool().to(actual.device)
        gap = (actual - expected).float()[real].abs().max()
        tolerance = _ROUNDING.get(expected.dtype, 1e-3) * expected.float()[real].abs().max()
        return bool(gap <= tolerance)

    def _prefix(
        self, tokens: Tokens | Pixels, advance: Callable[[int], object], *, keep: bool
    ) -> PrefixStates:
        """Return the states at the split, from memory or the disk if they are there."""
        known: dict[str, PrefixStates] = self.backbone.prefix_states
        key, world = self._key(tokens), current()
        states = known.pop(key, None)
        # Remote code may change without notice.
        keep = keep and most_bytes() > 0 and type(self.model).__module__.startswith("transformers.")
        file = kept_file(FROZEN_STATES, self._lasting(key)) if keep else None
        if states is None and file is not None:
            stored = read_kept(file)
            # If any process lacks the states, all compute them together.
            if world.agree(on=stored is not None) and stored is not None:
                states = PrefixStates(spans=spans_of(tokens.lengths), **stored)
        if states is not None:
            advance(len(tokens))
        else:
            start = time.perf_counter()
            states = compute_prefix(
                self._split,
                tokens,
                width=self.num_scaled,
                dtype=self.backbone.cache_dtype,
                device=self.backbone.device,
                batch_size=1 if self.one_by_one else _PREFIX_BATCH,
                advance=advance,
                middle=self.middle if self._middle_is_frozen else None,
            )
            if (
                file is not None
                and world.is_first
                and time.perf_counter() - start >= _WORTH_SECONDS
            ):
                keep_tensors(file, states.tensors)
        known[key] = states
        _forget_oldest(known)
        return states

    def _lasting(self, key: str) -> str:
        """Return a key that includes everything else that determines the states across runs."""
        backbone = self.backbone
        config: Any = self.model.config
        settings = [
            lasting_name(backbone.name),
            str(backbone.cache_dtype),
            backbone.device.type,
            config.to_json_string(),
            str(getattr(config, "_attn_implementation", None)),
            *([str(backbone.tokenizer)] if backbone.kind == "vision" else []),
        ]
        versions = [_STATES, torch.__version__, version("transformers")]
        content = json.dumps([key, *settings, *versions], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def _key(self, tokens: Tokens | Pixels) -> str:
        # Clones that share the cache may compute in another precision.
        dtype = next(self.model.parameters()).dtype
        middle = self.middle.number if self.middle and self._middle_is_frozen else None
        content = f"{self.backbone.fingerprint}|{dtype}|{self._split.start}|{middle}"
        digest = hashlib.sha256(content.encode())
        digest.update(tokens.lengths.tobytes())
        for item in tokens.arrays():
            digest.update(item.tobytes())
        return digest.hexdigest()
