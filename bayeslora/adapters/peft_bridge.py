"""Exchange with PEFT: write any low-rank adapter as a plain LoRA, read any plain LoRA.

PoLAR is exact in this form: `A = Yᵀ`, `B = X·Θ`, with the same rank and alpha. A change relative to
a start, as in PiSSA, becomes a LoRA of rank 2r on the original weight. The reader supports ranks,
scales and rank-stabilised scales per layer, PiSSA with the exact decomposition, and checkpoints
that PEFT converted to a plain LoRA when saving. Files are written and read without importing PEFT,
and nothing is unpickled.

A missing layer shows only in a comparison of the checkpoint with its options and the model.

PEFT's own `check_target_module_exists` is not called, since PEFT is optional for reading
checkpoints. The tests compare the two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bayeslora.adapters.factors import Factors
from bayeslora.adapters.inject import put
from bayeslora.adapters.low_rank import LowRank
from bayeslora.adapters.options import LoRA
from bayeslora.adapters.pissa import pissa
from bayeslora.adapters.site import Site
from bayeslora.errors import InputError, located
from bayeslora.io.files import atomic_file, read_json, read_tensors, write_json
from bayeslora.peft_layout import (
    CONFIG_FILE,
    CONVERSION,
    EMBEDDED_BASE,
    EXACT_PISSA,
    TENSOR_ROOT,
    WEIGHTS_FILE,
    check_patterns,
    embedded_base,
    is_finite,
    is_plain,
    pattern_options,
)
from bayeslora.plain_text import counted

_LIST = re.compile(r"(?:.*?\.)??(?=\d+(?:\.|$))")
_NAMES = ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern")


@dataclass(frozen=True)
class Targets:
    """PEFT's options for the choice of layers; a string is a pattern of whole paths.

    Attributes:
        modules: Layers to adapt; a list holds suffixes of their paths.
        exclude: Layers to exclude from these.
        saved: Modules that are trained in full and not adapted.
        layers: Indices of the layers to adapt in a list of layers; empty for all.
        lists: Names of the lists of layers; empty for any name.
    """

    modules: str | tuple[str, ...]
    exclude: str | tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    lists: tuple[str, ...] = ()

    @property
    def patterns(self) -> list[str]:
        """All options that are regular expressions."""
        whole = [item for item in (self.modules, self.exclude) if isinstance(item, str)]
        return [*whole, *self.saved, *self.lists]

    def match(self, path: str) -> bool:
        """Return whether PEFT adapts the layer at `path`."""
        if _is_named(path, self.exclude):
            return False
        if any(re.match(rf"(^|.*\.){name}($|\..*)", path) for name in self.saved):
            return False
        if isinstance(self.modules, str) or path in self.modules or not self.layers:
            return _is_named(path, self.modules)
        return _is_named(path, self.modules) and self._number(path) in self.layers

    def _number(self, path: str) -> int | None:
        """Return a layer's index in the outermost list that contains it."""
        names = [rf"(?:^|.*?\.){name}" for name in self.lists] or [r".*?\.[^.]*"]
        matches = (re.match(rf"{name}\.(?P<idx>\d+)\.", path) for name in names)
        match = next((match for match in matches if match), None)
        return int(match["idx"]) if match else None


def read_targets(options: Mapping[str, Any]) -> Targets | None:
    """Return the target options of a configuration; None if it has none.

    Raises:
        InputError: An option is neither a list of names nor a valid pattern.
    """
    if options.get("target_modules") in (None, "all-linear"):
        return None
    modules, exclude, saved, lists = (_names(options, key) for key in _NAMES)
    layers = options.get("layers_to_transform")
    numbers = [layers] if isinstance(layers, int) else layers or []
    if not isinstance(numbers, list) or not all(isinstance(item, int) for item in numbers):
        raise InputError(
            f"layers_to_transform must be a number or a list of numbers, got {layers!r}"
        )
    return Targets(modules, exclude, _listed(saved), tuple(numbers), _listed(lists))


def missing_layers(
    homes: Mapping[str, str], linear: Collection[str], targets: Targets
) -> list[str]:
    """Return the layers of a model that the options select and a checkpoint lacks.

    Only lists of layers with at least one layer in the checkpoint are considered. The other
    modules, such as a pooler or another tower, depend on the model's class, which may differ from
    the class that PEFT wrapped.

    Args:
        homes: Name in the model of each layer, by its path in the checkpoint.
        linear: Names of the model's linear layers.
        targets: The options.
    """
    peft_path, model_path = next(iter(homes.items()))
    # One is a suffix of the other: PEFT may have wrapped more than the model, or less.
    shared = min(peft_path, model_path, key=len)
    peft_prefix, model_prefix = peft_path.removesuffix(shared), model_path.removesuffix(shared)
    lists = {_list(name.removeprefix(model_prefix)) for name in homes.values()} - {None}
    candidates = {
        name: name.removeprefix(model_prefix) for name in set(linear) - set(homes.values())
    }
    check_patterns(
        CONFIG_FILE, targets.patterns, [peft_prefix + path for path in candidates.values()]
    )
    return [
        name
        for name, path in sorted(candidates.items())
        if _list(path) in lists and targets.match(peft_prefix + path)
    ]


