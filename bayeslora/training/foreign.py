"""Networks around finished classifiers: somebody else's on disk or hub, and modules in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from bayeslora import options
from bayeslora.backbones.final_encoder import FinalLayerEncoder
from bayeslora.backbones.load import lasting_name, open_source
from bayeslora.backbones.module import Encode, ModuleClassifier, ModuleEncoder, wrap_module
from bayeslora.backbones.sequence import load_sequence_classifier
from bayeslora.backbones.sequence_encoder import SequenceEncoder
from bayeslora.checkpoint import FOREIGN, MODULE, ModelFiles, ModelRecord, library_versions
from bayeslora.errors import InputError
from bayeslora.posteriors.build import build
from bayeslora.posteriors.config import PosteriorConfig
from bayeslora.posteriors.registry import provider, stored_posterior
from bayeslora.training.last_layer import check_last_layer, last_layer
from bayeslora.training.network import Network


def foreign_network(
    model: str | nn.Module,
    posterior: PosteriorConfig,
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
        InputError: There is no such model, or the posterior is not one of the last layer.
    """
    check_last_layer(posterior, adapted=False)
    classifier = load_sequence_classifier(
        model,
        tokenizer=tokenizer,
        layer=layer,
        classes=classes,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    encoder = SequenceEncoder(classifier, max_length=max_length)
    return _around(encoder, FOREIGN, classifier.classes, posterior)


def module_network(
    classifier: ModuleClassifier, posterior: PosteriorConfig
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
    posterior: PosteriorConfig,
) -> tuple[Network, ModelRecord]:
    backbone = encoder.backbone
    head = last_layer(posterior, encoder.weight)
    network = Network(encoder, [], head).to(backbone.device).eval()
    record = ModelRecord(
        backbone={
            "name": lasting_name(backbone.name) if kind == FOREIGN else backbone.name,
            "fingerprint": backbone.fingerprint,
            "kind": kind,
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
    return _restored(record, SequenceEncoder(classifier, max_length=record.max_length))


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
    return _restored(record, ModuleEncoder(classifier))


def _restored(record: ModelRecord, encoder: FinalLayerEncoder) -> Network:
    check_fingerprint(record, encoder.backbone.name, encoder.backbone.fingerprint)
    posterior = stored_posterior(record.posterior)
    head = build(posterior, encoder.num_features, len(record.classes), extra=record.head)
    return Network(encoder, [], head).to(encoder.backbone.device)


def check_fingerprint(record: ModelRecord, name: str, found: str) -> None:
    """Complain where the weights below the last layer are not those that a model was made for.

    Args:
        record: Of the model.
        name: What the backbone that was found is called.
        found: Its fingerprint.

    Raises:
        InputError: They are not.
    """
    expected = record.backbone["fingerprint"]
    if found != expected:
        raise InputError(
            f"the model was made for another backbone than {name!r} is now: "
            f"fingerprint {found}, expected {expected}, that of {record.backbone['name']!r} then"
        )
