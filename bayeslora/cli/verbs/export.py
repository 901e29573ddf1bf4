"""`bayeslora export`: write the adapter for PEFT, or the network with the adapter merged."""

from __future__ import annotations

import argparse

from bayeslora.cli.arguments import LOADING, add_loading, add_moved_backbone, add_overwrite, given
from bayeslora.cli.messages import hint, show
from bayeslora.errors import InputError

SUMMARY = "write a model's adapter for PEFT, or its network with the adapter merged"

FORMATS = ("peft", "merged", "safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model directory written by `fit`")
    parser.add_argument(
        "--out", required=True, metavar="PATH", help="directory or .safetensors file to write"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="peft",
        help="peft: the adapter as a plain LoRA (default); merged: a transformers classifier "
        "(decoders and vision models); safetensors: one file of tensors for serving. merged "
        "and safetensors contain the mean network, without uncertainty",
    )
    parser.add_argument(
        "--prefix",
        metavar="TEXT",
        help="with peft: prefix of the layer names in the model that PEFT will wrap; empty for "
        "AutoModel, `model.` for AutoModelForCausalLM of most decoders",
    )
    parser.add_argument(
        "--head",
        action="store_true",
        help="with peft: also write the mean last layer, for AutoModelForSequenceClassification "
        "of decoders",
    )
    parser.add_argument(
        "--member",
        type=int,
        metavar="N",
        help="for an ensemble: number of the network to write, from 1",
    )
    add_moved_backbone(parser)
    add_loading(parser)
    add_overwrite(parser)


def run(args: argparse.Namespace) -> None:
    """Export the model, then print the path and how to load it."""
    if args.prefix is not None and args.format != "peft":
        raise InputError("--prefix, the prefix of layer names for PEFT, requires --format peft")
    if args.head and (args.format != "peft" or args.prefix is not None):
        raise InputError(
            "--head requires --format peft, and cannot be combined with --prefix, which it sets "
            "itself"
        )

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
    show(args.out)
