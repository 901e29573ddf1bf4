"""Networks around finished classifiers: somebody else's on disk or hub, and modules in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bayeslora import options
from bayeslora.adapters.peft_bridge import read_peft, split_peft
from bayeslora.adapters.site import Site
from bayeslora.backbones.classifier_source import IN_MEMORY, open_classifier
from bayeslora.backbones.final_encoder import FinalLayerEncoder
from bayeslora.backbones.load import Backbone, fingerprint, lasting_name, open_source
from bayeslora.backbones.module import Encode, ModuleClassifier, ModuleEncoder, wrap_module
from bayeslora.backbones.peft_classifier import is_peft
from bayeslora.backbones.sequence import load_sequence_classifier
from bayeslora.backbones.sequence_encoder import SequenceEncoder
from bayeslora.backbones.tokens import check_max_length
from bayeslora.checkpoint import FOREIGN, MODULE, ModelFiles, ModelRecord, library_versions
from bayeslora.errors import InputError
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.build import build, build_weights
from bayeslora.posteriors.registry import provider, stored_posterior
from bayeslora.training.last_layer import check_last_layer, last_layer, over_adapters
from bayeslora.training.network import Network


def foreign_network(
    model: str | nn.Module,
    posterior: Posterior,
    *,
    max_length: int,
    tokenizer: Any = None,
    layer: str | None = None,
    classes: Sequence[str] | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Network, ModelRecord]:
    """Return a network around a sequence classifier, its head at the classifier's own weights.

    Raises:
        InputError: There is no such model, `max_length` is beyond its positions, or the posterior
            is neither one of the last layer nor, where the model is a PEFT checkpoint, over its
            adapters.
    """
    split = over_adapters(posterior) and isinstance(model, str) and is_peft(model)
    check_last_layer(posterior, adapted=split)
    classifier = load_sequence_classifier(
        model,
        tokenizer=tokenizer,
        layer=layer,
        classes=classes,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    check_max_length(classifier.backbone, max_length)
    encoder = SequenceEncoder(classifier, max_length=max_length)
    sites = split_peft(classifier.backbone.model, str(model)) if split else []
    network, record = _around(encoder, FOREIGN, classifier.classes, posterior, sites)
    if split:
        record = replace(record, adapter=options.as_mapping(read_peft(str(model)).config))
    return network, record


def module_network(
    classifier: ModuleClassifier, posterior: Posterior
) -> tuple[Network, ModelRecord]:
    """Return a network around a module, its head at the weights of the module's final layer.

    Raises:
        InputError: The posterior is not one of the last layer.
    """
    check_last_layer(posterior, adapted=False)
    return _around(ModuleEncoder(classifier), MODULE, classifier.classes, posterior)


def _around(
    encoder: FinalLayerEncoder,
    kind: str,
    classes: Sequence[str],
    posterior: Posterior,
    sites: list[Site] | None = None,
) -> tuple[Network, ModelRecord]:
    backbone = encoder.backbone
    head = last_layer(posterior, encoder.weight)
    network = Network(encoder, sites or [], head)
    network.weights = build_weights(posterior, network)
    network.to(backbone.device).eval()
    record = ModelRecord(
        backbone={
            "name": lasting_name(backbone.name) if kind == FOREIGN else backbone.name,
            "fingerprint": backbone.fingerprint,
            "kind": kind,
            "settings": backbone.settings,
            "layer": encoder.layer,
            "dtype": "float32",
        },
        posterior=options.as_mapping(posterior),
        classes=list(classes),
        columns={"text": "text", "label": "label", "pair": None},
        max_length=encoder.max_length,
        seed=0,
        num_train=0,
        head=head.extra_config(),
        versions=library_versions() | provider(posterior),
    )
    return network, record


def foreign_from_files(files: ModelFiles, name: str, loading: Mapping[str, Any]) -> Network:
    """Return the network of a saved model around the classifier that it names.

    Raises:
        InputError: The classifier cannot be loaded, or is another one now.
    """
    record = files.record
    classifier = load_sequence_classifier(
        name,
        # The classifier may have been given another tokenizer than the one that lies beside it.
        tokenizer=saved_tokenizer(files, trust_remote_code=loading["trust_remote_code"]),
        layer=record.backbone.get("layer"),
        classes=record.classes,
        device=loading["device"],
        trust_remote_code=loading["trust_remote_code"],
    )
    encoder = SequenceEncoder(classifier, max_length=record.max_length)
    check_backbone(record, encoder.backbone)
    # Their own tensors, those of a posterior that turned them, are loaded afterwards.
    sites = split_peft(classifier.backbone.model, name) if record.adapter else []
    return _restored(record, encoder, sites)


def saved_tokenizer(files: ModelFiles, *, trust_remote_code: bool) -> Any:
    """Return the tokenizer in a model directory, or None where there is none.

    Raises:
        InputError: It is damaged.
    """
    folder = files.directory
    if folder is None or not (folder / "tokenizer_config.json").is_file():
        return None
    try:
        return open_source("tokenizer", str(folder), trust_remote_code)
    except InputError as error:
        reason = str(error).split("\n", 1)[0].removeprefix(f"{folder}: ")
        raise InputError(f"{folder}: its tokenizer is damaged: {reason}") from None


def check_place(record: ModelRecord, *, trust_remote_code: bool) -> None:
    """Complain where a classifier that was given in memory could not be loaded again.

    Raises:
        InputError: The place that it names does not hold its weights, or it names none.
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
            (f"{name!r} does not hold" if name != IN_MEMORY else "there is no place that holds")
            + " the weights of this classifier in memory: save it with its own save_pretrained and "
            "pass that directory to from_transformers"
        )


