"""`bayeslora export`: write the adapter for PEFT, or the network with the adapter merged."""

from __future__ import annotations

from typing import Any

from bayeslora.cli import arguments
from bayeslora.cli.arguments import LOADED, PLACE, argument, given, option
from bayeslora.cli.output import hint, print_json, show


class Options(arguments.Overwriting):
    """Arguments of the verb."""

    model: Any = argument("MODEL", "model")
    """a model directory written by `fit`"""
    out: str = option("PATH", required=True)
    """directory to write"""
    format: Any = option("peft|merged", choices=("peft", "merged"))
    """peft: the adapter as a plain LoRA (default); merged: a transformers classifier (of a decoder,
    or a calibrated checkpoint, whose default it is). Both are the mean network, without
    uncertainty"""
    backbone: str | None = option(of=LOADED, further=True)
    device: str | None = option(of=PLACE, further=True)
    trust_remote_code: bool = option(of=PLACE, further=True)


def run(args: Options) -> None:
    """Export the model, then print the path and how to load it."""
    from bayeslora.backbones.embedded import directories
    from bayeslora.checkpoint import FOREIGN, read_record
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.engine.export import check_export

    record = read_record(args.model)
    without_adapter = record.backbone["kind"] == FOREIGN
    format: Any = args.format or ("merged" if without_adapter else "peft")
    inputs = [args.model, *directories(args.backbone or record.backbone["name"])]
    overwrite = bool(args.overwrite)
    check_export(args.out, format, overwrite=overwrite, inputs=inputs)
    loading = given(args, "backbone", "device", "trust_remote_code")
    clf = BayesianClassifier.from_pretrained(args.model, progress=False, **loading)
    if format == "peft":
        clf.export_peft(args.out, overwrite=overwrite)
        hint("load it with peft.AutoPeftModelForFeatureExtraction")
    else:
        clf.export_merged(args.out, overwrite=overwrite)
        hint("load it with transformers.AutoModelForSequenceClassification")
    if args.json:
        print_json({"path": str(args.out), "format": format})
    else:
        show(args.out)
