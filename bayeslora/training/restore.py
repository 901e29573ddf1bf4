"""From a model directory to a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bayeslora.adapters.registry import stored_adapter
from bayeslora.backbones.depth import read_at
from bayeslora.backbones.load import Backbone, load_backbone, pick_device
from bayeslora.backbones.module import Encode
from bayeslora.backbones.template import Template
from bayeslora.checkpoint import FOREIGN, MODULE, ModelFiles, ModelRecord
from bayeslora.errors import InputError, MissingAssetError, first_line
from bayeslora.posteriors.feature_scores import FORMER, FeatureScores
from bayeslora.posteriors.registry import stored_posterior
from bayeslora.training.assemble import build_network
from bayeslora.training.card import model_card
from bayeslora.training.foreign import (
    check_backbone,
    foreign_from_files,
    module_from_files,
    saved_tokenizer,
)
from bayeslora.training.network import Network

Members = list[dict[str, Tensor]]
_FORMER = tuple(f"scores.{name}." for name in sorted(FORMER))


def restore_network(
    files: ModelFiles,
    backbone: str | Backbone,
    loading: Mapping[str, Any],
    module: nn.Module | None = None,
    encode: Encode | None = None,
) -> tuple[Network, Members]:
    """Return the network of a saved model and the trained tensors of its members.

    Args:
        files: The model directory's content.
        backbone: Name of the backbone, or the backbone itself.
        loading: Options of `load_backbone`.
        module: The module of a model that `from_module` made.
        encode: What encodes its texts.

    Raises:
        InputError: The backbone is another one, or a tensor is missing, unexpected, misshapen, of
            another dtype, or not finite.
    """
    record = files.record
    _check_results(files)
    members = _members(files)
    if record.backbone["kind"] == MODULE:
        network = module_from_files(files, module, encode, loading["device"])
    elif module is not None or encode is not None:
        raise InputError(
            f"module is for a model that from_module made; this one loads {backbone!r} by itself"
        )
    elif record.backbone["kind"] == FOREIGN:
        network = foreign_from_files(files, str(backbone), loading)
    else:
        base = _found(backbone, files, loading) if isinstance(backbone, str) else backbone
        base = read_at(base, record.backbone.get("depth"), _template(record))
        check_backbone(record, base)
        base = with_saved_tokenizer(base, files, trust_remote_code=loading["trust_remote_code"])
        network = build_network(
            base,
            stored_adapter(record.adapter),
            stored_posterior(record.posterior),
            num_classes=len(record.classes),
            seed=record.seed,
            max_length=record.max_length,
            extra=record.head,
            trained=members[0],
        )
    width = network.head.mean_weight.shape[1]
    scores = FeatureScores.empty(record.feature_scores, width)
    network.feature_scores = scores.to(network.feature_scale.device)
    # Each is loaded once, so that a damaged one is found now; the first stays in place.
    for tensors in reversed(members):
        _load(network, tensors, files.directory)
    return network.eval(), members


def _check_results(files: ModelFiles) -> None:
    """Raise InputError if the results in a record are not what its model card is made from."""
    try:
        model_card(files.record, "")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{_place(files.directory)}: its results are damaged: {first_line(error)}"
        ) from None


def _template(record: ModelRecord) -> Template | None:
    frame = record.backbone.get("template")
    return None if frame is None else Template(frame)


def _found(name: str, files: ModelFiles, loading: Mapping[str, Any]) -> Backbone:
    """Return the backbone of a saved model.

    Raises:
        InputError: It cannot be loaded; the message says how to name where it is now.
        MissingAssetError: It is an embedded model whose package is not installed.
    """
    pick_device(loading["device"])  # no other backbone would help
    try:
        return load_backbone(name, **loading)
    except MissingAssetError:
        raise
    except InputError as error:
        raise InputError(
            f"{files.directory}: its backbone cannot be loaded: {first_line(error)}; "
            "if it has moved, say where it is now: backbone=... (--backbone)"
        ) from None


def with_saved_tokenizer(
    backbone: Backbone, files: ModelFiles, *, trust_remote_code: bool
) -> Backbone:
    """Return a backbone with the tokenizer that lies in a model directory, where there is one.

    The weights' fingerprint says nothing about it, and that of the backbone may have changed since.
    """
    tokenizer = saved_tokenizer(files, trust_remote_code=trust_remote_code)
    return backbone if tokenizer is None else replace(backbone, tokenizer=tokenizer)


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
    # Each has tensors of its own; a number from a damaged record would be counted to for hours.
    if count > len(files.posterior) + len(files.adapter):
        raise InputError(f"{_place(files.directory)}: it has no tensors of {count} members")
    prefixes = [_prefix(place, count) for place in range(count)]
    members: Members = [{} for _ in prefixes]
    for name, tensor in {**files.adapter, **files.posterior}.items():
        place = next((n for n, prefix in enumerate(prefixes) if name.startswith(prefix)), None)
        if place is None:
            raise _misfit(files.directory, name, "belongs to no member")
        own = name.removeprefix(prefixes[place])
        if not own.startswith(_FORMER):
            members[place][own] = tensor
    return members


def _prefix(place: int, count: int) -> str:
    return f"member-{place}." if count > 1 else ""


def _load(network: Network, tensors: Mapping[str, Tensor], directory: Path | None) -> None:
    network.expect(tensors)
    expected = network.trained_state()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise _misfit(directory, name, "is missing")
        if name not in expected:
            raise _misfit(directory, name, "is not expected")
        found, needed = list(tensors[name].shape), list(expected[name].shape)
        if found != needed:
            raise _misfit(directory, name, f"has shape {found}, expected {needed}")
        problem = _problem(tensors[name], expected[name])
        if problem:
            raise _misfit(directory, name, problem)
    network.load_trained_state(tensors)


def _problem(found: Tensor, expected: Tensor) -> str:
    """Return what is wrong with the values of a tensor [...]; empty where nothing is.

    What an unfitted posterior does not know is NaN, and may stay so.
    """
    if found.dtype != expected.dtype:
        kinds = (str(item.dtype).removeprefix("torch.") for item in (found, expected))
        return "has dtype {}, expected {}".format(*kinds)
    if bool((expected.isfinite() & ~found.isfinite()).any()):
        return "has values that are not finite"
    return ""


def _misfit(directory: Path | None, name: str, problem: str) -> InputError:
    return InputError(f"{_place(directory)}: its tensors do not fit its record: {name!r} {problem}")


def _place(directory: Path | None) -> str:
    return "the model" if directory is None else str(directory)
