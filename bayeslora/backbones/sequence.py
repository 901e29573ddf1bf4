"""Somebody else's fine-tuned sequence classifier as a source of features.

The feature of a text is what its final linear layer receives; that layer's weight and bias are the
mean that a posterior starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora.backbones.encoder import Batch, PreparedTexts, extract_features
from bayeslora.backbones.load import (
    Backbone,
    fingerprint,
    model_kind,
    open_source,
    pick_device,
)
from bayeslora.backbones.tokens import length_batches, tokenise
from bayeslora.errors import InputError


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


class SequenceEncoder(nn.Module):
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
            self.model(input_ids=batch["input_ids"].to(device), attention_mask=mask)
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

    def features(
        self,
        prepared: PreparedTexts,
        *,
        batch_size: int = 64,
        advance: Callable[[int], object] = lambda _: None,
    ) -> Tensor:
        """Return the features [N, d] float32 on the CPU, in the order of the texts."""
        return extract_features(self, prepared, self.num_features, batch_size, advance)

    def batches(self, prepared: PreparedTexts, batch_size: int) -> Iterator[list[int]]:
        """Yield all rows in batches of similar length."""
        return length_batches(prepared.tokens.lengths, batch_size)


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
        source: A directory, a hub id, a PEFT checkpoint directory, or the model itself.
        tokenizer: Needed with a model in memory whose own tokenizer cannot be found.
        layer: Dotted name of the final linear layer, where it cannot be found.
        device: A torch device; None takes the GPU if there is one.
        trust_remote_code: Whether code from the model's repository may run.

    Raises:
        InputError: There is no such model, it is not a sequence classifier, weights are missing
            from it, or the final layer cannot be told.
    """
    model, name = _model(source, trust_remote_code)
    if tokenizer is None:
        tokenizer = open_source("tokenizer", name, trust_remote_code)
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
    return SequenceClassifier(backbone, classes, layer or _final_layer(model, len(classes)))


def _model(source: str | nn.Module, trust_remote_code: bool) -> tuple[nn.Module, str]:
    if isinstance(source, nn.Module):
        return source, str(getattr(source, "name_or_path", "") or "a model in memory")
    if (Path(source) / "adapter_config.json").is_file():
        return _peft_model(source), source
    from transformers import AutoModelForSequenceClassification

    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            source,
            output_loading_info=True,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise InputError(f"{source} cannot be loaded as a sequence classifier: {reason}") from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise InputError(
            f"{source} has no trained weights for {', '.join(missing[:3])}; it is not a "
            "fine-tuned sequence classifier"
        )
    return model, source


def _peft_model(source: str) -> nn.Module:
    try:
        from peft import AutoPeftModelForSequenceClassification
    except ImportError:
        raise InputError(
            f"{source} is a PEFT checkpoint; run `pip install bayeslora[peft]`"
        ) from None
    from safetensors import safe_open

    weights = Path(source) / "adapter_model.safetensors"
    if not weights.is_file():
        raise InputError(f"{source} has no adapter_model.safetensors; pickled weights are not read")
    with safe_open(str(weights), "pt") as file:
        names = list(file.keys())
    if not any("score" in name or "classifier" in name for name in names):
        raise InputError(f"{source} holds no classification head; save it with modules_to_save")
    from bayeslora.files import read_json

    config = read_json(Path(source) / "adapter_config.json")
    if not isinstance(config, dict) or "base_model_name_or_path" not in config:
        raise InputError(f"{source}/adapter_config.json does not name its base model")
    with safe_open(str(weights), "pt") as file:
        heads = [name for name in names if name.endswith(_HEADS)]
        num_labels = file.get_tensor(heads[-1]).shape[0] if heads else 2
    model = AutoPeftModelForSequenceClassification.from_pretrained(
        source, num_labels=int(num_labels), dtype=torch.float32
    )
    merged: nn.Module = model.merge_and_unload()
    return merged


_HEADS = ("score.weight", "classifier.weight", "out_proj.weight")


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
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        raise InputError(
            f"no linear layer with {num_classes} outputs ran; name the final layer, one of "
            + ", ".join(linear[-5:])
        )
    return ran[-1]