def module_from_files(
    files: ModelFiles, module: nn.Module | None, encode: Encode | None, device: str | None
) -> Network:
    """Return the network of a saved model around the module that it was made for.

    Raises:
        InputError: The module or its `encode` is not given, or it is another one.
    """
    record = files.record
    if module is None or encode is None:
        raise InputError(
            f"{files.directory} holds a posterior for a module in memory "
            f"({record.backbone['name']}): load it in Python with "
            "BayesianClassifier.from_pretrained(directory, module=..., encode=...)"
        )
    classifier = wrap_module(
        module,
        encode,
        record.classes,
        layer=record.backbone.get("layer"),
        device=device,
    )
    encoder = ModuleEncoder(classifier)
    check_backbone(record, encoder.backbone)
    return _restored(record, encoder)


def _restored(
    record: ModelRecord, encoder: FinalLayerEncoder, sites: list[Site] | None = None
) -> Network:
    posterior = stored_posterior(record.posterior)
    head = build(posterior, encoder.num_features, len(record.classes), extra=record.head)
    network = Network(encoder, sites or [], head)
    network.weights = build_weights(posterior, network, fitted=True)
    return network.to(encoder.backbone.device)


def check_backbone(record: ModelRecord, found: Backbone) -> None:
    """Complain where what lies below the last layer is not what a model was made for.

    Args:
        record: Of the model.
        found: The backbone that was found.

    Raises:
        InputError: Its weights or the settings of its architecture are others.
    """
    known = record.backbone
    changes = [
        f"{name} is {value!r}, was {before!r}"
        for name, value, before in _changed(found.settings, known.get("settings", {}))
    ]
    if found.fingerprint != known["fingerprint"]:
        weights = f"fingerprint {found.fingerprint}, expected {known['fingerprint']}"
        changes.insert(0, f"{weights}, that of {known['name']!r} then")
    if changes:
        raise InputError(
            f"the model was made for another backbone than {found.name!r} is now: "
            + "; ".join(changes)
        )


def _changed(
    found: Mapping[str, Any], known: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, found, known) of settings that differ.

    What only one side has is skipped: other versions of transformers name more or fewer.
    """
    for name in found.keys() & known.keys():
        one, other = found[name], known[name]
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _changed(one, other, f"{prefix}{name}.")
        elif one != other:
            yield f"{prefix}{name}", one, other
