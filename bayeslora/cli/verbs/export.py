"""`bayeslora export`: write the adapter for PEFT, or the network with the adapter merged."""

from __future__ import annotations

from typing import Any

from bayeslora.cli import arguments
from bayeslora.cli.arguments import LOADED, PLACE, argument, given, option
from bayeslora.cli.output import hint, print_json, show

EXPORT = f"{arguments.CLASSIFIER}.export_peft"


class Options(arguments.Overwriting):
    """Arguments of the verb."""

    model: Any = argument("MODEL", "model")
    """a model directory written by `fit`"""
    out: str = option("PATH", required=True)
    """directory or .safetensors file to write"""
    format: Any = option("peft|merged|safetensors", choices=("peft", "merged", "safetensors"))
    """peft: the adapter as a plain LoRA (default); merged: a transformers classifier (decoders and
    vision models; default of a calibrated checkpoint); safetensors: one file of tensors for
    serving. merged and safetensors contain the mean network, without uncertainty"""
    prefix: str | None = option("TEXT", EXPORT)
    head: bool = option(of=EXPORT)
    member: Any = option(of=EXPORT)
    backbone: str | None = option(of=LOADED, further=True)
    device: str | None = option(of=PLACE, further=True)
    trust_remote_code: bool = option(of=PLACE, further=True)


def run(args: Options) -> None:
    """Export the model, then print the path and how to load it."""
    from bayeslora.backbones.embedded import directories
    from bayeslora.checkpoint import FOREIGN, read_record
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.engine.fitted.export import LOADERS, check_export

    record = read_record(args.model)
    without_adapter = record.backbone["kind"] == FOREIGN
    format: Any = args.format or ("merged" if without_adapter else "peft")
    inputs = [args.model, *directories(args.backbone or record.backbone["name"])]
    check_export(args.out, format, overwrite=bool(args.overwrite), inputs=inputs)
    loading = given(args, "backbone", "device", "trust_remote_code")
    clf = BayesianClassifier.from_pretrained(args.model, progress=False, **loading)
    which = {"member": args.member, "overwrite": bool(args.overwrite)}
    if format == "peft":
        export = clf.export_peft(args.out, prefix=args.prefix or "", head=bool(args.head), **which)
        hint(f"load it with {export.loader}: {'; '.join(export.notes)}")
    elif format == "merged":
        clf.export_merged(args.out, **which)
        loader = LOADERS["vision" if record.columns.get("image") else "decoder"]
        hint(f"load it with transformers.{loader}")
    else:
        clf.export_safetensors(args.out, **which)
    if args.json:
        print_json({"path": str(args.out), "format": format})
    else:
        show(args.out)
