"""Export a fitted adapter as a PEFT checkpoint, with a note on how to load it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bayeslora.adapters.low_rank import spectrum
from bayeslora.adapters.peft_bridge import export_peft, load_peft
from bayeslora.adapters.site import SiteSpectrum
from bayeslora.backbones.embedded import EMBEDDED_MODELS
from bayeslora.backbones.load import load_backbone
from bayeslora.backbones.peft_classifier import base_name
from bayeslora.backbones.tokens import usable_length
from bayeslora.engine.fitted import export as merged
from bayeslora.engine.fitted.card import method_name
from bayeslora.engine.network import Network
from bayeslora.engine.progress import quiet_transformers
from bayeslora.errors import InputError
from bayeslora.io.files import read_json
from bayeslora.plain_text import visible

NOTE = "README.md"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)

_FEATURES, _CLASSIFIER = "FEATURE_EXTRACTION", "SEQ_CLS"
_LOADERS = {
    _FEATURES: "peft.AutoPeftModelForFeatureExtraction",
    _CLASSIFIER: "peft.AutoPeftModelForSequenceClassification",
    None: "peft.PeftModel",
}


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
    useless elsewhere: an embedded backbone is named by its hub id (our reader finds the short name
    in the metadata of the tensors), and a directory by the hub id in its configuration. A directory
    without a hub id is named by its path, with a note.

    Args:
        network: A single network.
        directory: Output directory.
        prefix: Prefix of the layers' names in the model that PEFT will wrap.
        head: Whether to include the mean last layer; `prefix` is then that of the classifier.
        overwrite: Whether an export there may be replaced.

    Raises:
        InputError: There is no adapter; see `export.check_export`; with `head`, see
            `export.classifier_head`; else see `export_peft`.
    """
    if not network.sites:
        raise InputError(
            f"{method_name(network.record)} has no low-rank adapter to export as LoRA; use "
            "export_merged or export_safetensors (--format merged, safetensors) to write its "
            "backbone and last layer"
        )
    name = network.record.backbone["name"]
    last: dict[str, Tensor] = {}
    if head:
        prefix, last = merged.classifier_head(network)
    task = _CLASSIFIER if head else None if prefix else _FEATURES
    embedded = EMBEDDED_MODELS.get(name)
    base = embedded.hub_id if embedded else str(network.encoder.model.name_or_path or name)
    folder = str(Path(base).resolve()) if Path(base).is_dir() else ""
    base = (_origin(Path(folder)) or folder) if folder else base
    exported = PeftExport(_LOADERS[task], tuple(_notes(network, base, folder, head=head)))
    with merged.open_export(network, directory, "peft", overwrite=overwrite) as temporary:
        export_peft(
            network.sites,
            temporary,
            base,
            prefix,
            last,
            task_type=task,
            embedded=name if embedded else None,
        )
        readme = _readme(network, base, exported, head=head)
        (temporary / NOTE).write_text(readme, encoding="utf-8")
    return exported


def _origin(folder: Path) -> str:
    """Return the hub id in a model directory's configuration, or an empty string."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    name = config.get("_name_or_path") if isinstance(config, dict) else None
    return name if isinstance(name, str) and _HUB_ID.fullmatch(name) else ""


def _notes(network: Network, base: str, folder: str, *, head: bool) -> list[str]:
    name, classes = network.record.backbone["name"], network.record.classes
    depth = network.record.backbone.get("depth")
    notes = []
    if depth:
        notes.append(
            f"it is for the first {depth} layers of its base: load it with "
            f"num_hidden_layers={depth}, or its predictions are wrong"
        )
    if head:
        # PEFT's file has no place for the names.
        notes.append(f"num_labels={len(classes)}; its classes are {visible(','.join(classes))}")
    else:
        notes.append(
            "it outputs the backbone's states, not classes: the last layer is not included "
            "(--head adds that of a decoder)"
        )
    if name in EMBEDDED_MODELS and EMBEDDED_MODELS[name].difference:
        notes.append(
            f"its base is {base}; the embedded {name} is a copy "
            f"{EMBEDDED_MODELS[name].difference}, so outputs differ slightly"
        )
    if folder and folder == base:
        notes.append(
            f"its base is the directory {visible(folder)} on this machine; elsewhere, load a copy "
            "of it and pass it to peft.PeftModel.from_pretrained"
        )
    elif folder:
        notes.append(
            f"its base is {base}, named in the configuration of the directory {visible(folder)}; "
            "if the weights there were changed, pass a copy of the directory to "
            "peft.PeftModel.from_pretrained"
        )
    return notes


def _readme(network: Network, base: str, exported: PeftExport, *, head: bool) -> str:
    record, encoder = network.record, merged.encoder_of(network)
    module, _, loader = exported.loader.rpartition(".")
    depth, template = (record.backbone.get(name) for name in ("depth", "template"))
    options = f", num_labels={len(record.classes)}" if head else ""
    options += f", num_hidden_layers={depth}" if depth else ""
    load = f'model = {loader}.from_pretrained("PATH OF THIS DIRECTORY"{options})'
    if loader == "PeftModel":
        load = f'model = {loader}.from_pretrained(base, "PATH OF THIS DIRECTORY")  # base: {base!r}'
    pooling = merged.pooling_words(encoder)
    length = usable_length(encoder.backbone, record.max_length)
    facts = [
        f"- Base model: `{base}`" + (f", its first {depth} layers" if depth else ""),
        f"- Made from: {method_name(network.record)}, fingerprint `{network.fingerprint}`",
        f"- Feature of a text: {pooling}; texts are truncated to {length} tokens",
        *([f"- Texts are inserted into the template `{visible(template)}`"] if template else []),
        *(f"- {note[0].upper()}{note[1:]}" for note in exported.notes),
    ]
    listed = "\n".join(facts)
    return (
        f"# LoRA adapter for PEFT\n\n```python\nfrom {module} import {loader}\n\n{load}\n```\n\n"
        f"{listed}\n\nUncertainty is not exported: this is the mean network.\n"
        f"{merged.tasks_words(network) if head else ''}"
    )


def peft_spectrum(
    directory: str | Path, *, backbone: str | None = None, **loading: Any
) -> list[SiteSpectrum]:
    """Return the spectrum of every layer that a checkpoint adapts.

    Args:
        directory: PEFT checkpoint with a LoRA that a plain site can reproduce.
        backbone: Its base model; None for the one named in the checkpoint.
        loading: Options of `load_backbone`.

    Raises:
        InputError: The checkpoint cannot be read, or its base is not named or cannot be loaded.
        MissingAssetError: peft is not installed.
    """
    with quiet_transformers():
        model = load_backbone(backbone or base_name(str(directory)), **loading).model
    return [spectrum(site) for site in load_peft(model, directory)]
