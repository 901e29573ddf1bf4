"""Export a fitted network with merged adapters: a plain transformers model, or a file of tensors.

The mean network is written. A decoder's last layer becomes the `score` layer of the architecture's
sequence classifier, which reads the same position. A vision model's becomes the `classifier` layer
of the image classifier, which reads the class token, or in DINOv2 the class token and the mean over
patches. The features of an encoder are mean-pooled here, but transformers uses a pooler: none of
its classifiers computes the same function, and one with the encoder's weights would have a random
last layer, so none is written.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bayeslora._version import __version__
from bayeslora.adapters.inject import export
from bayeslora.backbones.embedded import directories
from bayeslora.backbones.encoder import Encoder
from bayeslora.backbones.final_layer import FinalLayerEncoder
from bayeslora.backbones.images import size_for
from bayeslora.backbones.load import Kind
from bayeslora.backbones.template import PAIR, TEXT, Template
from bayeslora.engine.fitted.card import method_name
from bayeslora.engine.network import Network
from bayeslora.engine.progress import quiet_transformers
from bayeslora.errors import InputError
from bayeslora.io.directories import Layout, atomic_directory, listed_files, refuse_target
from bayeslora.io.files import (
    atomic_file,
    check_writable,
    refuse_existing,
    refuse_inputs,
    write_json,
)
from bayeslora.option_checks import Pooling, as_whole
from bayeslora.posteriors.features import Features

LOADERS: dict[Kind, str] = {
    "decoder": "AutoModelForSequenceClassification",
    "vision": "AutoModelForImageClassification",
}
"""Classes of transformers that load a merged model, by the kind of its backbone."""

_POOLING: dict[Pooling, str] = {
    "last": "last real token",
    "mean": "mean over real tokens",
    "first": "first token",
}

_FILLING = """\
template = {frame!r}


def filled(text, length={length}):
    # A long text is cut, not the template around it.
    start = template.index({TEXT!r})
    while True:
        whole = template.replace({TEXT!r}, text)
        tokens = classify.tokenizer(whole, return_offsets_mapping=True)["offset_mapping"]
        excess = len(tokens) - length
        if excess <= 0 or not text:
            return whole
        end = start + len(text)
        inside = [low for low, high in tokens if low < end and max(low, start) < high]
        last = inside[-excess] - start if excess < len(inside) else 0
        text = text[: min(max(last, 0), len(text) - 1)]

