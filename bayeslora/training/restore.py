"""From a model directory, or somebody else's classifier, to a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from bayeslora import options
from bayeslora.adapters.config import ADAPTERS
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.backbones.sequence import SequenceEncoder, load_sequence_classifier
from bayeslora.checkpoint import ModelFiles, ModelRecord
from bayeslora.errors import InputError
from bayeslora.posteriors.build import build
from bayeslora.posteriors.config import POSTERIORS, Ensemble, MCDropout, PosteriorConfig
from bayeslora.posteriors.types import LastLayer
from bayeslora.training.assemble import build_network
from bayeslora.training.network import Network

ADAPTED = "adapted"
FOREIGN = "sequence-classifier"


def restore_networks(
    files: ModelFiles, backbone: str | Backbone, loading: Mapping[str, Any]
) -> list[Network]:
    """Return the networks of a saved model, with their trained tensors.

    Args:
        files: The model directory's content.
        backbone: Name of the backbone, or the backbone itself.
        loading: Options of `load_backbone`.

    Raises:
        InputError: The backbone is another one, or a tensor is missing, unexpected or misshapen.
    """
    if files.record.backbone["kind"] == FOREIGN:
        return [_foreign_from_files(files, str(backbone), loading)]
    base = load_backbone(backbone, **loading) if isinstance(backbone, str) else backbone
    _check_fingerprint(files.record, base.fingerprint)
    record = files.record
    networks = []
    for place, extra in enumerate(record.heads):
        network = build_network(
            base,
            options.resolve("adapter", record.adapter, ADAPTERS),
            options.resolve("posterior", record.posterior, POSTERIORS),
            num_classes=len(record.classes),
            seed=record.seed,
            max_length=record.max_length,
            extra=extra,
        )
        _load(network, member_tensors(files, place))
        networks.append(network.eval())
    return networks


def foreign_network(
    model: str | nn.Module,
    posterior: PosteriorConfig,
    *,
    max_length: int,
    tokenizer: Any = None,
    layer: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Network, ModelRecord]:
    """Return a network around a sequence classifier, its head at the classifier's own weights.

    Raises:
        InputError: There is no such model, or the posterior is not one of the last layer.
    """
    if isinstance(posterior, Ensemble | MCDropout):
        raise InputError(
            f"posterior {posterior.name!r} is not one of the last layer and cannot be fitted to a "
            "finished classifier; choose 'laplace', 'vbll' or 'temperature'"
        )
    classifier = load_sequence_classifier(
        model,
        tokenizer=tokenizer,
        layer=layer,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    encoder = SequenceEncoder(classifier, max_length=max_length)
    head = cast(LastLayer, build(posterior, encoder.num_features, len(classifier.classes)))
    head.set_mean(encoder.weight)
    network = Network(encoder, [], head).to(classifier.backbone.device).eval()
    record = ModelRecord(
        backbone={
            "name": classifier.backbone.name,
            "fingerprint": classifier.backbone.fingerprint,
            "kind": FOREIGN,
            "layer": classifier.layer,
            "dtype": "float32",
        },
        posterior=options.as_mapping(posterior),
        classes=list(classifier.classes),
        columns={"text": "text", "label": "label", "pair": None},
        max_length=max_length,
        seed=0,
        num_train=0,
        heads=[head.extra_config()],
    )
    return network, record


def model_tensors(networks: list[Network]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return (adapter, posterior) tensors by name; an ensemble's carry the member's number."""
    adapter: dict[str, Tensor] = {}
    posterior: dict[str, Tensor] = {}
    for place, network in enumerate(networks):
        prefix = f"member-{place}." if len(networks) > 1 else ""
        for name, tensor in network.trained_state().items():
            home = adapter if name.startswith("adapter.") else posterior
            home[prefix + name] = tensor.contiguous()
    return adapter, posterior


def member_tensors(files: ModelFiles, place: int) -> dict[str, Tensor]:
    """Return the tensors of one member, named as `Network.trained_state` names them."""
    prefix = f"member-{place}." if len(files.record.heads) > 1 else ""
    everything = {**files.adapter, **files.posterior}
    return {
        name[len(prefix) :]: tensor
        for name, tensor in everything.items()
        if name.startswith(prefix)
    }


def _foreign_from_files(files: ModelFiles, name: str, loading: Mapping[str, Any]) -> Network:
    record = files.record
    classifier = load_sequence_classifier(
        name,
        layer=record.backbone["layer"],
        device=loading["device"],
        trust_remote_code=loading["trust_remote_code"],
    )
    _check_fingerprint(record, classifier.backbone.fingerprint)
    encoder = SequenceEncoder(classifier, max_length=record.max_length)
    posterior = options.resolve("posterior", record.posterior, POSTERIORS)
    head = build(posterior, encoder.num_features, len(record.classes), extra=record.heads[0])
    network = Network(encoder, [], cast(LastLayer, head)).to(classifier.backbone.device)
    _load(network, member_tensors(files, 0))
    return network.eval()


def _check_fingerprint(record: ModelRecord, found: str) -> None:
    expected = record.backbone["fingerprint"]
    if found != expected:
        raise InputError(
            f"the model was made for another backbone than {record.backbone['name']!r} is now: "
            f"fingerprint {found}, expected {expected}"
        )


def _load(network: Network, tensors: Mapping[str, Tensor]) -> None:
    try:
        network.load_trained_state(tensors)
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"posterior tensors do not fit the record: {reason}") from None
