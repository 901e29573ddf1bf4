"""Exchange with PEFT: write any low-rank adapter as a plain LoRA, read any plain LoRA.

PoLAR is exact in this form: `A = Yᵀ`, `B = X·Θ`, with the same rank and alpha. A change relative to
a start, as in PiSSA, becomes a LoRA of rank 2r on the original weight. Writing does not need PEFT.
The reader asks PEFT which layers a checkpoint's options select, and with which ranks and scales;
a layer that PEFT would silently initialise anew is refused. Nothing is unpickled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora import foreign
from bayeslora.adapters.inject import put
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.low_rank import Factors, LowRank
from bayeslora.adapters.pissa import pissa
from bayeslora.adapters.site import Site
from bayeslora.adapters.targets import split_at_layer
from bayeslora.errors import InputError
from bayeslora.foreign import CONVERSION, EMBEDDED_BASE, PEFT_CONFIG, PEFT_WEIGHTS, TENSOR_ROOT
from bayeslora.io.files import write_json, write_tensors

__all__ = ["export_peft", "load_peft", "peft_adapter", "split_peft"]

_PISSA = "pissa"
_FACTOR = re.compile(r"(?P<path>.+)\.lora_(?P<factor>[AB])\.weight")
_KNOWN_OPTIONS = frozenset(
    {
        *("peft_type", "peft_version", "task_type", "auto_mapping", "inference_mode", "revision"),
        *("base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "use_rslora"),
        *("rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "modules_to_save"),
        *("layers_to_transform", "layers_pattern", "init_lora_weights", "loftq_config"),
        *("eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "megatron_config"),
        *("megatron_core", "ensure_weight_tying"),
    }
)
"""Options that a plain site reproduces; any other, if set, makes another function of a LoRA."""

_Pair = tuple[Tensor, Tensor]
"""A [r, in] and B [out, r] of a layer."""


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
        embedded: Short name of the embedded model that the base is a copy of; readers of
            ours then find this model.

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
    tensors = dict(head or {})
    for path, (A, B) in changes.items():
        tensors |= {f"{path}.lora_A.weight": A, f"{path}.lora_B.weight": B}
    folder = Path(directory)
    extra = {} if embedded is None else {EMBEDDED_BASE: embedded}
    tensors = {
        f"{TENSOR_ROOT}{name}": value.detach().float().cpu() for name, value in tensors.items()
    }
    write_tensors(folder / PEFT_WEIGHTS, tensors, format="pt", **extra)
    ranks = {path: len(A) for path, (A, _) in changes.items()}
    config = _peft_config(ranks, *shared.pop(), base_model_name) | {"task_type": task_type}
    if head:
        config["modules_to_save"] = sorted({name.rpartition(".")[0] for name in head})
    write_json(folder / PEFT_CONFIG, config)


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


def peft_adapter(directory: str | Path) -> LoRA:
    """Return the adapter of a PEFT checkpoint; `target_modules` are the full paths of its layers.

    Raises:
        InputError: The directory is damaged, or holds a pickle, a method other than LoRA, or a
            variant of LoRA that a plain site cannot reproduce.
        MissingAssetError: peft is not installed.
    """
    config, factors, _ = _read(directory)
    return LoRA(
        r=config.r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=tuple(factors),
        num_layers=None,
        use_rslora=bool(config.use_rslora),
    )


def load_peft(model: nn.Module, directory: str | Path) -> list[Site]:
    """Inject the adapters of a PEFT checkpoint into `model` and return them.

    `model` may be the model that PEFT wrapped, its backbone alone, or a model around it: paths
    are matched by suffix. Modules that were saved in full are copied if `model` has them. If PEFT
    started from an exact `pissa`, `model` must have the original weights: the principal parts are
    computed again.

    Raises:
        InputError: See `peft_adapter`; a layer of the checkpoint matches no layer or several layers
            of `model`; or the checkpoint lacks a layer that its options name, though it has others
            of the same list of layers. The model is then unchanged.
        MissingAssetError: peft is not installed.
    """
    config, factors, others = _read(directory)
    sites, home = _sites(model, directory, config, factors)
    parameters = dict(model.named_parameters())
    saved = {path: value for path, value in others.items() if home(path) in parameters}
    for path, value in saved.items():
        shape = list(parameters[home(path)].shape)
        if list(value.shape) != shape:
            raise InputError(
                f"the checkpoint's {path!r} has shape {list(value.shape)}, but the model's "
                f"parameter has {shape}"
            )
    with torch.no_grad():
        for path, value in saved.items():
            parameters[home(path)].copy_(value)
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
    config, factors, _ = _read(directory)
    if config.init_lora_weights == _PISSA:
        raise InputError(
            f"{directory} was initialised with init_lora_weights {_PISSA!r}, so its factors "
            f"contain part of the pretrained weight; {CONVERSION}"
        )
    sites, _ = _sites(model, directory, config, factors)
    for site in sites:
        site.weight.sub_(site.delta().to(site.weight))
    return put(model, sites)


def _read(directory: str | Path) -> tuple[Any, dict[str, _Pair], dict[str, Tensor]]:
    """Return the `LoraConfig`, the factors by layer, and all other tensors of a checkpoint.

    Names are relative to the model that PEFT wrapped.
    """
    file, options = Path(directory) / PEFT_CONFIG, foreign.peft_options(directory)
    if options["peft_type"] != "LORA":
        raise InputError(f"{file}: peft_type must be 'LORA', got {options['peft_type']!r}")
    for key, value in options.items():
        if key not in _KNOWN_OPTIONS and value and (key, value) != ("bias", "none"):
            raise InputError(f"{file}: {key} = {value!r} is not supported; only plain LoRA is")
    foreign.check_start(directory, options.get("init_lora_weights"), (_PISSA,))
    factors: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    weights = Path(directory) / PEFT_WEIGHTS
    for full_name, value in foreign.peft_tensors(directory).items():
        name = full_name.removeprefix(TENSOR_ROOT)
        match = _FACTOR.fullmatch(name)
        if match:
            factors.setdefault(match["path"], {})[match["factor"]] = value.float()
        elif "lora_" in name:
            raise InputError(
                f"{weights}: tensor {full_name!r} does not belong to a plain linear LoRA layer"
            )
        else:
            others[name] = value
    if not factors:
        raise InputError(f"{weights} contains no tensor named …lora_A.weight or …lora_B.weight")
    for path, pair in factors.items():
        if len(pair) < 2:
            raise InputError(f"{weights}: {path!r} has only the factor {min(pair)!r} of A and B")
    pairs = {path: (pair["A"], pair["B"]) for path, pair in factors.items()}
    return foreign.peft_config(directory), pairs, others


@torch.no_grad()
def _sites(
    model: nn.Module, directory: str | Path, config: Any, factors: Mapping[str, _Pair]
) -> tuple[list[Site], Callable[[str], str]]:
    """Return a site for each layer of a checkpoint, and from names in it to names in the model.

    The model is not changed.
    """
    linear = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    outer, inner = _prefixes(next(iter(factors)), linear)

    def home(path: str) -> str:
        return inner + path.removeprefix(outer)

    paths = {outer + name.removeprefix(inner) for name in linear if name.startswith(inner)}
    for path in factors.keys() - paths:
        raise InputError(f"the checkpoint's layer {path!r} matches no linear layer of the model")
    sites: list[Site] = []
    with foreign.reading(f"{Path(directory) / PEFT_CONFIG} cannot be used"):
        missing = _missing(config, paths, factors)
        if missing:
            raise InputError(
                f"the checkpoint has no factors of {missing[0]!r} and {len(missing) - 1} other "
                f"layers, which {PEFT_CONFIG} lists as adapted: the checkpoint is damaged, or was "
                "made for a model with other layers"
            )
        for path, (A, B) in factors.items():
            host: Any = model.get_submodule(home(path))
            scale = _scale(config, path, A, B, host.weight)
            start, dropout = Factors(A, B, None, orthonormal=False), config.lora_dropout
            if config.init_lora_weights == _PISSA:
                start, dropout = pissa(host.weight, len(A), scale, torch.Generator()), 0.0
            site = LowRank(home(path), host, start, scale, dropout)
            site.A.weight.copy_(A)
            site.B.weight.copy_(B)
            sites.append(site)
    return sites, home


def _prefixes(path: str, linear: Collection[str]) -> tuple[str, str]:
    """Return the prefixes of all paths in the checkpoint, and of the same layers in the model.

    Args:
        path: Of one layer in the checkpoint.
        linear: Names of the model's linear layers. One of them is a suffix of `path` or vice
            versa: PEFT may have wrapped more than the model, or less.
    """
    matches = [path] if path in linear else []
    matches = matches or [
        name for name in linear if path.endswith(f".{name}") or name.endswith(f".{path}")
    ]
    if len(matches) != 1:
        problem = f"several layers ({', '.join(matches)})" if matches else "no plain linear layer"
        raise InputError(f"the checkpoint's layer {path!r} matches {problem} in the model")
    shared = min(path, matches[0], key=len)
    return path.removesuffix(shared), matches[0].removesuffix(shared)


def _missing(config: Any, paths: Collection[str], factors: Mapping[str, _Pair]) -> list[str]:
    """Return the layers that PEFT would adapt and a checkpoint lacks.

    Only lists of layers with at least one layer in the checkpoint are considered. The other
    modules, such as a pooler or another tower, depend on the model's class, which may differ from
    the class that PEFT wrapped.
    """
    from peft.tuners.tuners_utils import check_target_module_exists

    if config.target_modules in (None, "all-linear"):
        return []
    adapted = [path for path in sorted(paths) if check_target_module_exists(config, path)]
    lists = {split[0] for split in map(split_at_layer, factors) if split}
    lost = ((path, split_at_layer(path)) for path in adapted if path not in factors)
    return [path for path, split in lost if split and split[0] in lists]


def _scale(config: Any, path: str, A: Tensor, B: Tensor, weight: Tensor) -> float:
    """Return the scale s of a layer as PEFT computes it, from the configured rank.

    PiSSA has no more directions than the weight, whatever the configured rank.

    Raises:
        InputError: The factors do not have this rank or do not fit the weight.
    """
    from peft.utils.other import get_pattern_key

    rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, path), config.r)
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, path), config.lora_alpha)
    outputs, inputs = weight.shape
    r = min(rank, outputs, inputs) if config.init_lora_weights == _PISSA else rank
    shapes, expected = (list(A.shape), list(B.shape)), ([r, inputs], [outputs, r])
    if shapes != expected:
        raise InputError(
            f"the checkpoint's layer {path!r} has factors of shapes {shapes[0]} and {shapes[1]}, "
            f"expected {expected[0]} and {expected[1]} from {PEFT_CONFIG} and the model's weight"
        )
    scale = float(alpha / (rank**0.5 if config.use_rslora else rank))
    if not math.isfinite(scale):
        raise InputError(f"{PEFT_CONFIG}: lora_alpha of {path!r} must be finite, got {alpha}")
    return scale
