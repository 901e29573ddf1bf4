"""Export a fitted network: its adapter for PEFT, or a merged model for transformers.

The mean network is written. A decoder's last layer becomes the `score` layer of the architecture's
sequence classifier, which reads the same position. None is written for other backbones: the
classifiers of transformers do not read the states that are read here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bayeslora import io as files
from bayeslora._version import __version__
from bayeslora.adapters.inject import export
from bayeslora.adapters.peft_bridge import export_peft
from bayeslora.backbones.embedded import EMBEDDED_MODELS, directories
from bayeslora.backbones.encoder import Encoder
from bayeslora.backbones.tokens import usable_length
from bayeslora.engine.card import method_name, rendered
from bayeslora.engine.network import Network
from bayeslora.engine.progress import quiet_transformers
from bayeslora.errors import InputError, first_line
from bayeslora.io import Layout, atomic_directory, listed_files, refuse_target
from bayeslora.posteriors.types import Features

ExportKind = Literal["peft", "merged"]

FORMAT_VERSION = 1
MANIFEST = "bayeslora-export.json"
README = "README.md"

EXPORTS = {"peft": Layout(MANIFEST), "merged": Layout(MANIFEST)}
"""Directories of exports, by format."""

# Relative to the largest logit: rounding is far below, another function far above.
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


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
    files.refuse_inputs(path, *inputs)
    refuse_target(path, EXPORTS[kind], overwrite=overwrite)
    files.check_writable(path)


@contextmanager
def _directory(
    network: Network, directory: str | Path, kind: ExportKind, *, overwrite: bool, **facts: Any
) -> Iterator[Path]:
    """Yield a directory that replaces `directory`; add its README and marker at the end.

    Raises:
        InputError: As `check_export`, or the network is an ensemble.
    """
    record = network.record
    if len(network.members) > 1:
        raise InputError(
            f"{method_name(record)} has {len(network.members)} networks, and an export has one",
            code="several-networks",
        )
    files.refuse_inputs(directory, *directories(network.encoder.backbone.name))
    with (
        atomic_directory(directory, EXPORTS[kind], overwrite=overwrite) as temporary,
        quiet_transformers(),
    ):
        yield temporary
        readme = rendered(
            f"{kind}.md.j2",
            fingerprint=network.fingerprint,
            frame=record.backbone.get("template"),
            method=method_name(record),
            record=record,
            **facts,
        )
        (temporary / README).write_text(readme.rstrip() + "\n", encoding="utf-8")
        about = {"format_version": FORMAT_VERSION, "bayeslora": __version__, "format": kind}
        files.write_json(temporary / MANIFEST, {**about, "files": listed_files(temporary)})


def export_merged(network: Network, directory: str | Path, *, overwrite: bool) -> None:
    """Write the mean network for `transformers.AutoModelForSequenceClassification`.

    Args:
        network: A single adapted network.
        directory: Output directory.
        overwrite: Whether an export there may be replaced.

    Raises:
        InputError: See `mean_layer` and `check_export`; or no such classifier computes the same
            function.
    """
    encoder = network.encoder
    length = encoder.max_length
    with _directory(network, directory, "merged", overwrite=overwrite, length=length) as temporary:
        _merged(network, mean_layer(network)).save_pretrained(temporary)
        tokenizer = copy.deepcopy(encoder.backbone.tokenizer)
        # Keeps the same tokens with truncation=True.
        tokenizer.model_max_length = length
        tokenizer.save_pretrained(temporary)


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
            "exported last layer has the same classes for every row; use --format peft"
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
    last = whole.get_submodule(encoder.layer)
    if last.bias is not None:  # the weight of the constant feature
        last.bias.copy_(weight[:, -1])
        weight = weight[:, :-1]
    last.weight.copy_(weight)
    return whole


def _around(network: Network, encoder: Encoder, weight: Tensor) -> Any:
    """Return the architecture's sequence classifier around the merged backbone.

    Raises:
        InputError: There is no such class, or running it shows that it computes something else.
    """
    from transformers import AutoModelForSequenceClassification

    plain, kind = export(encoder.model), encoder.backbone.kind
    if kind != "decoder":
        raise _no_classifier(network, f"the backbone is of the kind {kind!r}, not a decoder")
    config: Any = copy.deepcopy(plain.config)
    config.id2label = dict(enumerate(network.record.classes))
    config.label2id = {name: index for index, name in config.id2label.items()}
    config.pad_token_id = encoder.backbone.tokenizer.pad_token_id
    make: Any = AutoModelForSequenceClassification.from_config
    try:
        whole: Any = make(config, dtype=next(plain.parameters()).dtype)
        whole.base_model.load_state_dict(plain.state_dict())
        whole.score.weight.copy_(weight)
    except (AttributeError, RuntimeError, ValueError) as error:  # no such class, or other shapes
        raise _no_classifier(network, first_line(error)) from None
    if not _agrees(network, encoder, whole.to(encoder.backbone.device).eval()):
        raise _no_classifier(network, f"{type(whole).__name__} reads another state")
    return whole


def _no_classifier(network: Network, reason: str) -> InputError:
    instead = "; use --format peft (export_peft) to write the adapter" if network.sites else ""
    return InputError(
        f"no classifier of transformers computes the same as {method_name(network.record)} "
        f"({reason}){instead}"
    )


def _agrees(network: Network, encoder: Encoder, whole: Any) -> bool:
    """Return whether a classifier's logits equal the mean network's on two texts."""
    batch = encoder.probe().collate([0, 1])
    expected = network.head.predict(network(batch)).mean.cpu()
    logits = whole(**{name: item.to(whole.device) for name, item in batch.items()}).logits
    tolerance = _TOLERANCES.get(whole.dtype, 5e-2)
    return bool((logits.double().cpu() - expected).abs().max() <= tolerance * expected.abs().max())


def write_peft(network: Network, directory: str | Path, *, overwrite: bool) -> None:
    """Write the adapter to a directory that `peft.AutoPeftModelForFeatureExtraction` loads.

    An embedded backbone is named by its hub id; our reader finds the short name in the metadata of
    the tensors.

    Args:
        network: A single network.
        directory: Output directory.
        overwrite: Whether an export there may be replaced.

    Raises:
        InputError: There is no adapter; see `check_export` and `export_peft`.
    """
    record, encoder = network.record, network.encoder
    if not network.sites or not isinstance(encoder, Encoder):
        raise InputError(f"{method_name(record)} has no low-rank adapter to export as LoRA")
    name = record.backbone["name"]
    embedded = EMBEDDED_MODELS.get(name)
    base = embedded.hub_id if embedded else str(encoder.model.name_or_path or name)
    facts = {
        "base": base,
        "difference": embedded.difference if embedded else None,
        "length": usable_length(encoder.backbone, record.max_length),
        "pooling": encoder.pooling,
    }
    with _directory(network, directory, "peft", overwrite=overwrite, **facts) as temporary:
        export_peft(network.sites, temporary, base)
