"""From a model directory, or somebody else's classifier, to a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bayeslora import options
from bayeslora.adapters.config import ADAPTERS
from bayeslora.backbones.load import Backbone, lasting_name, load_backbone, open_source
from bayeslora.backbones.sequence import SequenceEncoder, load_sequence_classifier
from bayeslora.checkpoint import FOREIGN, ModelFiles, ModelRecord, library_versions
from bayeslora.errors import InputError
from bayeslora.posteriors.build import Head, build
from bayeslora.posteriors.config import Ensemble, PosteriorConfig, Sampled
from bayeslora.posteriors.config_laplace_lora import LaplaceLoRA
from bayeslora.posteriors.feature_scores import FeatureScores
from bayeslora.posteriors.registry import provider, stored_posterior
from bayeslora.training.assemble import build_network
from bayeslora.training.network import Network

Members = list[dict[str, Tensor]]


def restore_network(
    files: ModelFiles, backbone: str | Backbone, loading: Mapping[str, Any]
) -> tuple[Network, Members]:
    """Return the network of a saved model and the trained tensors of its members.

    Args:
        files: The model directory's content.
        backbone: Name of the backbone, or the backbone itself.
        loading: Options of `load_backbone`.

    Raises:
        InputError: The backbone is another one, or a tensor is missing, unexpected or misshapen.
    """
    record = files.record
    if record.backbone["kind"] == FOREIGN:
        network = _foreign_from_files(files, str(backbone), loading)
    else:
        base = load_backbone(backbone, **loading) if isinstance(backbone, str) else backbone
        _check_fingerprint(record, base.fingerprint)
        network = build_network(
            base,
            options.resolve("adapter", record.adapter, ADAPTERS),
            stored_posterior(record.posterior),
            num_classes=len(record.classes),
            seed=record.seed,
            max_length=record.max_length,
            extra=record.head,
        )
    width = network.head.mean_weight.shape[1]
    scores = FeatureScores.empty(record.feature_scores, width)
    network.feature_scores = scores.to(network.feature_scale.device)
    members = _members(files)
    # Each is loaded once, so that a damaged one is found now; the first stays in place.
    for tensors in reversed(members):
        _load(network, tensors)
    return network.eval(), members


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
    check_last_layer(posterior, adapted=False)
    classifier = load_sequence_classifier(
        model,
        tokenizer=tokenizer,
        layer=layer,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    encoder = SequenceEncoder(classifier, max_length=max_length)
    head = last_layer(posterior, encoder.weight)
    network = Network(encoder, [], head).to(classifier.backbone.device).eval()
    record = ModelRecord(
        backbone={
            "name": lasting_name(classifier.backbone.name),
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
        head=head.extra_config(),
        versions=library_versions() | provider(posterior),
    )
    return network, record


def last_layer(posterior: PosteriorConfig, weight: Tensor, seed: int = 0) -> Head:
    """Return an unfitted last layer that starts from [C, d] weights.

    Args:
        posterior: Which one.
        weight: [C, d].
        seed: Of its draws.

    Raises:
        InputError: The posterior is not one of the last layer.
    """
    check_last_layer(posterior)
    classes, width = weight.shape
    head = build(posterior, width, classes, seed=seed)
    head.set_mean(weight)
    return head


def check_last_layer(posterior: PosteriorConfig, *, adapted: bool = True) -> None:
    """Complain about a posterior that cannot be fitted to a finished network.

    Args:
        posterior: Which one.
        adapted: Whether the network has adapters of ours.

    Raises:
        InputError: The posterior is neither one of the last layer nor a Laplace approximation over
            adapters that are there.
    """
    if isinstance(posterior, LaplaceLoRA) and not adapted:
        raise InputError(
            f"posterior {posterior.name!r} is over the weights of an adapter of ours, and a "
            "classifier from elsewhere has none, also where it is a LoRA checkpoint, which is "
            "merged when it is read; choose 'laplace', which is over the last layer"
        )
    if isinstance(posterior, Ensemble | Sampled):
        raise InputError(
            f"posterior {posterior.name!r} is not one of the last layer and cannot be fitted to a "
            "finished network; choose 'laplace', 'vbll', 'nuts' or 'temperature'"
        )


def model_tensors(members: Members) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return (adapter, posterior) tensors by name; an ensemble's carry the member's number."""
    adapter: dict[str, Tensor] = {}
    posterior: dict[str, Tensor] = {}
    for place, tensors in enumerate(members):
        prefix = _prefix(place, len(members))
        for name, tensor in tensors.items():
            home = adapter if name.startswith("adapter.") else posterior
            home[prefix + name] = tensor.contiguous()
    return adapter, posterior


def _members(files: ModelFiles) -> Members:
    count = files.record.num_members
    prefixes = [_prefix(place, count) for place in range(count)]
    members: Members = [{} for _ in prefixes]
    for name, tensor in {**files.adapter, **files.posterior}.items():
        place = next((n for n, prefix in enumerate(prefixes) if name.startswith(prefix)), None)
        if place is None:
            raise _misfit(name, "belongs to no member")
        members[place][name.removeprefix(prefixes[place])] = tensor
    return members


def _prefix(place: int, count: int) -> str:
    return f"member-{place}." if count > 1 else ""


def _foreign_from_files(files: ModelFiles, name: str, loading: Mapping[str, Any]) -> Network:
    record, folder = files.record, files.directory
    tokenizer = None
    # The classifier may have been given another tokenizer than the one that lies beside it.
    if folder is not None and (folder / "tokenizer_config.json").is_file():
        tokenizer = open_source("tokenizer", str(folder), loading["trust_remote_code"])
    classifier = load_sequence_classifier(
        name,
        tokenizer=tokenizer,
        layer=record.backbone.get("layer"),
        device=loading["device"],
        trust_remote_code=loading["trust_remote_code"],
    )
    _check_fingerprint(record, classifier.backbone.fingerprint)
    encoder = SequenceEncoder(classifier, max_length=record.max_length)
    posterior = stored_posterior(record.posterior)
    head = build(posterior, encoder.num_features, len(record.classes), extra=record.head)
    return Network(encoder, [], head).to(classifier.backbone.device)


def _check_fingerprint(record: ModelRecord, found: str) -> None:
    expected = record.backbone["fingerprint"]
    if found != expected:
        raise InputError(
            f"the model was made for another backbone than {record.backbone['name']!r} is now: "
            f"fingerprint {found}, expected {expected}"
        )


def _load(network: Network, tensors: Mapping[str, Tensor]) -> None:
    expected = network.trained_state()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise _misfit(name, "is missing")
        if name not in expected:
            raise _misfit(name, "is not expected")
        found, needed = list(tensors[name].shape), list(expected[name].shape)
        if found != needed:
            raise _misfit(name, f"has shape {found}, expected {needed}")
    network.load_trained_state(tensors)


def _misfit(name: str, problem: str) -> InputError:
    return InputError(f"the model's tensors do not fit its record: {name!r} {problem}")