def _list(name: str) -> str | None:
    """Return the path of the outermost list that contains a module."""
    match = _LIST.match(name)
    return match[0] if match else None


def _is_named(path: str, names: str | tuple[str, ...]) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in names)


def _names(options: Mapping[str, Any], key: str) -> str | tuple[str, ...]:
    value = options.get(key) or ()
    patterns = value
    if isinstance(value, str):
        patterns = (value,)
    elif not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{key} must be a pattern or a list of names, got {value!r}")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise InputError(f"{key} has the invalid pattern {pattern!r}: {error}") from None
    return value if isinstance(value, str) else tuple(value)


def _listed(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


_PICKLE_FILE = "adapter_model.bin"
_FACTOR = re.compile(r"(?P<path>.+)\.lora_(?P<factor>[AB])\.weight")
_PATTERNS = {"r": "rank_pattern", "lora_alpha": "alpha_pattern"}
_REFUSED_OPTIONS = (
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
"""Variants of LoRA that a plain site does not reproduce."""


@dataclass(frozen=True)
class PeftCheckpoint:
    """Content of a directory written by PEFT.

    Attributes:
        config: Its options; `target_modules` are the full paths of the adapted layers. Ranks and
            scales may differ between layers.
        scales: The factor s of each adapted layer by path.
        targets: PEFT's choice of layers, if the options record it.
        is_pissa: Whether the factors are relative to the principal part of each weight, which
            PEFT removed from the base model when training began.
        tensors: `<path>.A` [r, in] and `<path>.B` [out, r], float32; paths are relative to the
            model that PEFT wrapped.
        modules_to_save: Tensors of modules that were trained and saved in full, such as a
            classifier's head, by their names in that model.
        base_model_name: Directory or hub id of that model, if recorded.
    """

    config: LoRA
    scales: dict[str, float]
    targets: Targets | None
    is_pissa: bool
    tensors: dict[str, Tensor]
    modules_to_save: dict[str, Tensor]
    base_model_name: str | None


def read_peft(directory: str | Path) -> PeftCheckpoint:
    """Return the content of a LoRA checkpoint in PEFT's layout.

    Raises:
        InputError: The directory is damaged, or holds a pickle, a method other than LoRA, or a
            variant of LoRA that a plain site cannot reproduce.
    """
    folder = Path(directory)
    options = read_json(folder / CONFIG_FILE)
    _check_readable(folder / CONFIG_FILE, options)
    tensors, modules_to_save = _split(folder / WEIGHTS_FILE, _read_weights(folder))
    _check_pairs(folder / WEIGHTS_FILE, tensors)
    paths = tuple(dict.fromkeys(name.rpartition(".")[0] for name in tensors))
    with located(folder / CONFIG_FILE):
        targets = read_targets(options)
    check_patterns(str(folder / CONFIG_FILE), pattern_options(options), paths)
    is_pissa = options.get("init_lora_weights") == EXACT_PISSA
    ranks, alphas = _of_layers(options, "r", paths), _of_layers(options, "lora_alpha", paths)
    for path, rank in ranks.items():
        _check_rank(folder, path, rank, tensors, is_pissa=is_pissa)
    config = LoRA(
        r=options["r"],
        alpha=options["lora_alpha"],
        dropout=options.get("lora_dropout", 0.0),
        target_modules=paths,
        num_layers=None,
        use_rslora=bool(options.get("use_rslora")),
    )
    return PeftCheckpoint(
        config,
        {path: _scale(options, alphas[path], ranks[path]) for path in paths},
        targets,
        is_pissa,
        tensors,
        modules_to_save,
        embedded_base(folder) or options.get("base_model_name_or_path"),
    )


def _scale(options: dict[str, Any], alpha: float, rank: float) -> float:
    """Return the scale s of a layer, from the configured rank, as PEFT computes it."""
    return float(alpha / (rank**0.5 if options.get("use_rslora") else rank))


def _of_layers(options: dict[str, Any], key: str, paths: Sequence[str]) -> dict[str, float]:
    """Return rank or alpha of each layer, from the first pattern that matches its path's end."""
    by_pattern: dict[str, float] = options.get(_PATTERNS[key]) or {}
    patterns = [(_pattern(pattern), value) for pattern, value in by_pattern.items()]

    def of_layer(path: str) -> float:
        matches = (value for pattern, value in patterns if pattern.fullmatch(path))
        # PEFT then takes a key that equals the path, whatever it means as a pattern.
        return next(matches, by_pattern.get(path, options[key]))

    return {path: of_layer(path) for path in paths}


def _pattern(key: str) -> re.Pattern[str]:
    return re.compile(rf"(?:.*\.)?(?:{key})")


def _check_rank(
    folder: Path, path: str, rank: float, tensors: dict[str, Tensor], *, is_pissa: bool
) -> None:
    """Raise InputError if the factors do not have the configured rank.

    PiSSA has no more directions than the weight, whatever the configured rank.
    """
    A, B = tensors[f"{path}.A"], tensors[f"{path}.B"]
    expected = min(rank, A.shape[1], len(B)) if is_pissa else rank
    if len(A) != expected:
        raise InputError(
            f"{folder / WEIGHTS_FILE}: the factors of {path!r} have rank {len(A)}, expected "
            f"{expected:g} from {CONFIG_FILE}"
        )


def _check_readable(path: Path, options: Any) -> None:
    if not isinstance(options, dict) or "peft_type" not in options:
        raise InputError(f"{path} is not a PEFT configuration: it has no 'peft_type'")
    if options["peft_type"] != "LORA":
        raise InputError(f"{path}: peft_type must be 'LORA', got {options['peft_type']!r}")
    for key in _REFUSED_OPTIONS:
        if options.get(key):
            raise InputError(
                f"{path}: {key} = {options[key]!r} is not supported; only plain LoRA is"
            )
    if options.get("bias", "none") != "none":
        raise InputError(f"{path}: bias must be 'none', got {options['bias']!r}")
    start = options.get("init_lora_weights")
    if not is_plain(start) and start != EXACT_PISSA:
        raise InputError(
            f"{path}: init_lora_weights {start!r} changed the base model's weights, and the "
            f"factors do not record how; {CONVERSION}, or load it on the changed base model, if "
            "that was saved, with init_lora_weights set to true"
        )
    base = options.get("base_model_name_or_path")
    if not isinstance(base, str | None):
        raise InputError(f"{path}: base_model_name_or_path must be a name, got {base!r}")
    for key, patterns in _PATTERNS.items():
        value: Any = options.get(key)
        if not _is_number(value) or value <= 0:
            raise InputError(f"{path}: {key} must be a number > 0, got {value!r}")
        _check_patterns(path, patterns, options.get(patterns))


def _check_patterns(path: Path, key: str, patterns: Any) -> None:
    if not isinstance(patterns, dict | None):
        raise InputError(f"{path}: {key} must map patterns to numbers, got {patterns!r}")
    for pattern, value in (patterns or {}).items():
        try:
            _pattern(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise InputError(
                f"{path}: {key} has the invalid pattern {pattern!r}: {error}"
            ) from None
        if not _is_number(value):
            raise InputError(f"{path}: {key} of {pattern!r} must be a number, got {value!r}")


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _check_pairs(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raise InputError if a factor is missing or the shapes of a pair do not match."""
    for name, value in tensors.items():
        layer, _, factor = name.rpartition(".")
        other = f"{layer}.{'B' if factor == 'A' else 'A'}"
        if other not in tensors:
            raise InputError(f"{path}: {name!r} has no matching {other!r}")
        rank = tensors[f"{layer}.B"].shape[-1]
        if value.ndim != 2 or tensors[f"{layer}.A"].shape[0] != rank:
            shapes = [list(tensors[f"{layer}.{key}"].shape) for key in "AB"]
            raise InputError(
                f"{path}: the factors of {layer!r} have incompatible shapes {shapes[0]} and "
                f"{shapes[1]}"
            )


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    if not path.exists() and (folder / _PICKLE_FILE).exists():
        raise InputError(
            f"{folder / 'adapter_model.bin'} is a pickle, which can run arbitrary code when "
            "loaded; save the adapter again with PEFT's save_pretrained(..., "
            "safe_serialization=True)"
        )
    return read_tensors(path)


def _split(path: Path, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the factors as `<path>.A` and `<path>.B`, and all other tensors by name."""
    factors: dict[str, Tensor] = {}
    modules_to_save: dict[str, Tensor] = {}
    for full_name, value in tensors.items():
        name = full_name.removeprefix(TENSOR_ROOT)
        match = _FACTOR.fullmatch(name)
        if not is_finite(value):
            raise InputError(f"{path}: tensor {full_name!r} has values that are not finite")
        if match:
            factors[f"{match['path']}.{match['factor']}"] = value.float()
        elif "lora_" in name:
            raise InputError(
                f"{path}: tensor {full_name!r} does not belong to a plain linear LoRA layer"
            )
        else:
            modules_to_save[name] = value
    if not factors:
        raise InputError(f"{path} contains no tensor named …lora_A.weight or …lora_B.weight")
    return factors, modules_to_save


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
