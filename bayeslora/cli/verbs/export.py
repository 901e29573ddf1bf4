"""`bayeslora export`: the adapter of a model as a LoRA checkpoint that PEFT loads."""

from __future__ import annotations

import argparse

from bayeslora.cli.arguments import add_loading, add_moved_backbone, add_overwrite, given
from bayeslora.cli.outputs import check_new_export

SUMMARY = "write a model's adapter as a LoRA checkpoint that PEFT loads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model directory that `fit` wrote")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the checkpoint goes")
    parser.add_argument(
        "--prefix",
        default="",
        metavar="TEXT",
        help="before the layers' names in the model that PEFT will wrap: empty for AutoModel, "
        "`model.` for AutoModelForCausalLM of most decoders",
    )
    add_moved_backbone(parser)
    add_loading(parser)
    add_overwrite(parser)


def run(args: argparse.Namespace) -> None:
    """Export the adapter and print where it is."""
    check_new_export(args.out, overwrite=bool(args.overwrite))

    from bayeslora.classifier import BayesianClassifier

    loading = given(args, "backbone", "device", "trust_remote_code")
    clf = BayesianClassifier.from_pretrained(args.model, progress=False, **loading)
    clf.export_peft(args.out, prefix=args.prefix, overwrite=bool(args.overwrite))
    print(args.out)
