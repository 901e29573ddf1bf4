"""`bayeslora export`: the adapter of a model as a LoRA checkpoint that PEFT loads."""

from __future__ import annotations

import argparse

from bayeslora.cli.arguments import add_loading, add_overwrite
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
    add_loading(parser)
    add_overwrite(parser)


def run(args: argparse.Namespace) -> None:
    """Export the adapter and print where it is."""
    check_new_export(args.out, overwrite=bool(args.overwrite))

    from bayeslora.classifier import BayesianClassifier

    clf = BayesianClassifier.from_pretrained(
        args.model,
        device=args.device,
        trust_remote_code=bool(args.trust_remote_code),
        progress=False,
    )
    clf.export_peft(args.out, prefix=args.prefix, overwrite=bool(args.overwrite))
    print(args.out)
