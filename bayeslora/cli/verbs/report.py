"""`bayeslora report`: a self-contained page with figures, tables and findings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bayeslora.cli.arguments import (
    PART_OPTIONS,
    SCORING_OPTIONS,
    add_apart,
    add_examples,
    add_options,
    add_out,
    add_parts,
    add_scored,
    add_scoring,
    given,
    refuse,
)
from bayeslora.cli.data import find
from bayeslora.cli.output import print_json, show
from bayeslora.cli.parser import VerbParser
from bayeslora.errors import InputError, unknown_choice
from bayeslora.io.files import read_json, refuse_inputs

if TYPE_CHECKING:
    from bayeslora.predictions.collection import Method

_OF_CARD = ("card_method", "card_model", "card_dataset")


def add_arguments(parser: VerbParser) -> None:
    """Add the verb's own arguments."""
    add_scored(parser)
    add_out(parser, "DIR output directory")
    parser.add_argument(
        "--shifted",
        nargs="+",
        metavar="FILE",
        help="predictions on corrupted copies of the same examples (`bayeslora predict "
        "--corrupt`): show calibration against severity (default: those in run directories)",
    )
    add_parts(parser)
    add_scoring(parser)
    add_apart(parser)
    page = parser.add_argument_group("the page")
    add_examples(page)
    page.add_argument(
        "--figures",
        nargs="+",
        metavar="FORMAT",
        help="formats of the files in figures/: svg, png, pdf (default: svg)",
    )
    add_options(
        parser.add_argument_group("model card"),
        {
            "--model-card FILE": "add the reliability section and the metadata to this Hugging "
            "Face model card",
            "--card-method NAME": "method to describe in the card, if there are several",
            "--card-dataset NAME": "name of the data set in the card",
        },
    )
    add_options(
        parser.further,
        {
            "--card-model NAME": "model name in the card's metadata (default: the first name in "
            "the card, else the name of its directory)"
        },
    )


def run(args: argparse.Namespace) -> None:
    """Write the report and print the path of its page."""
    from bayeslora.reporting.model_card import read_card, scores_of_report, update_model_card
    from bayeslora.reporting.report import report

    _refuse_idle(args)
    scored = find(args)
    about = ""
    if args.model_card is not None:
        read_card(args.model_card)
        about = _card_method(args.card_method, scored.methods())
    card = [] if args.model_card is None else [args.model_card]
    refuse_inputs(args.out, *card)
    page = report(
        scored.files,
        ood=scored.ood,
        shifted=[*scored.shifted, *map(Path, args.shifted or ())],
        out=args.out,
        overwrite=bool(args.overwrite),
        provenance={"command": args.command},
        reading=scored.reading,
        **given(args, "over_seeds", *PART_OPTIONS, *SCORING_OPTIONS),
        **given(args, "title", "examples", "example_column", "figures"),
    )
    if args.model_card is not None:
        named = {"model": args.card_model, "dataset": args.card_dataset}
        metadata = {key: value for key, value in named.items() if value is not None}
        update_model_card(Path(args.model_card), scores_of_report(page)[about], **metadata)
    _show(page, card, as_json=args.json)


def _show(page: Path, card: Sequence[str], *, as_json: bool) -> None:
    """Print the path of the page; JSON also has all files, and the scores as in `evaluate`."""
    from bayeslora.reporting.report import SCORES

    if not as_json:
        show(page)
        return
    written = read_json(page.with_name(SCORES))
    files = [str(page.parent / name) for name in [*written["files"], SCORES]]
    print_json({"page": str(page), "files": [*files, *card], "methods": written["methods"]})


def _refuse_idle(args: argparse.Namespace) -> None:
    """Raise InputError for an option that has no effect beside the others."""
    if args.example_column is not None and args.examples is False:
        raise InputError("--example-column has no effect with --no-examples")
    if args.model_card is None:
        refuse(args, _OF_CARD, "has no effect without --model-card")


def _card_method(name: str | None, methods: Sequence[Method]) -> str:
    """Return the label of the method described by the card."""
    labels = [method.label for method in methods]
    if name is None and len(labels) > 1:
        known = ", ".join(labels)
        raise InputError(f"--model-card: choose a method with --card-method, one of {known}")
    if name is None or name in labels:
        return name or labels[0]
    same = [method.label for method in methods if method.name == name]
    if len(same) == 1:
        return same[0]
    raise unknown_choice("method in --card-method", name, labels)
