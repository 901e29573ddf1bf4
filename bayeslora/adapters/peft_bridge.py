"""Exchange with PEFT: write any low-rank adapter as a plain LoRA, unmerge a plain LoRA.

PoLAR is exact in this form: `A = Yᵀ`, `B = X·Θ`, with the same rank and alpha. A change relative to
a start, as in PiSSA, becomes a LoRA of rank 2r on the original weight. Writing does not need PEFT.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora import foreign
from bayeslora.adapters.inject import put
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.low_rank import Factors, LowRank
from bayeslora.adapters.site import Site
from bayeslora.errors import InputError
from bayeslora.foreign import PEFT_CONFIG, PEFT_WEIGHTS, TENSOR_ROOT
from bayeslora.io import write_json, write_tensors

__all__ = ["export_peft", "peft_adapter", "split_peft"]

_FROM_WEIGHT = ("pissa", "olora", "loftq")
"""Starts whose factors contain a part of the pretrained weight."""


def export_peft(
    sites: Sequence[Site], directory: str | Path, base_model_name: str | None = None
) -> None:
    """Write a checkpoint that `peft.PeftModel.from_pretrained` loads as the same function.

    Args:
        sites: The adapters of one model, all of the same scale. Columns of a weight become a LoRA
            whose first factor selects them; sites without columns are left out.
        directory: Where `adapter_config.json` and `adapter_model.safetensors` go.
        base_model_name: Directory or hub id of the plain model, for PEFT's automatic loading.

    Raises:
        InputError: A site has a gate.
    """
    for site in sites:
        site.check_fixed()
    tensors: dict[str, Tensor] = {}
    ranks = {}
    for site in sites:
        A, B = site.change()
        if len(A):
            ranks[site.name] = len(A)
            tensors |= {f"{site.name}.lora_A.weight": A, f"{site.name}.lora_B.weight": B}
    folder = Path(directory)
    tensors = {
        f"{TENSOR_ROOT}{name}": value.detach().float().cpu() for name, value in tensors.items()
    }
    write_tensors(folder / PEFT_WEIGHTS, tensors, format="pt")
    write_json(folder / PEFT_CONFIG, _peft_config(ranks, sites[0], base_model_name))


def _peft_config(ranks: dict[str, int], site: Site, base_model_name: str | None) -> dict[str, Any]:
    """Return PEFT's options; the patterns match exactly the adapted layers."""
    r, scale = max(ranks.values()), site.scale
    other_ranks = {re.escape(path): rank for path, rank in ranks.items() if rank != r}
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model_name,
        "r": r,
        "lora_alpha": scale * r,
        "lora_dropout": site.dropout_probability,
        "target_modules": "(?:" + "|".join(map(re.escape, ranks)) + ")",
        "rank_pattern": other_ranks,
        "alpha_pattern": {pattern: scale * rank for pattern, rank in other_ranks.items()},
        "inference_mode": True,
        "task_type": "FEATURE_EXTRACTION",
    }


def peft_adapter(directory: str | Path) -> LoRA:
    """Return the adapter of a PEFT checkpoint; `target_modules` are the full paths of its layers.

    Raises:
        InputError: See `split_peft`.
        MissingAssetError: peft is not installed.
    """
    config, factors = _read(directory)
    return LoRA(
        r=config.r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=tuple(factors),
        num_layers=None,
        use_rslora=bool(config.use_rslora),
    )


@torch.no_grad()
def split_peft(model: nn.Module, directory: str | Path) -> list[Site]:
    """Unmerge the adapters of a PEFT checkpoint from a model into separate sites.

    The model computes the same function as before, up to the rounding of a float32 sum.

    Args:
        model: The model that PEFT wrapped, with the checkpoint merged into it; changed in place.
        directory: The checkpoint.

    Raises:
        InputError: Its adapters are not plain LoRA of linear layers, or their factors contain a
            part of the pretrained weight.
        MissingAssetError: peft is not installed.
    """
    from peft.utils.other import get_pattern_key

    config, factors = _read(directory)
    sites = []
    for path, (A, B) in factors.items():
        host = model.get_submodule(path)
        if type(host) is not nn.Linear:
            raise _not_plain(directory, f"{path} is no nn.Linear")
        alphas = config.alpha_pattern
        alpha = alphas.get(get_pattern_key(alphas, path), config.lora_alpha)
        scale = alpha / (len(A) ** 0.5 if config.use_rslora else len(A))
        start = Factors(A, B, None, orthonormal=False)
        sites.append(LowRank(path, host, start, scale, config.lora_dropout))
    for site in sites:
        site.weight.sub_(site.delta().to(site.weight))
    return put(model, sites)


def _read(directory: str | Path) -> tuple[Any, dict[str, tuple[Tensor, Tensor]]]:
    """Return the `LoraConfig` and the factors, A [r, in] and B [out, r], by layer."""
    config = foreign.peft_config(directory)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in foreign.peft_tensors(directory).items():
        path, _, part = name.removeprefix(TENSOR_ROOT).partition(".lora_")
        if part:
            parts.setdefault(path, {})[part] = value.float()
    if not parts or any(pair.keys() != {"A.weight", "B.weight"} for pair in parts.values()):
        raise _not_plain(directory, "its tensors are not one lora_A and one lora_B per layer")
    if config.init_lora_weights in _FROM_WEIGHT:
        start = f"init_lora_weights {config.init_lora_weights!r}"
        raise _not_plain(directory, f"with {start} it contains a part of the pretrained weight")
    return config, {path: (pair["A.weight"], pair["B.weight"]) for path, pair in parts.items()}


def _not_plain(directory: str | Path, reason: str) -> InputError:
    return InputError(
        f"{directory} is not a plain LoRA ({reason}), which a posterior over its factors needs; "
        "choose a posterior over the last layer"
    )
