"""Load models from disk: our own directories, and classifiers trained elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bayeslora import options
from bayeslora.adapters.site import Site
from bayeslora.backbones.images import READER_FILE, ImageReader
from bayeslora.backbones.load import Backbone, fingerprint, lasting_name, load_backbone, open_source
from bayeslora.backbones.reading import read_at
from bayeslora.checkpoint import ADAPTED, FOREIGN, MODULE, ModelFiles, ModelRecord, library_versions
from bayeslora.engine.build import build_network, check_last_layer, last_layer
from bayeslora.engine.network import Members, Network, member_prefix, under
from bayeslora.engine.plan import Plan
from bayeslora.engine.progress import quiet_transformers
from bayeslora.errors import InputError, located
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.fitted_scores import FeatureScores
from bayeslora.posteriors.registry import build_head, build_weights, provider

if TYPE_CHECKING:
    from bayeslora.backbones.sequence import Encode, FinalLayerEncoder, ModuleEncoder


def saved_model(
    files: ModelFiles,
    backbone: str | Backbone,
    module: nn.Module | None = None,
    encode: Encode | None = None,
    *,
    progress: bool,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Network:
    """Return the finished network of a model directory.

    Args:
        files: The model directory's content.
        backbone: Name of the backbone, or the backbone itself.
        module: The module, for a model made by `from_module`.
        encode: The function that encodes its texts.
        progress: Whether to show progress bars.
        device: A torch device; None takes the GPU if there is one.
        trust_remote_code: Whether code from the backbone's repository may run.

    Raises:
        InputError: The backbone has changed, or a tensor is missing, unexpected, not finite, or of
            another shape or dtype.
    """
    record, members = files.record, _members(files)
    known = record.backbone
    place: dict[str, Any] = {"device": device, "trust_remote_code": trust_remote_code}
    with quiet_transformers():
        if known["kind"] == MODULE:
            if module is None or encode is None:
                raise InputError(
                    f"{files.directory} holds a posterior for a module in memory "
                    f"({known['name']}): load it in Python with "
                    "BayesianClassifier.from_pretrained(directory, module=..., encode=...)"
                )
            from bayeslora.backbones.sequence import wrap_module

            layer = known.get("layer")
            encoder = wrap_module(module, encode, record.classes, layer=layer, device=device)
            network = _around(encoder, record, str(backbone))
        elif known["kind"] == ADAPTED:
            network = _adapted(files, backbone, members[0], place)
        else:
            from bayeslora.backbones.sequence import load_sequence_classifier

            # The tokenizer that was used may differ from the one in the classifier's directory.
            network = _around(
                load_sequence_classifier(
                    str(backbone),
                    max_length=record.max_length,
                    tokenizer=_saved_tokenizer(files, trust_remote_code),
                    layer=known.get("layer"),
                    classes=record.classes,
                    **place,
                ),
                record,
                str(backbone),
            )
        scores = FeatureScores.empty(record.feature_scores, network.head.mean_weight.shape[1])
        network.feature_scores = scores.to(network.feature_scale.device)
        # Load each member once to detect damaged tensors now; the first stays loaded.
        for member in members[::-1]:
            _load(network, member, files.directory)
    if isinstance(backbone, str) and known["kind"] != MODULE:
        # If saved again, the model names the current location of its backbone.
        record = replace(record, backbone={**known, "name": lasting_name(backbone)})
    network.held_out = files.held_out
    return network.finished(record, members, progress=progress)


def _adapted(
    files: ModelFiles,
    backbone: str | Backbone,
    tensors: Mapping[str, Tensor],
    place: Mapping[str, Any],
) -> Network:
    """Return the network of a model that was fitted here, before its tensors are loaded.

    Raises:
        InputError: The backbone cannot be loaded.
        MissingAssetError: It is an embedded model whose package is not installed.
    """
    record = files.record
    with located(str(files.directory)):
        plan = Plan.of(record)
    if isinstance(backbone, str):
        with located(f"{files.directory}: its backbone (--backbone)"):
            backbone = load_backbone(backbone, dtype=record.backbone["dtype"], **place)
    base = read_at(backbone, record.backbone.get("depth"), plan.template)
    check_backbone(record, base)
    # The weights' fingerprint does not cover the tokenizer, which may have changed since.
    saved = _saved_tokenizer(files, place["trust_remote_code"])
    base = base if saved is None else replace(base, tokenizer=saved)
    return build_network(base, plan, len(record.classes), extra=record.head, trained=tensors)


def _around(encoder: FinalLayerEncoder, record: ModelRecord, name: str) -> Network:
    """Return the network of a saved model around another library's classifier.

    Raises:
        InputError: The classifier has changed.
    """
    check_backbone(record, encoder.backbone)
    sites: list[Site] = []
    if record.adapter:
        from bayeslora.adapters.peft_bridge import split_peft

        # Their tensors, which the posterior may have rotated, are loaded afterwards.
        sites = split_peft(encoder.backbone.model, name)
    posterior = Plan.of(record).posterior
    head = build_head(posterior, encoder.num_features, len(record.classes), extra=record.head)
    network = Network(encoder, sites, head)
    network.weights = build_weights(posterior, network, fitted=True)
    return network.to(encoder.backbone.device)


def _saved_tokenizer(files: ModelFiles, trust_remote_code: bool) -> Any:
    """Return the tokenizer or image reader of a model directory, or None if it has none."""
    folder = files.directory
    if folder is not None and (folder / READER_FILE).is_file():
        return ImageReader.of(str(folder))
    if folder is None or not (folder / "tokenizer_config.json").is_file():
        return None
    return open_source("tokenizer", str(folder), trust_remote_code)


def _members(files: ModelFiles) -> Members:
    """Return the trained tensors of each member."""
    count, tensors = files.record.num_members, {**files.adapter, **files.posterior}
    return [under(member_prefix(member, count), tensors) for member in range(count)]


def _load(network: Network, tensors: Mapping[str, Tensor], directory: Path | None) -> None:
    """Load the tensors of a member, which must be those that the network expects."""
    network.expect(tensors)
    expected = network.trained_state()
    for name in sorted(expected.keys() | tensors.keys()):
        stored, own = (
            list(part[name].shape) if name in part else "nothing" for part in (tensors, expected)
        )
        if stored != own:
            raise InputError(
                f"{directory}: its tensors do not match its record: {name!r}: expected {own}, got "
                f"{stored}",
                code="damaged",
            )
    network.load_trained_state(tensors)


def foreign_model(
    model: str | nn.Module, posterior: Posterior, *, max_length: int, progress: bool, **loading: Any
) -> Network:
    """Return a model around a sequence classifier, with the classifier's weights in its head.

    Args:
        model: A directory, hub id or PEFT checkpoint, or the model itself.
        posterior: Options of the posterior.
        max_length: Maximum tokens per text.
        progress: Whether to show progress bars.
        **loading: Options of `load_sequence_classifier`.

    Raises:
        InputError: There is no such model, or the posterior is neither over the last layer nor, for
            a PEFT checkpoint, over its adapters.
    """
    from bayeslora.adapters.peft_bridge import peft_adapter, split_peft
    from bayeslora.backbones.sequence import is_peft, load_sequence_classifier

    split = posterior.over_trained and isinstance(model, str) and is_peft(model)
    check_last_layer(posterior, adapted=split)
    with quiet_transformers():
        encoder = load_sequence_classifier(model, max_length=max_length, **loading)
        sites = split_peft(encoder.backbone.model, str(model)) if split else []
    network = _unfitted(encoder, FOREIGN, posterior, sites, progress=progress)
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
    return _unfitted(encoder, MODULE, posterior, [], progress=progress)


def _unfitted(
    encoder: Any, kind: str, posterior: Posterior, sites: list[Site], *, progress: bool
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
        classes=list(encoder.classes),
        columns={"text": "text", "label": "label", "pair": None},
        num_train=0,
        head=head.extra_config(),
        versions=library_versions() | provider(posterior),
    )
    return network.finished(record, progress=progress)


def check_place(record: ModelRecord, *, trust_remote_code: bool) -> None:
    """Raise InputError if a classifier passed in memory could not be loaded again.

    Raises:
        InputError: It names no source, or the source does not hold its weights.
    """
    from bayeslora.backbones.sequence import open_classifier

    name = record.backbone["name"]
    try:
        model = open_classifier(name, trust_remote_code)[0]
        mark = fingerprint(model)
        check_backbone(record, Backbone(name, model, None, "encoder", mark, torch.float32))
    except InputError:
        raise InputError(
            f"{name!r} does not contain the weights of this classifier: save it with its own "
            "save_pretrained and pass that directory to from_transformers"
        ) from None


def check_backbone(record: ModelRecord, backbone: Backbone) -> None:
    """Raise InputError if a backbone is not the one that a model was made for.

    Settings on one side only are skipped, since versions of transformers differ in them.

    Args:
        record: Of the model.
        backbone: The loaded backbone.

    Raises:
        InputError: Its weights or the settings of its architecture differ.
    """
    known, settings = record.backbone, backbone.settings
    changes = [
        f"{name} is {settings[name]!r}, was {value!r}"
        for name, value in known.get("settings", {}).items()
        if settings.get(name, value) != value
    ]
    if backbone.fingerprint != known["fingerprint"]:
        changes = [f"fingerprint {backbone.fingerprint}, expected {known['fingerprint']}", *changes]
    if changes:
        raise InputError(
            f"backbone {backbone.name!r} differs from {known['name']!r}, for which the model was "
            f"made: {'; '.join(changes)}",
            code="another-backbone",
        )
