"""From texts to features φ [N, d], through the frozen prefix and the adapted upper layers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayeslora.backbones.load import Backbone, Kind
from bayeslora.backbones.prefix import LayerSplit, PrefixStates, compute_prefix
from bayeslora.backbones.tokens import Tokens, length_batches, tokenise

Batch = dict[str, Tensor]
_PREFIX_BATCH = 32
_PROBE = "a text"
# A process that predicts for days sees ever new texts.
_KEPT_BYTES = 4 << 30


@dataclass(frozen=True)
class PreparedTexts:
    """Texts ready for any number of passes of the upper layers.

    Attributes:
        tokens: The tokenised texts.
        prefix: Their states at the split, or None where the split is at the bottom.
    """

    tokens: Tokens
    prefix: PrefixStates | None

    def __len__(self) -> int:
        return len(self.tokens)

    def collate(self, rows: Sequence[int]) -> Batch:
        """Return the padded batch of `rows`: the model's inputs and maybe `hidden`."""
        batch = self.tokens.pad(rows)
        if self.prefix is not None:
            batch["hidden"] = self.prefix.pad(rows)
        return batch


def model_inputs(batch: Batch, device: torch.device) -> Batch:
    """Return what a model is called with, where it is."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: batch[name].to(device) for name in names if name in batch}


def pool(hidden: Tensor, attention_mask: Tensor, kind: Kind) -> Tensor:
    """Return features [B, d] float32 from the last hidden states [B, T, d].

    A decoder's feature is the state of the last position whose mask is 1, whichever side the
    padding is on; an encoder's is the mean over the positions whose mask is 1.
    """
    states = hidden.float()
    if kind == "decoder":
        steps = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        last = (attention_mask * steps).argmax(1)
        return states[torch.arange(len(states), device=states.device), last]
    weights = attention_mask.unsqueeze(-1).float()
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1)


class FeatureExtractor(nn.Module):
    """From prepared texts to features, batch by batch; `forward` says what a feature is."""

    @property
    def num_features(self) -> int:
        """Width d of a feature."""
        raise NotImplementedError

    def prepare(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        advance: Callable[[int], object] = lambda _: None,
    ) -> PreparedTexts:
        """Return texts in the form that `features` takes.

        Args:
            texts: N texts.
            pairs: N second texts, or None.
            advance: Called with the number of texts that are done.
        """
        raise NotImplementedError

    @torch.no_grad()
    def features(
        self,
        prepared: PreparedTexts,
        *,
        batch_size: int = 64,
        advance: Callable[[int], object] = lambda _: None,
    ) -> Tensor:
        """Return the features [N, d] float32 on the CPU, in the order of the texts.

        The mode (training or evaluation) is left as it is: a draw of dropout masks needs the first.
        """
        result = torch.empty(len(prepared), self.num_features)
        for rows in self.batches(prepared, batch_size):
            result[rows] = self(prepared.collate(rows)).cpu()
            advance(len(rows))
        return result

    def batches(self, prepared: PreparedTexts, batch_size: int) -> Iterator[list[int]]:
        """Yield all rows in batches of similar length."""
        return length_batches(prepared.tokens.lengths, batch_size)


def _forget_oldest(known: dict[str, PrefixStates]) -> None:
    """Drop what was used longest ago where more is kept than may be; the newest always stays."""
    excess = sum(states.num_bytes for states in known.values()) - _KEPT_BYTES
    for key in list(known)[:-1]:
        if excess <= 0:
            return
        excess -= known.pop(key).num_bytes


class Encoder(FeatureExtractor):
    """A backbone with (or without) adapters, from texts to features."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        layers_path: str,
        start: int,
        max_length: int,
    ) -> None:
        """Wrap a backbone whose adapters, if any, sit in layer `start` or above.

        Args:
            backbone: A clone of its own when it carries adapters.
            layers_path: Dotted name of the list of layers.
            start: The first layer that may carry an adapter.
            max_length: Tokens kept of a text.
        """
        super().__init__()
        self.model = backbone.model
        self.backbone = backbone
        self.max_length = max_length
        self._split = LayerSplit(backbone.model, layers_path, start)

    @property
    def num_features(self) -> int:
        """d, the width of the backbone."""
        return self.backbone.num_features

    @property
    def first_running_layer(self) -> int:
        """Number of the layer that comes after the frozen prefix."""
        return self._split.start

    def prepare(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        advance: Callable[[int], object] = lambda _: None,
    ) -> PreparedTexts:
        """Tokenise texts and run the frozen prefix over them, once for each new set of texts."""
        tokens = tokenise(self.backbone, texts, pairs, max_length=self.max_length)
        if self._split.start == 0:
            advance(len(tokens))
            return PreparedTexts(tokens, None)
        was_training = self.model.training
        self.model.eval()
        try:
            return PreparedTexts(tokens, self._prefix(tokens, advance))
        finally:
            self.model.train(was_training)

    def forward(self, batch: Batch) -> Tensor:
        """Return the features [B, d] float32 of a collated batch, with gradients."""
        device = self.backbone.device
        hidden = batch.get("hidden")
        if hidden is not None:
            hidden = hidden.to(device, next(self.model.parameters()).dtype)
        states = self._split.suffix(hidden=hidden, **model_inputs(batch, device))
        return pool(states, batch["attention_mask"].to(device), self.backbone.kind)

    def running(self) -> frozenset[str]:
        """Return the names of the backbone's modules that a pass after the frozen prefix runs."""
        return self._split.running(**self._probe())

    def run_probe(self) -> None:
        """Run the whole model on a short text."""
        self.model(**self._probe())

    def behind(self) -> frozenset[str]:
        """Return the names of the backbone's modules that run only after its last layer."""
        return self._split.behind(**self._probe())

    def _probe(self) -> Batch:
        batch = tokenise(self.backbone, [_PROBE], None, max_length=self.max_length).pad([0])
        return model_inputs(batch, self.backbone.device)

    def _prefix(self, tokens: Tokens, advance: Callable[[int], object]) -> PrefixStates:
        known: dict[str, PrefixStates] = self.backbone.prefix_states
        key = self._key(tokens)
        states = known.pop(key, None)
        if states is not None:
            advance(len(tokens))
        else:
            states = compute_prefix(
                self._split,
                tokens,
                width=self.num_features,
                dtype=self.backbone.cache_dtype,
                device=self.backbone.device,
                batch_size=_PREFIX_BATCH,
                advance=advance,
            )
        known[key] = states
        _forget_oldest(known)
        return states

    def _key(self, tokens: Tokens) -> str:
        # Clones may compute in another precision than the backbone that they share this with.
        dtype = next(self.model.parameters()).dtype
        digest = hashlib.sha256(f"{self.backbone.fingerprint}|{dtype}|{self._split.start}".encode())
        digest.update(tokens.lengths.tobytes())
        for item in (*tokens.ids, *(tokens.types or ())):
            digest.update(item.tobytes())
        return digest.hexdigest()
