"""Export a fitted network: its adapter for PEFT, a merged transformers model, a file of tensors.

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
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from bayeslora._version import __version__
from bayeslora.adapters.peft_bridge import export_peft
from bayeslora.adapters.site import export
from bayeslora.backbones.embedded import EMBEDDED_MODELS, directories
from bayeslora.backbones.encoder import Encoder
from bayeslora.backbones.images import size_for
from bayeslora.backbones.load import Kind
from bayeslora.backbones.template import PAIR, TEXT, Template
from bayeslora.backbones.tokens import usable_length
from bayeslora.engine.fitted.card import method_name, rendered
from bayeslora.engine.network import Network
from bayeslora.engine.progress import quiet_transformers
from bayeslora.errors import InputError, first_line
from bayeslora.io import files
from bayeslora.io.files import Layout, atomic_directory, listed_files, refuse_target
from bayeslora.option_checks import Pooling, as_whole
from bayeslora.plain_text import visible
from bayeslora.posteriors.features import Features

LOADERS: dict[Kind, str] = {
    "decoder": "AutoModelForSequenceClassification",
    "vision": "AutoModelForImageClassification",
}
"""Classes of transformers that load a merged model, by the kind of its backbone."""

ExportKind = Literal["peft", "merged", "safetensors"]

FORMAT_VERSION = 1
MANIFEST = "bayeslora-export.json"
README = "README.md"
NOTE = "bayeslora"
"""Key in the metadata of a safetensors export, whose value is JSON with `format_version`."""

EXPORTS = {
    "peft": Layout(MANIFEST),
    "merged": Layout(MANIFEST),
}
"""Directories of exports, by format."""

_POOLING: dict[Pooling, str] = {
    "last": "last real token",
    "mean": "mean over real tokens",
    "first": "first token",
}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)

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
    name, count = method_name(network.record), len(network.members)
    if number is None and count > 1:
        raise InputError(
            f"{name} has {count} networks; choose one: member=1 to {count} (--member)",
            code="several-networks",
        )
    if number is not None and count == 1 and not network.posterior.has_members:
        raise InputError(f"{name} is no ensemble: leave member={number} (--member) out")
    number = 1 if number is None else number
    if as_whole(number) is None or not 1 <= number <= count:
        raise InputError(f"member must be a whole number from 1 to {count}, got {number!r}")
    member = network.members[number - 1]
    try:
        network.load_trained_state(member)
        single = Network(network.encoder, network.sites, network.head)
        single.feature_scale = network.feature_scale
        single.weights = network.weights
        yield single.finished(network.record, [member], progress=network.progress)
    finally:
        network.load_trained_state(network.members[0])


def encoder_of(network: Network) -> Encoder:
    """Return the encoder of a network that was fitted here.

    Raises:
        InputError: The classifier is from another library.
    """
    encoder = network.encoder
    if not isinstance(encoder, Encoder):
        raise InputError(
            f"{method_name(network.record)} is a classifier of another library: --format merged "
            "(export_merged) writes it with its new last layer"
        )
    return encoder


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
        raise InputError(f"format 'safetensors' needs the extension .safetensors: {target.name!r}")
    files.refuse_existing(target, overwrite=overwrite)
    files.refuse_inputs(target, *inputs)
    if kind != "safetensors":
        refuse_target(target, EXPORTS[kind], overwrite=overwrite)
    files.check_writable(target)


@contextmanager
def _directory(
    network: Network, directory: str | Path, kind: ExportKind, *, overwrite: bool
) -> Iterator[Path]:
    """Yield a directory that replaces `directory` with a marker and its list of files at the end.

    Raises:
        InputError: As `check_export`.
    """
    inputs = directories(network.encoder.backbone.name)
    check_export(directory, kind, overwrite=overwrite, inputs=inputs)
    with (
        atomic_directory(directory, EXPORTS[kind], overwrite=overwrite) as temporary,
        quiet_transformers(),
    ):
        yield temporary
        about = {"format_version": FORMAT_VERSION, "bayeslora": __version__, "format": kind}
        files.write_json(temporary / MANIFEST, {**about, "files": listed_files(temporary)})


def _readme(network: Network, template: str, **facts: Any) -> str:
    """Return the README of an export: how to load it, and what it is."""
    record = network.record
    text = rendered(
        template,
        fingerprint=network.fingerprint,
        frame=record.backbone.get("template"),
        method=method_name(record),
        record=record,
        **facts,
    )
    return text.rstrip() + "\n"


def export_merged(network: Network, directory: str | Path, *, overwrite: bool) -> None:
    """Write the mean network as a classifier of transformers, for one of `LOADERS`.

    Args:
        network: A single adapted network.
        directory: Output directory.
        overwrite: Whether an export there may be replaced.

    Raises:
        InputError: See `mean_layer` and `check_export`; or no such classifier computes the same
            function.
    """
    encoder, weight = network.encoder, mean_layer(network)
    frame = network.record.backbone.get("template")
    facts: dict[str, Any] = {"length": encoder.max_length}
    if frame is not None and PAIR in frame:
        # Concatenated, since a text may contain the name of a field.
        fields = {TEXT: "text", PAIR: "text_pair"}
        parts = (fields.get(part, repr(part)) for part in Template(frame).parts if part)
        facts["joined"] = " + ".join(parts)
    with _directory(network, directory, "merged", overwrite=overwrite) as temporary:
        whole = _merged(network, weight)
        whole.save_pretrained(temporary)
        if encoder.backbone.kind == "vision":
            facts["side"] = whole.config.image_size
            encoder.backbone.tokenizer.save_pretrained(temporary, side=facts["side"])
        else:
            tokenizer = copy.deepcopy(encoder.backbone.tokenizer)
            # Keeps the same tokens with truncation=True.
            tokenizer.model_max_length = encoder.max_length
            tokenizer.save_pretrained(temporary)
        (temporary / README).write_text(_readme(network, "merged.md.j2", **facts), encoding="utf-8")


@torch.no_grad()
def mean_layer(network: Network) -> Tensor:
    """Return the mean last layer [C, d] for unscaled features, in float64.

    Raises:
        InputError: The mean logits are not a linear function of the features.
    """
    for site in network.sites:
        site.check_fixed()
    if network.plan.format is not None:
        raise InputError(
            f"{method_name(network.record)} chooses between the options of each question, but an "
            "exported last layer has the same classes for every row; use --format peft without "
            "--head to write the adapter"
        )
    network.eval()
    size, generator = network.encoder.num_features, torch.Generator().manual_seed(0)
    rows = torch.randn(4, size, generator=generator).to(network.feature_scale.device)
    expected = network.head.predict(Features(rows)).mean
    eye = Features(torch.eye(size, device=rows.device))
    for weight in (network.head.mean_weight.double(), network.head.predict(eye).mean.mT):
        logits = rows.double() @ weight.mT
        if (logits - expected).abs().max() <= 1e-6 * expected.abs().max().clamp_min(1e-6):
            merged: Tensor = (weight / network.feature_scale.double()).cpu()
            return merged
    raise InputError(
        f"the mean logits of posterior {network.posterior.name!r} are not a linear function of the "
        "features, so they cannot be exported as a linear layer"
    )


@torch.no_grad()
def _merged(network: Network, weight: Tensor) -> Any:
    """Return the classifier of transformers that has this last layer [C, d].

    Raises:
        InputError: There is no such class, or running it shows that it computes something else.
    """
    encoder = network.encoder
    if isinstance(encoder, Encoder):
        return _around(network, encoder, weight)
    whole: Any = copy.deepcopy(encoder.backbone.model)
    if torch.allclose(weight, encoder.weight.double(), rtol=1e-5, atol=1e-7):
        raise InputError(
            f"posterior {network.posterior.name!r} keeps the last layer of the classifier, so its "
            "mean is the classifier itself; calibrate with --posterior temperature or vbll"
        )
    last = whole.get_submodule(encoder.layer)
    if last.bias is not None:  # the weight of the constant feature
        last.bias.copy_(weight[:, -1])
        weight = weight[:, :-1]
    last.weight.copy_(weight)
    return whole


@torch.no_grad()
def _around(network: Network, encoder: Encoder, weight: Tensor) -> Any:
    """Return the architecture's classifier of texts or images around the merged backbone.

    Raises:
        InputError: There is no such class, or running it shows that it computes something else.
    """
    import transformers

    plain, kind = export(encoder.model), encoder.backbone.kind
    if kind == "encoder":
        reason = "an encoder's states are averaged here, but pooled by a layer of its own there"
        raise _no_classifier(network, reason)
    config: Any = copy.deepcopy(plain.config)
    config.id2label = dict(enumerate(network.record.classes))
    config.label2id = {name: index for index, name in config.id2label.items()}
    state = plain.state_dict()
    if kind == "vision":
        config.image_size, _ = size_for(config, encoder.max_length)
        state |= _positions(plain, config.image_size)
    else:
        config.pad_token_id = encoder.backbone.tokenizer.pad_token_id
    make: Any = getattr(transformers, LOADERS[kind]).from_config
    try:
        whole: Any = make(config, dtype=next(plain.parameters()).dtype)
        own = whole.base_model.state_dict()
        whole.base_model.load_state_dict(
            {name: item for name, item in state.items() if "pooler" not in name or name in own}
        )
        last = whole.get_submodule("classifier" if kind == "vision" else "score")
        _set_weight(last, weight, encoder.pooling)
    except (AttributeError, RuntimeError, ValueError) as error:  # no such class, or other shapes
        raise _no_classifier(network, first_line(error)) from None
    if not _agrees(network, encoder, whole.to(encoder.backbone.device).eval()):
        reason = f"{type(whole).__name__} does not read the {pooling_words(encoder)}"
        raise _no_classifier(network, reason)
    return whole


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


def _set_weight(layer: Any, weight: Tensor, pooling: Pooling) -> None:
    """Give a linear layer a weight [C, d]; it may read the class token and the mean over patches.

    Raises:
        AttributeError: The layer is not linear.
        RuntimeError: Its shape is another.
    """
    if layer.in_features == 2 * weight.shape[1]:
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


def pooling_words(encoder: Encoder) -> str:
    """Return which states are the feature."""
    if encoder.backbone.kind == "vision" and encoder.pooling == "mean":
        return "mean over patches"
    return _POOLING[encoder.pooling]


def export_tensors(network: Network, path: str | Path, *, overwrite: bool) -> None:
    """Write the tensors of the mean network to one safetensors file.

    Names are those of the backbone with the prefix `backbone.`, and `head.weight` [C, d] for pooled
    features; the metadata `bayeslora` is JSON with the classes, the pooling and the maximal text
    length.

    Raises:
        InputError: See `mean_layer` and `check_export`.
    """
    record, encoder = network.record, encoder_of(network)
    inputs = directories(encoder.backbone.name)
    check_export(path, "safetensors", overwrite=overwrite, inputs=inputs)
    weight, plain = mean_layer(network), export(encoder.model)
    tensors = {f"backbone.{name}": item for name, item in plain.state_dict().items()}
    tensors["head.weight"] = weight.float()
    # Copies, since a file cannot hold shared tensors.
    copies = {name: item.detach().cpu().clone().contiguous() for name, item in tensors.items()}
    config: Any = encoder.model.config
    note = {
        "format_version": FORMAT_VERSION,
        "classes": list(record.classes),
        "pooling": pooling_words(encoder),
        "max_length": encoder.max_length,
        "template": record.backbone.get("template"),
        **({"tasks": record.tasks} if record.tasks else {}),
        "backbone": record.backbone["name"],
        "model_fingerprint": network.fingerprint,
        "config": json.loads(config.to_json_string()),
    }
    with files.atomic_file(path) as temporary:
        save_file(copies, str(temporary), metadata={"format": "pt", NOTE: json.dumps(note)})


@dataclass(frozen=True)
class PeftExport:
    """Description of a written checkpoint.

    Attributes:
        loader: The class that loads it, such as `peft.AutoPeftModelForFeatureExtraction`.
        notes: Further notes for its users, a sentence each.
    """

    loader: str
    notes: tuple[str, ...]


def write_peft(
    network: Network, directory: str | Path, *, prefix: str, head: bool, overwrite: bool
) -> PeftExport:
    """Write the adapter, and with `head` the mean last layer, to a directory that PEFT loads.

    `task_type` is that of the class that the adapter was fitted in: feature extraction, or sequence
    classification with `head`; None if `prefix` names another class. Paths of this machine are
    useless elsewhere: an embedded backbone is named by its hub id, and a directory by the hub id in
    its configuration. A directory without a hub id is named by its path, with a note.

    Args:
        network: A single network.
        directory: Output directory.
        prefix: Prefix of the layers' names in the model that PEFT will wrap.
        head: Whether to include the mean last layer; `prefix` is then that of the classifier.
        overwrite: Whether an export there may be replaced.

    Raises:
        InputError: There is no adapter; see `check_export` and `export_peft`; with `head`, see
            `mean_layer`, or no sequence classifier computes the same function.
    """
    record, encoder = network.record, encoder_of(network)
    if not network.sites:
        raise InputError(
            f"{method_name(record)} has no low-rank adapter to export as LoRA; use export_merged "
            "or export_safetensors (--format merged, safetensors) to write its backbone and last "
            "layer"
        )
    task = None if prefix else "FEATURE_EXTRACTION"
    loader = "PeftModel" if prefix else "AutoPeftModelForFeatureExtraction"
    last: dict[str, Tensor] = {}
    if head:
        if encoder.backbone.kind == "vision":
            raise InputError(
                "--head (head) writes the last layer of text decoders only; for images use "
                "--format merged (export_merged)"
            )
        last = {"score.weight": mean_layer(network)}
        prefix = f"{_around(network, encoder, last['score.weight']).base_model_prefix}."
        task, loader = "SEQ_CLS", "AutoPeftModelForSequenceClassification"
    name = record.backbone["name"]
    embedded = EMBEDDED_MODELS.get(name)
    base = embedded.hub_id if embedded else str(encoder.model.name_or_path or name)
    folder = Path(base).resolve() if Path(base).is_dir() else None
    if folder is not None:
        base = _origin(folder) or str(folder)
    notes = tuple(_notes(network, base, folder, head=head))
    facts = {
        "base": base,
        "head": head,
        "length": usable_length(encoder.backbone, record.max_length),
        "loader": loader,
        "notes": notes,
        "pooling": pooling_words(encoder),
    }
    with _directory(network, directory, "peft", overwrite=overwrite) as temporary:
        export_peft(network.sites, temporary, base, prefix, last, task_type=task)
        (temporary / README).write_text(_readme(network, "peft.md.j2", **facts), encoding="utf-8")
    return PeftExport(f"peft.{loader}", notes)


def _origin(folder: Path) -> str:
    """Return the hub id in a model directory's configuration, or an empty string."""
    config = files.read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    name = config.get("_name_or_path") if isinstance(config, dict) else None
    return name if isinstance(name, str) and _HUB_ID.fullmatch(name) else ""


def _notes(network: Network, base: str, folder: Path | None, *, head: bool) -> Iterator[str]:
    """Yield what users of a PEFT checkpoint must know."""
    backbone, classes = network.record.backbone, network.record.classes
    if depth := backbone.get("depth"):
        yield (
            f"it is for the first {depth} layers of its base: load it with "
            f"num_hidden_layers={depth}, or its predictions are wrong"
        )
    if head:
        # PEFT's file has no place for the names.
        yield f"num_labels={len(classes)}; its classes are {visible(','.join(classes))}"
    else:
        yield (
            "it outputs the backbone's states, not classes: the last layer is not included "
            "(--head adds that of a decoder)"
        )
    embedded = EMBEDDED_MODELS.get(backbone["name"])
    if embedded and embedded.difference:
        yield (
            f"its base is {base}; the embedded {backbone['name']} is a copy {embedded.difference}, "
            "so outputs differ slightly"
        )
    if folder is not None:
        yield (
            f"its base was read from the directory {visible(str(folder))}: where {base} is missing "
            "or differs, pass a copy of the directory to peft.PeftModel.from_pretrained"
        )