"""

_FIELDS = {TEXT: "text", PAIR: "text_pair"}

# Relative to the largest logit: rounding is far below, another function far above.
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


@contextmanager
def one_member(network: Network, number: int | None = None) -> Iterator[Network]:
    """Yield the network of one member, whose tensors are loaded within the context.

    Args:
        network: The finished network.
        number: Number of the member, from 1; None for a single network.

    Raises:
        InputError: There are several members and `number` is None, or there is no such member.
    """
    name = method_name(network.record)
    if isinstance(network.encoder, FinalLayerEncoder) and network.is_adapted:
        raise InputError(
            f"{name} uses the adapters of a PEFT checkpoint, which needs no export: "
            f"{network.record.backbone['name']}; only adapters that were fitted here can be "
            "exported"
        )
    count = len(network.members)
    if number is None and count > 1:
        raise InputError(
            f"{name} has {count} networks; choose one: member=1 to {count} (--member)",
            code="several-networks",
        )
    if number is not None and count == 1 and not network.posterior.has_members:
        raise InputError(
            f"{name} is not an ensemble, so it has no members to choose from; leave "
            f"member={number} (--member) out"
        )
    number = 1 if number is None else number
    if as_whole(number) is None or not 1 <= number <= count:
        raise InputError(f"member must be a whole number from 1 to {count}, got {number!r}")
    member = network.members[number - 1]
    try:
        network.load_trained_state(member)
        single = Network(network.encoder, network.sites, network.head, network.full)
        single.feature_scale = network.feature_scale
        single.weights = network.weights
        yield single.finished(network.record, [member], progress=network.progress)
    finally:
        network.load_trained_state(network.members[0])


def export_merged(network: Network, directory: str | Path, *, overwrite: bool) -> None:
    """Write the mean network as a classifier of transformers, for one of `LOADERS`.

    Args:
        network: A single adapted network.
        directory: Output directory.
        overwrite: Whether an export there may be replaced.

    Raises:
        InputError: See `check_mergeable` and `check_export`; or no such classifier computes the
            same function.
    """
    weight, encoder = check_mergeable(network), encoder_of(network)
    with open_export(network, directory, "merged", overwrite=overwrite) as temporary:
        whole = _classifier(network, export(encoder.model), weight)
        whole.save_pretrained(temporary)
        if encoder.backbone.kind == "vision":
            encoder.backbone.tokenizer.save_pretrained(temporary, side=whole.config.image_size)
        else:
            tokenizer = copy.deepcopy(encoder.backbone.tokenizer)
            # Keeps the same tokens with truncation=True.
            tokenizer.model_max_length = encoder.max_length
            tokenizer.save_pretrained(temporary)
        (temporary / "README.md").write_text(_readme(network), encoding="utf-8")


def _readme(network: Network) -> str:
    """Return the README: how to predict with transformers, template included."""
    encoder = encoder_of(network)
    if encoder.backbone.kind == "vision":
        side, _ = size_for(encoder.model.config, encoder.max_length)
        kind, fact = "image", f"Images are resized to {side} × {side} pixels."
        lines = [
            'classify = pipeline("image-classification", "PATH OF THIS DIRECTORY")',
            f'classify("PATH OF AN IMAGE", top_k={len(network.record.classes)})',
        ]
    else:
        kind, fact = "text", f"At most {encoder.max_length} tokens are read."
        lines, pair_note = _text_lines(network.record.backbone.get("template"), encoder.max_length)
        fact += pair_note
    listed = "\n".join(["from transformers import pipeline", "", *lines])
    return (
        f"# {kind.capitalize()} classifier for transformers\n\n```python\n{listed}\n```\n\n"
        f"- Made from: {method_name(network.record)}, fingerprint `{network.fingerprint}`\n"
        f"- {fact}\n\n"
        "Uncertainty is not exported: these are the probabilities of the mean network.\n"
        f"{tasks_words(network)}"
    )


def _text_lines(frame: str | None, length: int) -> tuple[list[str], str]:
    """Return the lines of code that classify a text in a template, and a note on pairs."""
    filling: list[str] = []
    text, pair_note = "text", ""
    if frame is not None and PAIR in frame:
        # Concatenated, since a text may contain the name of a field.
        text = " + ".join(_FIELDS.get(part, repr(part)) for part in Template(frame).parts if part)
        pair_note = " For longer pairs, truncate the texts, not the template."
    elif frame is not None:
        text = "filled(text)"
        filling = _FILLING.format(frame=frame, TEXT=TEXT, length=length).splitlines()
    pipeline = 'classify = pipeline("text-classification", "PATH OF THIS DIRECTORY", top_k=None)'
    return [pipeline, *filling, f"classify({text}, truncation=True)"], pair_note


def pooling_words(encoder: Encoder) -> str:
    """Return which states are the feature."""
    if encoder.backbone.kind == "vision" and encoder.pooling == "mean":
        return "mean over patches"
    return _POOLING[encoder.pooling]


def tasks_words(network: Network) -> str:
    """Return instructions on exported logits of several tasks; empty for one task."""
    tasks = network.record.tasks
    if not tasks:
        return ""
    return (
        f"\nThe logits are of the classes of all tasks: {', '.join(tasks)}. A class is named "
        "`task: class`. Take the softmax over the classes of the row's task only, as in "
        "training.\n"
    )


def classifier_head(network: Network) -> tuple[str, dict[str, Tensor]]:
    """Return the prefix and last layer that make an adapter a sequence classifier in PEFT.

    Returns:
        Prefix of the backbone's modules in the architecture's sequence classifier, such as
        `model.`, and the tensors of the mean network's last layer.

    Raises:
        InputError: See `check_mergeable`; or no such classifier computes the same function.
    """
    if network.encoder.backbone.kind == "vision":
        raise InputError(
            "--head (head) writes the last layer of text decoders only; for images use --format "
            "merged (export_merged)"
        )
    weight = check_mergeable(network)
    whole = _classifier(network, export(encoder_of(network).model), weight)
    return f"{whole.base_model_prefix}.", {"score.weight": weight}


def export_tensors(network: Network, path: str | Path, *, overwrite: bool) -> None:
    """Write the tensors of the mean network to one safetensors file.

    Names are those of the backbone with the prefix `backbone.`, and `head.weight` [C, d] for pooled
    features; the metadata `bayeslora` is JSON with the classes, the pooling and the maximal text
    length.

    Raises:
        InputError: See `check_mergeable` and `check_export`.
    """
    check_export(path, "safetensors", overwrite=overwrite, inputs=_sources(network))
    weight = check_mergeable(network)
    plain = export(encoder_of(network).model)
    tensors = {f"backbone.{name}": item for name, item in plain.state_dict().items()}
    tensors["head.weight"] = weight.float()
    # Copies, since a file cannot hold shared tensors.
    copies = {name: item.detach().cpu().clone().contiguous() for name, item in tensors.items()}
    config: Any = encoder_of(network).model.config
    note = json.dumps({**_note(network), "config": json.loads(config.to_json_string())})
    with atomic_file(path) as temporary:
        save_file(copies, str(temporary), metadata={"format": "pt", NOTE: note})


@torch.no_grad()
def check_mergeable(network: Network) -> Tensor:
    """Return the mean last layer [C, d] for unscaled features, in float64.

    Raises:
        InputError: The classifier is from another library, or its mean logits are not a linear
            function of the features.
    """
    for site in network.sites:
        site.check_fixed()
    if network.plan.format is not None:
        raise InputError(
            f"{method_name(network.record)} chooses between the options of each question, but an "
            "exported last layer has the same classes for every row; use --format peft without "
            "--head to write the adapter"
        )
    encoder = encoder_of(network)
    network.eval()
    rows = network.scaled(encoder.features(encoder.probe()))
    expected = network.head.predict(rows).mean
    eye = Features(torch.eye(rows.values.shape[1], device=rows.values.device))
    for weight in (network.head.mean_weight.double(), network.head.predict(eye).mean.mT):
        logits = rows.values.double() @ weight.mT
        if (logits - expected).abs().max() <= 1e-6 * expected.abs().max().clamp_min(1e-6):
            merged: Tensor = (weight / network.feature_scale.double()).cpu()
            return merged
    raise InputError(
        f"the mean logits of posterior {network.posterior.name!r} are not a linear function of the "
        "features, so they cannot be exported as a linear layer"
    )


def encoder_of(network: Network) -> Encoder:
    """Return the encoder of a network that was fitted here.

    Raises:
        InputError: The classifier is from another library.
    """
    encoder = network.encoder
    if not isinstance(encoder, Encoder):
        raise InputError(
            f"{method_name(network.record)} is a classifier of another library, whose weights were "
            "not changed, so there is nothing to merge"
        )
    return encoder


@torch.no_grad()
def _classifier(network: Network, plain: nn.Module, weight: Tensor) -> Any:
    """Return the architecture's classifier of texts or images around a merged backbone.

    Raises:
        InputError: There is no such class, or running it shows that it computes something else.
    """
    import transformers

    encoder = encoder_of(network)
    kind = encoder.backbone.kind
    if kind == "encoder":
        raise _no_classifier(
            network,
            "the states of an encoder are averaged here, but pooled by a layer of its own there",
        )
    config: Any = copy.deepcopy(plain.config)
    config.id2label = dict(enumerate(network.record.classes))
    config.label2id = {name: index for index, name in config.id2label.items()}
    state = plain.state_dict()
    if kind == "vision":
        config.image_size, _ = size_for(config, encoder.max_length)
        state |= _positions(plain, config.image_size)
    else:
        config.pad_token_id = encoder.backbone.tokenizer.pad_token_id
    try:
        make: Any = getattr(transformers, LOADERS[kind]).from_config
        whole: Any = make(config, dtype=next(plain.parameters()).dtype)
    except ValueError:
        whole = None
    last = getattr(whole, "classifier" if kind == "vision" else "score", None)
    if _takes(last, weight, kind):
        if not _load(whole.base_model, state):
            raise _no_classifier(
                network, f"the tensors of {type(plain).__name__} do not fit {type(whole).__name__}"
            )
        _set_weight(last, weight, encoder.pooling)
        whole.to(encoder.backbone.device).eval()
        if _agrees(network, encoder, whole):
            return whole
    if kind == "vision" and whole is not None:
        is_mean = getattr(config, "use_mean_pooling", False)
        other = "the normalised mean over patches" if is_mean else "another feature"
        raise _no_classifier(
            network,
            f"the last layer of {type(whole).__name__} reads {other}, not the "
            f"{pooling_words(encoder)}",
        )
    raise _no_classifier(
        network, f"the one for {type(plain).__name__} is missing or computes something else"
    )


def _no_classifier(network: Network, reason: str) -> InputError:
    return InputError(
        f"no classifier of transformers computes the same as {method_name(network.record)} "
        f"({reason}); use --format safetensors (export_safetensors) to write the merged tensors "
        "and the last layer, or --format peft without --head for the adapter"
    )


def _positions(plain: Any, side: int) -> dict[str, Tensor]:
    """Return the positions of a vision model for images of `side` pixels, if they are others.

    Without them, ViT would refuse smaller images unless told to interpolate.
    """
    layer = getattr(plain, "embeddings", None)
    if side == plain.config.image_size or getattr(layer, "position_embeddings", None) is None:
        return {}
    # Positions are only interpolated for another number of patches; the class token has none.
    positions = plain.embeddings.interpolate_pos_encoding(plain.embeddings.cls_token, side, side)
    return {"embeddings.position_embeddings": positions}


def _load(backbone: nn.Module, state: dict[str, Tensor]) -> bool:
    """Load a backbone's tensors, except those of a pooler it lacks; return whether they fit."""
    own = backbone.state_dict()
    used = {name: item for name, item in state.items() if "pooler" not in name or name in own}
    try:
        backbone.load_state_dict(used)
    except RuntimeError:
        return False
    return True


