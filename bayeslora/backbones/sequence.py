"""Somebody else's fine-tuned sequence classifier as a source of features.

The feature of a text is what its final linear layer receives; that layer's weight and bias are the
mean that a posterior starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from bayeslora.backbones.encoder import Batch, FeatureExtractor, PreparedTexts, model_inputs
from bayeslora.backbones.hub import check_reachable
from bayeslora.backbones.load import (
    Backbone,
    fingerprint,
    model_kind,
    open_source,
    pick_device,
)
from bayeslora.backbones.peft_classifier import is_peft, merged_classifier, tokenizer_source
from bayeslora.backbones.tokens import tokenise
from bayeslora.errors import InputError

IN_MEMORY = "a model in memory"
"""Name of a classifier that was passed as a module without a place of its own."""


@dataclass(frozen=True)
class SequenceClassifier:
    """A loaded sequence classifier.

    Attributes:
        backbone: The whole classifier, its tokenizer and its kind.
        classes: Names of the classes in index order.
        layer: Dotted name of the final linear layer.
    """

    backbone: Backbone
    classes: tuple[str, ...]
    layer: str


class SequenceEncoder(FeatureExtractor):
    """From texts to the input of a sequence classifier's final linear layer."""

    def __init__(self, classifier: SequenceClassifier, *, max_length: int) -> None:
        """Wrap a classifier, which stays as it is; texts are cut to `max_length` tokens."""
        super().__init__()
        self.backbone = classifier.backbone
        self.model = classifier.backbone.model
        self.max_length = max_length
        self._final = self.model.get_submodule(classifier.layer)

    @property
    def num_features(self) -> int:
        """d, with the constant column where the final layer has a bias."""
        return self.weight.shape[1]

    @property
    def weight(self) -> Tensor:
        """[C, d] float32: the final layer's weight, its bias as the last column if it has one."""
        final: Any = self._final
        weight: Tensor = final.weight.detach().float().cpu()
        if final.bias is None:
            return weight
        return torch.cat([weight, final.bias.detach().float().cpu().unsqueeze(1)], 1)

    def prepare(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        advance: Callable[[int], object] = lambda _: None,
    ) -> PreparedTexts:
        """Tokenise texts; nothing is run yet."""
        tokens = tokenise(self.backbone, texts, pairs, max_length=self.max_length)
        advance(len(tokens))
        return PreparedTexts(tokens, None)

    def forward(self, batch: Batch) -> Tensor:
        """Return the final layer's input [B, d] float32, a 1 appended where it has a bias."""
        device = self.backbone.device
        mask = batch["attention_mask"].to(device)
        seen: list[Tensor] = []
        handle = self._final.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.model(**model_inputs(batch, device))
        finally:
            handle.remove()
        features = seen[-1].float()
        if features.ndim == 3:
            # Decoders classify every position and read the answer at the last real one.
            last = (mask * torch.arange(mask.shape[1], device=device)).argmax(1)
            features = features[torch.arange(len(features), device=device), last]
        if self.num_features > features.shape[1]:
            features = torch.cat([features, features.new_ones(len(features), 1)], 1)
        return features


def load_sequence_classifier(
    source: str | nn.Module,
    *,
    tokenizer: Any = None,
    layer: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> SequenceClassifier:
    """Load a Hugging Face sequence classifier and find its final linear layer.

    Args:
        source: A directory, a hub id, a PEFT checkpoint directory, or the model itself, which is
            then frozen and put in evaluation mode.
        tokenizer: Needed with a model in memory whose own tokenizer cannot be found.
        layer: Dotted name of the final linear layer, where it cannot be found.
        device: A torch device; None takes the GPU if there is one.
        trust_remote_code: Whether code from the model's repository may run.

    Raises:
        InputError: There is no such model, it is not a classifier with one label a text, weights
            are missing from it, or the final layer cannot be told.
    """
    model, name, reader = _model(source, trust_remote_code)
    if tokenizer is None:
        if not reader:
            raise InputError("a model in memory does not name its tokenizer; pass tokenizer")
        tokenizer = open_source("tokenizer", reader, trust_remote_code)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    config: Any = model.config
    config.pad_token_id = tokenizer.pad_token_id
    place = pick_device(device)
    model.requires_grad_(False).eval().to(place)
    kind = model_kind(name, config)
    backbone = Backbone(name, model, tokenizer, kind, fingerprint(model), torch.float32)
    classes = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    if len(classes) < 2:
        raise InputError(f"{name} has {len(classes)} output; a classifier has two or more classes")
    if config.problem_type == "multi_label_classification":
        raise InputError(f"{name} gives a text any number of labels; only one label a text is read")
    final = layer or _final_layer(model, len(classes))
    _check_layer(model, final, len(classes))
    return SequenceClassifier(backbone, classes, final)


def _model(source: str | nn.Module, trust_remote_code: bool) -> tuple[nn.Module, str, str]:
    """Return the model, its name, and where its tokenizer is (empty where that is unknown)."""
    if isinstance(source, nn.Module):
        path = str(getattr(source, "name_or_path", ""))
        return source, path or IN_MEMORY, path
    if is_peft(source):
        return merged_classifier(source), source, tokenizer_source(source)
    from transformers import AutoModelForSequenceClassification

    check_reachable(source)
    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            source,
            output_loading_info=True,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise InputError(f"{source} cannot be loaded as a sequence classifier: {reason}") from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise InputError(
            f"{source} has no trained weights for {', '.join(missing[:3])}; it is not a "
            "fine-tuned sequence classifier"
        )
    return model, source, source


@torch.no_grad()
def _final_layer(model: nn.Module, num_classes: int) -> str:
    """Return the name of the last linear layer to run whose outputs are the classes."""
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == num_classes
    ]
    device = next(model.parameters()).device
    probe = torch.ones(1, 2, dtype=torch.long, device=device)
    try:
        model(input_ids=probe, attention_mask=probe)
    finally:
        for handle in handles:
            handle.remove()
    if not ran:
        raise InputError(
            f"no linear layer with {num_classes} outputs ran; name the final layer, one of "
            + _last_linear(model)
        )
    return ran[-1]


def _check_layer(model: nn.Module, name: str, num_classes: int) -> None:
    module = dict(model.named_modules()).get(name)
    if not isinstance(module, nn.Linear) or module.out_features != num_classes:
        raise InputError(
            f"layer {name!r} is no linear layer with {num_classes} outputs; the last linear layers "
            "are " + _last_linear(model)
        )


def _last_linear(model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return ", ".join(names[-5:])
