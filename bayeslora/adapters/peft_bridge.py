"""Exchange with PEFT: write any low-rank adapter as a plain LoRA, read any plain LoRA.

PoLAR is exact in this form: `A = Yᵀ`, `B = X·Θ`, with the same rank and alpha. A change relative to
a start, as in PiSSA, becomes a LoRA of rank 2r on the original weight. The reader supports ranks,
scales and rank-stabilised scales per layer, PiSSA with the exact decomposition, and checkpoints
that PEFT converted to a plain LoRA when saving. Files are written and read without importing PEFT,
and nothing is unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bayeslora.adapters.factors import Factors
from bayeslora.adapters.inject import put
from bayeslora.adapters.low_rank import LowRank
from bayeslora.adapters.peft_files import PeftCheckpoint, read_peft
from bayeslora.adapters.peft_targets import missing_layers
from bayeslora.adapters.pissa import pissa
from bayeslora.adapters.site import Site
from bayeslora.errors import InputError
from bayeslora.io.files import atomic_file, write_json
from bayeslora.peft_layout import (
    CONFIG_FILE,
    CONVERSION,
    EMBEDDED_BASE,
    EXACT_PISSA,
    TENSOR_ROOT,
    WEIGHTS_FILE,
)
from bayeslora.plain_text import counted

__all__ = ["PeftCheckpoint", "export_peft", "load_peft", "read_peft", "split_peft"]


def export_peft(
    sites: Sequence[Site],
    directory: str | Path,
    base_model_name: str | None = None,
    prefix: str = "",
    head: Mapping[str, Tensor] | None = None,
    *,
    task_type: str | None = None,
    embedded: str | None = None,
) -> None:
    """Write a checkpoint that `peft.PeftModel.from_pretrained` loads as the same function.

    Args:
        sites: The adapters of one model, all of the same scale. Columns of a weight become a LoRA
            whose first factor selects them; sites without columns are left out.
        directory: Where `adapter_config.json` and `adapter_model.safetensors` go.
        base_model_name: Directory or hub id of the plain model, for PEFT's automatic loading.
        prefix: Prefix of the sites' names in the model that PEFT will wrap: empty for the class
            they were injected into, `model.` for a decoder's language model,
            `bert.` for a BERT classifier.
        head: Tensors of a sequence classifier's last layer by their names in it, such as
            `score.weight`, saved whole beside the adapters.
        task_type: PEFT's task type, such as `FEATURE_EXTRACTION`.
        embedded: Short name of the embedded model that the base is a copy of; `read_peft` then
            finds this model.

    Raises:
        InputError: There are no sites, their change is empty, their scales or dropouts differ, or
            a site has a gate.
    """
    for site in sites:
        site.check_fixed()
    changes = {prefix + site.name: site.change() for site in sites}
    changes = {path: (A, B) for path, (A, B) in changes.items() if len(A)}
    if sites and not changes:
        raise InputError(
            f"nothing to write: none of the {len(sites)} adapted layers has a trained column"
        )
    shared = {(site.scale, site.dropout_probability) for site in sites}
    if len(shared) != 1:
        raise InputError(
            f"a PEFT checkpoint has one (scale, dropout) for all layers, but the {len(sites)} "
            f"adapted layers have {sorted(shared)}"
        )
    tensors: dict[str, Tensor] = {}
    for path, (A, B) in changes.items():
        tensors[f"{TENSOR_ROOT}{path}.lora_A.weight"] = A.detach().float().cpu().contiguous()
        tensors[f"{TENSOR_ROOT}{path}.lora_B.weight"] = B.detach().float().cpu().contiguous()
    for name, value in (head or {}).items():
        tensors[f"{TENSOR_ROOT}{name}"] = value.detach().float().cpu().contiguous()
    folder = Path(directory)
    with atomic_file(folder / WEIGHTS_FILE) as temporary:
        extra = {} if embedded is None else {EMBEDDED_BASE: embedded}
        save_file(tensors, str(temporary), metadata={"format": "pt", **extra})
    ranks = {path: len(A) for path, (A, _) in changes.items()}
    config = _peft_config(ranks, *shared.pop(), base_model_name) | {"task_type": task_type}
    if head:
        config["modules_to_save"] = sorted({name.rpartition(".")[0] for name in head})
    write_json(folder / CONFIG_FILE, config)


def load_peft(model: nn.Module, directory: str | Path) -> list[Site]:
    """Inject the adapters of a PEFT checkpoint into `model` and return them.

    `model` may be the model that PEFT wrapped, its backbone alone, or a model around it: paths
    are matched by suffix. Modules that were saved in full are copied if `model` has them; the
    others stay in `read_peft(directory).modules_to_save`. If PEFT started from an exact `pissa`,
    `model` must have the original weights: the principal parts are computed again.

    Raises:
        InputError: See `read_peft`; a layer of the checkpoint matches no layer or several layers of
            `model`; or the checkpoint lacks a layer that its options name, though it has others
            of the same list of layers.
    """
    checkpoint = read_peft(directory)
    homes = _homes(model, checkpoint)
    saved = _homes_of_saved(model, checkpoint.modules_to_save)
    sites = [_site(model, home, path, checkpoint) for path, home in homes.items()]
    with torch.no_grad():
        for target, value in saved:
            target.copy_(value)
    return put(model, sites)


@torch.no_grad()
def split_peft(model: nn.Module, directory: str | Path) -> list[Site]:
    """Unmerge the adapters of a PEFT checkpoint from a model into separate sites.

    The model computes the same function as before, up to the rounding of a float32 sum.

    Args:
        model: Changed in place.
        directory: The checkpoint.

    Raises:
        InputError: See `load_peft`; or the factors carry a part of the pretrained weight whose
            start is not in the checkpoint. The model is then unchanged.
    """
    checkpoint = read_peft(directory)
    if checkpoint.is_pissa:
        raise InputError(
            f"{directory} was initialised with init_lora_weights {EXACT_PISSA!r}, so its factors "
            f"contain part of the pretrained weight; {CONVERSION}"
        )
    homes = _homes(model, checkpoint)
    sites = [_site(model, home, path, checkpoint) for path, home in homes.items()]
    for site in sites:
        site.weight.sub_(site.delta().to(site.weight))
    return put(model, sites)


@torch.no_grad()
def _site(model: nn.Module, name: str, path: str, checkpoint: PeftCheckpoint) -> LowRank:
    """Return a site for one layer of `model` with the factors of a layer of the checkpoint."""
    host, scale = model.get_submodule(name), checkpoint.scales[path]
    A, B = (checkpoint.tensors[f"{path}.{key}"] for key in "AB")
    if not isinstance(host, nn.Linear) or host.weight.shape != (len(B), A.shape[1]):
        shape = list(host.get_parameter("weight").shape)
        raise InputError(
            f"the checkpoint's layer {path!r} has {len(B)} outputs and {A.shape[1]} inputs, but "
            f"the model's weight has shape {shape}"
        )
    factors = Factors(A, B, None, orthonormal=False)
    if not checkpoint.is_pissa:
        return LowRank(name, host, factors, scale, checkpoint.config.dropout)
    start = pissa(host.weight, len(A), scale, torch.Generator())
    site = LowRank(name, host, start, scale)
    for layer, value in ((site.A, A), (site.B, B)):
        layer.weight.copy_(value)
    return site


def _peft_config(
    ranks: dict[str, int], scale: float, dropout: float, base_model_name: str | None
) -> dict[str, Any]:
    """Return PEFT's options; the patterns match exactly the adapted layers."""
    r = max(ranks.values())
    other_ranks = {re.escape(path): rank for path, rank in ranks.items() if rank != r}
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model_name,
        "r": r,
        "lora_alpha": scale * r,
        "lora_dropout": dropout,
        "target_modules": "(?:" + "|".join(map(re.escape, ranks)) + ")",
        "rank_pattern": other_ranks,
        "alpha_pattern": {pattern: scale * rank for pattern, rank in other_ranks.items()},
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }


