"""`bayeslora export`: write the adapter for PEFT, or the network with the adapter merged."""

from __future__ import annotations

import argparse

from bayeslora.cli.arguments import (
    CLASSIFIER,
    LOADING,
    add_loading,
    add_out,
    add_parameters,
    given,
    refuse,
)
from bayeslora.cli.output import hint, print_json, show
from bayeslora.cli.parser import VerbParser
from bayeslora.errors import InputError

FORMATS = ("peft", "merged", "safetensors")


def add_arguments(parser: VerbParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model directory written by `fit`")
    add_out(parser, "PATH directory or .safetensors file to write")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="peft",
        help="peft: the adapter as a plain LoRA (default); merged: a transformers classifier "
        "(decoders and vision models); safetensors: one file of tensors for serving. merged "
        "and safetensors contain the mean network, without uncertainty",
    )
    add_parameters(parser, f"{CLASSIFIER}.export_peft", "prefix TEXT", "head", "member")
    add_loading(parser.further)


def run(args: argparse.Namespace) -> None:
    """Export the model, then print the path and how to load it."""
    if args.format != "peft":
        refuse(args, ["prefix", "head"], "requires --format peft")
    if args.head and args.prefix is not None:
        raise InputError("--head sets --prefix itself; use only one of them")

    from bayeslora.backbones.embedded import directories
    from bayeslora.checkpoint import read_record
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.engine.fitted.export import LOADERS, check_export

    record = read_record(args.model)
    backbone = args.backbone or record.backbone["name"]
    inputs = [args.model, *directories(backbone)]
    check_export(args.out, args.format, overwrite=bool(args.overwrite), inputs=inputs)
    loading = given(args, *LOADING)
    clf = BayesianClassifier.from_pretrained(args.model, progress=False, **loading)
    which = {"member": args.member, "overwrite": bool(args.overwrite)}
    if args.format == "peft":
        export = clf.export_peft(args.out, prefix=args.prefix or "", head=bool(args.head), **which)
        hint(f"load it with {export.loader}: {'; '.join(export.notes)}")
    elif args.format == "merged":
        clf.export_merged(args.out, **which)
        loader = LOADERS["vision" if record.columns.get("image") else "decoder"]
        hint(f"load it with transformers.{loader}")
    else:
        clf.export_safetensors(args.out, **which)
    if args.json:
        print_json({"path": str(args.out), "format": args.format})
    else:
        show(args.out)
