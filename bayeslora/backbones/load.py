"""Loading of backbones: any Hugging Face decoder or encoder without its head."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bayeslora import foreign
from bayeslora.backbones.embedded import EMBEDDED_MODELS, embedded_directory
from bayeslora.backbones.images import ImageReader, check_vision, is_vision
from bayeslora.backbones.template import Template
from bayeslora.errors import InputError, first_line
from bayeslora.foreign import is_sharded
from bayeslora.option_checks import Dtype, checked
from bayeslora.processes import restored_random_state

Kind = Literal["decoder", "encoder", "vision"]
# Settings that do not affect the computation with trained weights.
_IDLE_SETTINGS = {"use_cache", "initializer_range", "gradient_checkpointing", "pretraining_tp"}

SHORT_ATTENTION = "bayeslora_short"
"""Name of the implementation in transformers' attention registry."""

# The backward pass of PyTorch's bfloat16 kernel takes three to six times as long at 12 to 40
# tokens, equally long at 128, and less from 256 on.
_MOST_TOKENS = 128
_COMPARES = re.compile(r"_attn_implementation\s*(==|!=|in\b|not in\b)")


@dataclass(frozen=True)
class Backbone:
    """A frozen transformer without its head, and its tokenizer.

    Attributes:
        name: Name from the user: a short name, a directory or a hub id.
        model: Maps `input_ids` and `attention_mask`, or `pixel_values`, to `last_hidden_state`
            [B, T, d].
        tokenizer: The model's tokenizer, with a padding token; an `ImageReader` for a vision model.
        kind: Determines the feature: a decoder's last real token, an encoder's mean, a vision
            model's class token.
        fingerprint: Hash of the weights, the same in every dtype.
        cache_dtype: Dtype of the cached states of the frozen prefix.
        prefix_states: States of the frozen prefix by content, shared by all clones, so that every
            method, epoch and draw on the same texts reuses them; the oldest are evicted.
        known: Results of probing the model, shared by all clones.
        depth: Number of layers if the model was cut, else None.
        template: Frame around each text, or None.
    """

    name: str
    model: nn.Module
    tokenizer: Any
    kind: Kind
    fingerprint: str
    cache_dtype: torch.dtype
    prefix_states: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    known: dict[str, bool] = field(default_factory=dict, repr=False, compare=False)
    depth: int | None = None
    template: Template | None = None

    @property
    def num_features(self) -> int:
        """Width d of the features."""
        return int(self.model.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> str:
        """The `dtype` of `load_backbone` that reproduces the weights and the cache."""
        if self.cache_dtype == torch.float32:
            return "float32"
        return "bfloat16" if next(self.model.parameters()).dtype == torch.bfloat16 else "auto"

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-ready configuration that the weights do not imply, such as the number of heads."""
        from transformers import PretrainedConfig

        config = getattr(self.model, "config", None)
        if not isinstance(config, PretrainedConfig):
            return {}
        idle = (PretrainedConfig().to_dict().keys() - {"model_type"}) | _IDLE_SETTINGS

        def without_idle(settings: dict[str, Any]) -> dict[str, Any]:
            return {
                key: without_idle(value) if isinstance(value, dict) else value
                for key, value in settings.items()
                if key not in idle
                and not (key.startswith("_") or key.endswith("_token_id") or "dropout" in key)
            }

        # Infinities, which some architectures use as a limit, are no valid JSON: they become text.
        text = json.dumps(without_idle(config.to_dict()), default=str)
        return json.loads(text, parse_constant=str)  # type: ignore[no-any-return]

    def clone(self) -> Backbone:
        """Return a backbone with new modules that share every tensor with this backbone.

        Adapters can then be added to one clone without affecting the others.
        """
        shared: dict[int, Any] = {id(item): item for item in self.model.parameters()}
        shared |= {id(item): item for item in self.model.buffers()}
        # Layers sharded by FSDP cannot be copied, and need not be: they are below all adapters.
        shared |= {id(part): part for part in self.model.modules() if is_sharded(part)}
        return replace(self, model=copy.deepcopy(self.model, shared))


@restored_random_state()
def load_backbone(
    name: str, *, dtype: str = "auto", device: str | None = None, trust_remote_code: bool = False
) -> Backbone:
    """Load a backbone and freeze it.

    Args:
        name: A short name (`smollm2-135m`, `minilm`, `dinov2-s`), a directory, or a hub id.
        dtype: Dtype of the frozen weights: `float32`, `bfloat16`, or `auto`, which takes bfloat16
            if the device supports it in hardware, else float32.
        device: A torch device; None takes the GPU if there is one.
        trust_remote_code: Whether code from the model's repository may run.

    Raises:
        InputError: There is no such model, or it is of an unsupported kind.
    """
    from transformers import AutoModel

    target = pick_device(device)
    weights = _dtype(dtype, target)
    source = source_of(name)
    kind = model_kind(name, open_source("config", source, trust_remote_code))
    if kind == "vision":
        tokenizer: Any = ImageReader.of(source)
    else:
        tokenizer = open_source("tokenizer", source, trust_remote_code)
    with foreign.reading(f"backbone {name!r} cannot be loaded"):
        model, loading = AutoModel.from_pretrained(
            source,
            dtype=weights,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    foreign.check_fit(f"backbone {name!r}", model, loading)
    # A pooler is not part of the features, and mask tokens are only for pretraining.
    missing = frozenset(loading["missing_keys"])
    needed = [key for key in missing if "pooler" not in key and "mask_token" not in key]
    if needed:
        raise InputError(f"backbone {name!r} has no trained weights for {foreign.few(needed)}")
    check_finite(f"backbone {name!r}", model)
    if kind != "vision":
        set_padding_token(tokenizer)
    model.requires_grad_(False).eval().to(target)
    model.config.use_cache = False
    if weights == torch.bfloat16 and target.type == "cpu":
        use_short_attention(model)
    cache = torch.float32 if dtype == "float32" else torch.bfloat16
    if kind == "vision":
        check_vision(name, model, tokenizer)
    return Backbone(name, model, tokenizer, kind, fingerprint(model, missing), cache)


def pick_device(name: str | None) -> torch.device:
    """Return the device of that name; None takes the GPU if there is one, else the CPU.

    Raises:
        InputError: The device is not available, or cannot compute in float64 or at all (`meta`).
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # Posteriors are fitted in float64, which Apple's GPUs lack.
        number = torch.ones(1, device=name, dtype=torch.float64)
        number.exp().item()
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        raise InputError(f"device {name!r} cannot be used: {first_line(error)}") from None
    return number.device


def open_source(
    part: Literal["config", "tokenizer"], source: str, trust_remote_code: bool = False
) -> Any:
    """Return the configuration or the tokenizer of a directory or hub id.

    Raises:
        InputError: There is none.
    """
    from transformers import AutoConfig, AutoTokenizer

    loader = AutoConfig if part == "config" else AutoTokenizer
    try:
        foreign.check_reachable(source)
        with foreign.reading(f"{source}: the {part} cannot be loaded"):
            loaded: Any = loader.from_pretrained(source, trust_remote_code=trust_remote_code)
    except InputError as error:
        if Path(source).is_dir():
            raise
        names = ", ".join(EMBEDDED_MODELS)
        raise InputError(f"{error}; use a directory, a hub id, or a short name: {names}") from error
    # Some tokenizers load without their files and then have no vocabulary.
    if part == "tokenizer" and len(loaded) <= len(loaded.all_special_ids):
        raise InputError(f"{source}: the tokenizer has no vocabulary; its files are missing")
    return loaded


def set_padding_token(tokenizer: Any) -> None:
    """Set the padding token of a tokenizer to its end token if it has none."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


def lasting_name(name: str) -> str:
    """Return a name that refers to the same model from any working directory."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def check_finite(subject: str, model: nn.Module) -> None:
    """Raise InputError for parameters with values that are not finite.

    Attention may hide them, so that the features are finite but meaningless.

    Raises:
        InputError: A parameter has such values; the message names it.
    """
    for name, value in model.named_parameters():
        # A sum is several times as fast as testing every value, and never hides one.
        if not torch.isfinite(value.detach().sum(dtype=torch.float32)):
            raise InputError(
                f"{subject} is damaged: {name} contains values that are not finite", code="damaged"
            )


def fingerprint(model: nn.Module, without: Collection[str] = (), *, buffers: bool = False) -> str:
    """Return a hash of the parameters' names, shapes and values.

    Values are rounded to bfloat16 first, so that a model has the same fingerprint in every dtype.

    Args:
        model: Any model.
        without: Names of parameters to leave out.
        buffers: Whether to include persistent buffers, such as running means.
    """
    parts = dict(model.named_parameters())
    if buffers:
        parts |= {name: item for name, item in model.state_dict().items() if name not in parts}
    names = sorted(parts.keys() - set(without))
    digest = hashlib.sha256()
    # Hashing gigabytes takes seconds on one core, and hashing releases the GIL.
    with ThreadPoolExecutor(4) as pool:
        for name, content in zip(
            names, pool.map(_hashed, [parts[name] for name in names]), strict=True
        ):
            digest.update(f"{name}{list(parts[name].shape)}".encode() + content)
    return digest.hexdigest()[:32]


def _hashed(tensor: Tensor) -> bytes:
    content = tensor.detach()
    if content.is_floating_point():
        content = content.to(torch.bfloat16).view(torch.int16)
    return hashlib.sha256(content.cpu().contiguous().numpy().data).digest()


def computes_in_bfloat16(device: torch.device) -> bool:
    """Return whether `device` multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        info = Path("/proc/cpuinfo")
        text = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
        return "avx512_bf16" in text or "amx_bf16" in text
    return False


def _dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.bfloat16 if computes_in_bfloat16(device) else torch.float32
    checked("dtype", dtype, Dtype)
    torch_dtype: torch.dtype = getattr(torch, dtype)
    return torch_dtype


def source_of(name: str) -> str:
    """Return the directory or hub id of a name.

    Raises:
        InputError: It is not the name of a model.
    """
    if name in EMBEDDED_MODELS:
        return str(embedded_directory(name))
    return name


def model_kind(name: str, config: Any) -> Kind:
    """Return the kind of a model: decoder, encoder or vision.

    Raises:
        InputError: It is none of them.
    """
    from transformers.models.auto import modeling_auto as auto

    if not getattr(config, "is_encoder_decoder", False):
        is_masked = config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        if is_masked and not getattr(config, "is_decoder", False):
            return "encoder"
        if config.model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            return "decoder"
        if is_vision(config):
            return "vision"
    raise InputError(
        f"backbone {name!r} has model type {config.model_type!r}; use a decoder (such as Llama), "
        "an encoder (such as BERT), or a vision transformer with a class token and one state per "
        "patch in every layer (such as ViT, DeiT or DINOv2), but no encoder-decoder"
    )


def use_short_attention(model: Any) -> None:
    """Make a transformers model compute attention over short texts in float32.

    Models are not changed if their attention is not transformers' `sdpa` or if their code compares
    its name, as in models with sparse attention.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return
    if not getattr(model, "_supports_attention_backend", False) or _asks_for_the_name(model):
        return
    AttentionInterface.register(SHORT_ATTENTION, _short)
    AttentionMaskInterface.register(SHORT_ATTENTION, sdpa_mask)
    model.set_attn_implementation(SHORT_ATTENTION)


def _asks_for_the_name(model: Any) -> bool:
    """Return whether the code of a model compares the name of its attention implementation."""
    try:
        source = inspect.getsource(inspect.getmodule(type(model)))  # type: ignore[arg-type]
    except (OSError, TypeError):
        return True
    return _COMPARES.search(source) is not None


def _short(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute attention for queries [B, H, T, d], with the interface of transformers' `sdpa`."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    # Additive terms of the scores have the dtype of the model.
    added = options.get("position_bias") is not None or (
        attention_mask is not None and attention_mask.dtype != torch.bool
    )
    if added or key.shape[2] > _MOST_TOKENS:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    attended, _ = sdpa_attention_forward(
        module, query.float(), key.float(), value.float(), attention_mask, **options
    )
    return attended.to(query.dtype), None