def _takes(layer: Any, weight: Tensor, kind: Kind) -> bool:
    """Return whether the last layer of a classifier can have a weight [C, d] and no bias.

    That of an image classifier may read the class token followed by the mean over patches.
    """
    if not isinstance(layer, nn.Linear):
        return False
    if kind == "vision":
        num_classes, width = weight.shape
        return layer.out_features == num_classes and layer.in_features in (width, 2 * width)
    return layer.weight.shape == weight.shape and layer.bias is None


def _set_weight(layer: Any, weight: Tensor, pooling: Pooling) -> None:
    if layer.in_features > weight.shape[1]:
        nothing = torch.zeros_like(weight)
        weight = torch.cat([nothing, weight] if pooling == "mean" else [weight, nothing], 1)
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.zero_()


def _agrees(network: Network, encoder: Encoder, whole: Any) -> bool:
    """Return whether a classifier's logits equal the mean network's on two texts or images."""
    batch = encoder.probe().collate([0, 1])
    expected = network.head.predict(network(batch)).mean.cpu()
    if encoder.backbone.kind == "vision":
        batch = {"pixel_values": batch["pixel_values"].to(whole.dtype)}
    logits = whole(**{name: item.to(whole.device) for name, item in batch.items()}).logits
    tolerance = _TOLERANCES.get(whole.dtype, 5e-2)
    return bool((logits.double().cpu() - expected).abs().max() <= tolerance * expected.abs().max())


