"""Load models from disk: our own directories, and classifiers trained elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora import options
from bayeslora.adapters.peft_bridge import peft_adapter, split_peft
from bayeslora.adapters.site import Site
from bayeslora.backbones.depth import read_at
from bayeslora.backbones.final_layer import FinalLayerEncoder
from bayeslora.backbones.images import READER_FILE, ImageReader
from bayeslora.backbones.load import (
    Backbone,
    fingerprint,
    lasting_name,
    load_backbone,
    open_source,
    pick_device,
)
from bayeslora.backbones.module import Encode, ModuleEncoder, wrap_module
from bayeslora.backbones.peft_classifier import is_peft
from bayeslora.backbones.sequence import (
    IN_MEMORY,
    SequenceEncoder,
    load_sequence_classifier,
    open_classifier,
)
from bayeslora.backbones.tokens import check_max_length
from bayeslora.checkpoint import ADAPTED, FOREIGN, MODULE, ModelFiles, ModelRecord, library_versions
from bayeslora.engine.build import build_network, check_last_layer, last_layer
from bayeslora.engine.network import Members, Network, member_prefix
from bayeslora.engine.plan import Plan
from bayeslora.engine.progress import quiet_transformers
from bayeslora.errors import InputError, MissingAssetError, first_line, located
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.fitted_scores import FORMER, FeatureScores
from bayeslora.posteriors.registry import build_head, build_weights, provider

_FORMER = tuple(f"scores.{name}." for name in sorted(FORMER))


def saved_model(
    files: ModelFiles,
    backbone: str | Backbone,
    module: nn.Module | None = None,
    encode: Encode | None = None,
    *,
    progress: bool,
    **loading: Any,
) -> Network:
    """Return the finished network of a model directory.

    Args:
        files: The model directory's content.
        backbone: Name of the backbone, or the backbone itself.
        module: The module, for a model made by `from_module`.
        encode: The function that encodes its texts.
        progress: Whether to show progress bars.
        **loading: `device` and `trust_remote_code`, as for `load_backbone`.

    Raises:
        InputError: The backbone has changed, or a tensor is missing, unexpected, not finite, or of
            another shape or dtype.
    """
    record = files.record
    members = _members(files)
    is_module = record.backbone["kind"] == MODULE
    if not is_module and (module is not None or encode is not None):
        raise InputError(
            f"module is only for models made by from_module; this one loads {backbone!r} by itself"
        )
    with quiet_transformers():
        if record.backbone["kind"] == ADAPTED:
            network = _adapted(files, backbone, members[0], loading)
        else:
            encoder = (
                _module_encoder(files, module, encode, loading["device"])
                if is_module
                else _sequence_encoder(files, str(backbone), loading)
            )
            network = _restored(record, encoder, str(backbone))
        scores = FeatureScores.empty(record.feature_scores, network.head.mean_weight.shape[1])
        network.feature_scores = scores.to(network.feature_scale.device)
        # Load each member once to detect damaged tensors now; the first stays loaded.
        for tensors in reversed(members):
            _load(network, tensors, files.directory)
    files.warn_unverified()
    if isinstance(backbone, str) and not is_module:
        # If saved again, the model names the current location of its backbone.
        record = replace(record, backbone={**record.backbone, "name": lasting_name(backbone)})
    return network.finished(record, members, progress=progress)


def _adapted(
    files: ModelFiles,
    backbone: str | Backbone,
    tensors: Mapping[str, Tensor],
    loading: Mapping[str, Any],
) -> Network:
    """Return the network of a model that was fitted here, before its tensors are loaded."""
    record = files.record
    with located(_location(files.directory)):
        plan = Plan.of(record)
    if isinstance(backbone, str):
        backbone = _load_base(backbone, files, loading)
    base = read_at(backbone, record.backbone.get("depth"), plan.template)
    check_backbone(record, base)
    tokenized = with_saved_tokenizer(base, files, trust_remote_code=loading["trust_remote_code"])
    return build_network(tokenized, plan, len(record.classes), extra=record.head, trained=tensors)


def _load_base(name: str, files: ModelFiles, loading: Mapping[str, Any]) -> Backbone:
    """Return the backbone of a saved model.

    Raises:
        InputError: It cannot be loaded; the message says how to pass its new location.
        MissingAssetError: It is an embedded model whose package is not installed.
    """
    pick_device(loading["device"])  # no other backbone would help
    try:
        return load_backbone(name, dtype=files.record.backbone["dtype"], **loading)
    except MissingAssetError:
        raise
    except InputError as error:
        raise InputError(
            f"{files.directory}: its backbone cannot be loaded: {first_line(error)}; if it has "
            "moved, pass its new location: backbone=... (--backbone)"
        ) from None


def with_saved_tokenizer(
    backbone: Backbone, files: ModelFiles, *, trust_remote_code: bool
) -> Backbone:
    """Return a backbone with the tokenizer of a model directory, if there is one.

    The weights' fingerprint does not cover it, and the backbone's own may have changed since.
    """
    if backbone.kind == "vision":
        reader = None if files.directory is None else files.directory / READER_FILE
        saved = reader is not None and reader.is_file()
        return (
            replace(backbone, tokenizer=ImageReader.of(str(files.directory))) if saved else backbone
        )
    tokenizer = saved_tokenizer(files, trust_remote_code=trust_remote_code)
    return backbone if tokenizer is None else replace(backbone, tokenizer=tokenizer)


def _members(files: ModelFiles) -> Members:
    count = files.record.num_members
    prefixes = [member_prefix(member, count) for member in range(count)]
    members: Members = [{} for _ in prefixes]
    for name, tensor in {**files.adapter, **files.posterior}.items():
        member = next((n for n, prefix in enumerate(prefixes) if name.startswith(prefix)), None)
        if member is None:
            raise _misfit(files.directory, name, "belongs to no member")
        key = name.removeprefix(prefixes[member])
        if not key.startswith(_FORMER):
            members[member][key] = tensor
    return members


def _load(network: Network, tensors: Mapping[str, Tensor], directory: Path | None) -> None:
    network.expect(tensors)
    expected = network.trained_state()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise _misfit(directory, name, "is missing")
        if name not in expected:
            raise _misfit(directory, name, "is not expected")
        shape, expected_shape = list(tensors[name].shape), list(expected[name].shape)
        if shape != expected_shape:
            raise _misfit(directory, name, f"has shape {shape}, expected {expected_shape}")
    network.load_trained_state(tensors)


def _misfit(directory: Path | None, name: str, problem: str) -> InputError:
    return InputError(
        f"{_location(directory)}: its tensors do not match its record: {name!r} {problem}",
        code="damaged",
    )


def _location(directory: Path | None) -> str:
    return "the model" if directory is None else str(directory)


def foreign_model(
    model: str | nn.Module,
    posterior: Posterior,
    *,
    max_length: int,
    progress: bool,
    **loading: Any,
) -> Network:
    """Return a model around a sequence classifier, with the classifier's weights in its head.

    Args:
        model: A directory, hub id or PEFT checkpoint, or the model itself.
        posterior: Options of the posterior.
        max_length: Maximum tokens per text.
        progress: Whether to show progress bars.
        **loading: Options of `load_sequence_classifier`.

    Raises:
        InputError: There is no such model, `max_length` exceeds its positions, or the posterior is
            neither over the last layer nor, for a PEFT checkpoint, over its adapters.
    """
    split = posterior.over_trained and isinstance(model, str) and is_peft(model)
    check_last_layer(posterior, adapted=split)
    with quiet_transformers():
        encoder = load_sequence_classifier(model, max_length=max_length, **loading)
        check_max_length(encoder.backbone, max_length)
        sites = split_peft(encoder.backbone.model, str(model)) if split else []
    network = _unfitted(encoder, FOREIGN, encoder.classes, posterior, sites, progress=progress)
    if split:
        adapter = options.as_mapping(peft_adapter(str(model)))
        network.record = replace(network.record, adapter=adapter)
    return network


def module_model(encoder: ModuleEncoder, posterior: Posterior, *, progress: bool) -> Network:
    """Return a model around a module, with the weights of its final layer in the head.

    Raises:
        InputError: The posterior is not over the last layer.
    """
    check_last_layer(posterior, adapted=False)
    return _unfitted(encoder, MODULE, encoder.classes, posterior, [], progress=progress)


def _unfitted(
    encoder: FinalLayerEncoder,
    kind: str,
    classes: Sequence[str],
    posterior: Posterior,
    sites: list[Site],
    *,
    progress: bool,
) -> Network:
    """Return a model whose posterior is not fitted yet."""
    backbone = encoder.backbone
    head = last_layer(posterior, encoder.weight)
    network = Network(encoder, sites, head)
    network.weights = build_weights(posterior, network)
    network.to(backbone.device)
    plan = Plan(backbone.name, "float32", posterior=posterior, max_length=encoder.max_length)
    entries = plan.recorded(backbone) | {"adapter": None, "training": {}}
    entries["backbone"] |= {"kind": kind, "layer": encoder.layer}
    record = ModelRecord(
        **entries,
        classes=list(classes),
        columns={"text": "text", "label": "label", "pair": None},
        num_train=0,
        head=head.extra_config(),
        versions=library_versions() | provider(posterior),
    )
    return network.finished(record, progress=progress)


def _sequence_encoder(files: ModelFiles, name: str, loading: Mapping[str, Any]) -> SequenceEncoder:
    """Return the encoder of a saved model around a classifier of transformers."""
    record = files.record
    return load_sequence_classifier(
        name,
        max_length=record.max_length,
        # The tokenizer that was used may differ from the one in the classifier's directory.
        tokenizer=saved_tokenizer(files, trust_remote_code=loading["trust_remote_code"]),
        layer=record.backbone.get("layer"),
        classes=record.classes,
        **loading,
    )


def _module_encoder(
    files: ModelFiles, module: nn.Module | None, encode: Encode | None, device: str | None
) -> ModuleEncoder:
    """Return the encoder of a saved model around its module.

    Raises:
        InputError: `module` or `encode` is missing.
    """
    record = files.record
    if module is None or encode is None:
        raise InputError(
            f"{files.directory} holds a posterior for a module in memory "
            f"({record.backbone['name']}): load it in Python with "
            "BayesianClassifier.from_pretrained(directory, module=..., encode=...)"
        )
    layer = record.backbone.get("layer")
    return wrap_module(module, encode, record.classes, layer=layer, device=device)


def _restored(record: ModelRecord, encoder: FinalLayerEncoder, name: str) -> Network:
    """Return the network of a saved model around another library's classifier.

    Raises:
        InputError: The classifier has changed.
    """
    check_backbone(record, encoder.backbone)
    # Their tensors, which the posterior may have rotated, are loaded afterwards.
    sites = split_peft(encoder.backbone.model, name) if record.adapter else []
    posterior = Plan.of(record).posterior
    head = build_head(posterior, encoder.num_features, len(record.classes), extra=record.head)
    network = Network(encoder, sites, head)
    network.weights = build_weights(posterior, network, fitted=True)
    return network.to(encoder.backbone.device)


def saved_tokenizer(files: ModelFiles, *, trust_remote_code: bool) -> Any:
    """Return the tokenizer of a model directory, or None if it has none."""
    folder = files.directory
    if folder is None or not (folder / "tokenizer_config.json").is_file():
        return None
    return open_source("tokenizer", str(folder), trust_remote_code)


def check_place(record: ModelRecord, *, trust_remote_code: bool) -> None:
    """Raise InputError if a classifier passed in memory could not be loaded again.

    Raises:
        InputError: It names no source, or the source does not hold its weights.
    """
    name = record.backbone["name"]
    is_held = False
    if name != IN_MEMORY:
        with suppress(InputError):
            model = open_classifier(name, trust_remote_code)[0]
            mark = fingerprint(model)
            check_backbone(record, Backbone(name, model, None, "encoder", mark, torch.float32))
            is_held = True
    if not is_held:
        raise InputError(
            (
                f"{name!r} does not contain"
                if name != IN_MEMORY
                else "no directory or hub id contains"
            )
            + " the weights of this classifier in memory: save it with its own save_pretrained and "
            "pass that directory to from_transformers"
        )


def check_backbone(record: ModelRecord, backbone: Backbone) -> None:
    """Raise InputError if a backbone is not the one that a model was made for.

    Args:
        record: Of the model.
        backbone: The loaded backbone.

    Raises:
        InputError: Its weights or the settings of its architecture differ.
    """
    known = record.backbone
    changes = [
        f"{name} is {value!r}, was {old!r}"
        for name, value, old in _changed(backbone.settings, known.get("settings", {}))
    ]
    if backbone.fingerprint != known["fingerprint"]:
        weights = f"fingerprint {backbone.fingerprint}, expected {known['fingerprint']}"
        changes.insert(0, f"{weights} of {known['name']!r} when the model was made")
    if changes:
        raise InputError(
            f"backbone {backbone.name!r} differs from the one that the model was made for: "
            + "; ".join(changes),
            code="another-backbone",
        )


def _changed(
    current: Mapping[str, Any], known: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, current, known) of settings that differ.

    Settings on one side only are skipped, since versions of transformers differ in them.
    """
    for name in current.keys() & known.keys():
        value, known_value = current[name], known[name]
        if isinstance(value, Mapping) and isinstance(known_value, Mapping):
            yield from _changed(value, known_value, f"{prefix}{name}.")
        elif value != known_value:
            yield f"{prefix}{name}", value, known_value