def _homes(model: nn.Module, checkpoint: PeftCheckpoint) -> dict[str, str]:
    """Return the name in the model of each layer of a checkpoint, which must be complete."""
    linear = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    homes = {path: _home(path, linear) for path in checkpoint.config.target_modules or ()}
    missing = missing_layers(homes, linear, checkpoint.targets) if checkpoint.targets else []
    if missing:
        raise InputError(
            f"the checkpoint has no factors of {missing[0]!r}"
            + (f" and {counted(len(missing) - 1, 'other layer')}" if len(missing) > 1 else "")
            + f", which {CONFIG_FILE} lists as adapted: the checkpoint is damaged, or was made "
            "for a model with other layers"
        )
    return homes


def _home(path: str, names: Collection[str]) -> str:
    """Return the only name that refers to the same layer as `path`."""
    matches = _same(path, names)
    if len(matches) != 1:
        problem = (
            "no plain linear layer" if not matches else f"several layers ({', '.join(matches)})"
        )
        raise InputError(f"the checkpoint's layer {path!r} matches {problem} in the model")
    return matches[0]


def _same(path: str, names: Collection[str]) -> list[str]:
    """Return `path` if it is in `names`, else the names of which it is a suffix, or vice versa."""
    if path in names:
        return [path]
    return [name for name in names if path.endswith(f".{name}") or name.endswith(f".{path}")]


def _homes_of_saved(
    model: nn.Module, saved: dict[str, Tensor]
) -> list[tuple[nn.Parameter, Tensor]]:
    """Return the parameters that a checkpoint saved in full, with their new values."""
    parameters = dict(model.named_parameters())
    pairs = []
    for path, value in saved.items():
        matches = _same(path, parameters)
        if len(matches) > 1:
            raise InputError(
                f"the checkpoint's {path!r} matches several parameters of the model: "
                f"{', '.join(matches)}"
            )
        pairs += [(parameters[name], path, value) for name in matches]
    for parameter, path, value in pairs:
        if parameter.shape != value.shape:
            raise InputError(
                f"the checkpoint's {path!r} has shape {list(value.shape)}, but the model's "
                f"parameter has {list(parameter.shape)}"
            )
    return [(parameter, value) for parameter, _, value in pairs]