def _note(network: Network) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "classes": list(network.record.classes),
        "pooling": pooling_words(encoder_of(network)),
        "max_length": network.encoder.max_length,
        "template": network.record.backbone.get("template"),
        **({"tasks": network.record.tasks} if network.record.tasks else {}),
        "backbone": network.record.backbone["name"],
        "model_fingerprint": network.fingerprint,
    }


ExportKind = Literal["peft", "merged", "safetensors"]

FORMAT_VERSION = 1
MANIFEST = "bayeslora-export.json"
NOTE = "bayeslora"
"""Key in the metadata of a safetensors export, whose value is JSON with `format_version`."""

EXPORTS = {
    "peft": Layout("a PEFT checkpoint", MANIFEST),
    "merged": Layout("a transformers model", MANIFEST),
}
"""Directories of exports, by format."""


def check_export(
    path: str | Path, kind: ExportKind, *, overwrite: bool, inputs: Sequence[str | Path] = ()
) -> None:
    """Raise InputError if a network cannot be exported to `path`; nothing is written.

    Args:
        path: Target of the export.
        kind: Kind of the export.
        overwrite: Whether an export of the same kind may be replaced.
        inputs: Paths that it is made from, which must not be overwritten.

    Raises:
        InputError: The target exists and may not be replaced, is not one of our exports, or
            contains an input.
    """
    target = Path(path)
    if kind == "safetensors" and target.suffix != ".safetensors":
        raise InputError(
            "format 'safetensors' needs a file name with the extension .safetensors, got "
            f"{target.name!r}"
        )
    refuse_existing(target, overwrite=overwrite)
    refuse_inputs(target, *inputs)
    if kind != "safetensors":
        refuse_target(target, EXPORTS[kind], overwrite=overwrite)
    check_writable(target)


@contextmanager
def open_export(
    network: Network, directory: str | Path, kind: ExportKind, *, overwrite: bool
) -> Iterator[Path]:
    """Yield a directory that replaces `directory` with a marker and its list of files at the end.

    Raises:
        InputError: As `check_export`.
    """
    check_export(directory, kind, overwrite=overwrite, inputs=_sources(network))
    with (
        atomic_directory(directory, EXPORTS[kind], overwrite=overwrite) as temporary,
        quiet_transformers(),
    ):
        yield temporary
        about = {"format_version": FORMAT_VERSION, "bayeslora": __version__, "format": kind}
        write_json(temporary / MANIFEST, {**about, "files": listed_files(temporary)})


def _sources(network: Network) -> list[Path]:
    """Return the directories that an export is made from."""
    return directories(network.encoder.backbone.name)
