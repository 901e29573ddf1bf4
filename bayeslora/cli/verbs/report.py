"""`bayeslora report`: a self-contained page with figures, tables and findings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bayeslora.cli.arguments import (
    PART_OPTIONS,
    add_apart,
    add_examples,
    add_json,
    add_options,
    add_overwrite,
    add_parts,
    add_resampling,
    add_scored,
    given,
    refuse,
)
from bayeslora.cli.messages import show
from bayeslora.cli.outputs import print_json
from bayeslora.cli.runs import find
from bayeslora.errors import InputError, unknown_choice
from bayeslora.io.files import read_json, refuse_inputs

if TYPE_CHECKING:
    from bayeslora.predictions.collection import Method
    from bayeslora.reporting.run_record import Provenance


SUMMARY = "write a report on predictions: one HTML file that opens offline"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    add_scored(parser)
    parser.add_argument(
        "--shifted",
        nargs="+",
        default=[],
        metavar="FILE",
        help="predictions on corrupted copies of the same examples (`bayeslora predict "
        "--corrupt`): show calibration against severity (default: those in run directories)",
    )
    add_parts(parser)
    add_resampling(parser)
    add_apart(parser)
    _add_page(parser)
    add_overwrite(parser)
    _add_card(parser)
    add_json(parser)


def _add_page(parser: argparse.ArgumentParser) -> None:
    """Add the options for the page's directory and content."""
    parser.add_argument("--out", required=True, metavar="DIR", help="output directory")
    parser.add_argument(
        "--title",
        metavar="TEXT",
        help="title of the page (default: the names of one or two methods, or the number of "
        "methods)",
    )
    add_examples(parser)
    parser.add_argument(
        "--interactive",
        action="store_const",
        const=True,
        help="also write view.html, to filter and sort all examples in a browser",
    )
    parser.add_argument(
        "--figures",
        nargs="+",
        metavar="FORMAT",
        help="formats of the files in figures/: svg, png, pdf (default: svg)",
    )
    parser.add_argument(
        "--per-class",
        nargs="*",
        metavar="CLASS",
        help="also plot the reliability of each class against the rest, for all classes or the "
        "listed ones",
    )


def _add_card(parser: argparse.ArgumentParser) -> None:
    """Add the options for the model card to update with the scores."""
    card = parser.add_argument_group("model card")
    add_options(
        card,
        {
            "--model-card FILE": "add the reliability section and the metadata to this Hugging "
            "Face model card",
            "--card-method NAME": "method to describe in the card, if there are several",
            "--card-model NAME": "model name in the metadata (default: the first name in the "
            "card, else the name of its directory)",
            "--card-dataset NAME": "name of the data set in the card",
        },
    )


def run(args: argparse.Namespace) -> None:
    """Write the report and print the path of its page."""
    from bayeslora.reporting.model_card import read_card, scores_of_report, update_model_card
    from bayeslora.reporting.report import report

    _refuse_idle(args)
    scored = find(args, args.ood)
    about = ""
    if args.model_card is not None:
        read_card(args.model_card)
        about = _card_method(args.card_method, scored.methods())
    card = [] if args.model_card is None else [args.model_card]
    refuse_inputs(args.out, *card)
    provenance: Provenance = {"command": args.command}
    look = given(args, "examples", "example_column", "figures", "interactive")
    options = (
        given(args, "title", "ood_score", "num_bins", "seed", "over_seeds", *PART_OPTIONS) | look
    )
    if args.per_class is not None:
        options["per_class"] = args.per_class or True
    page = report(
        scored.files,
        ood=scored.ood,
        shifted=[*scored.shifted, *map(Path, args.shifted)],
        out=args.out,
        overwrite=bool(args.overwrite),
        provenance=provenance,
        reading=scored.reading,
        **options,
    )
    if args.model_card is not None:
        named = {"model": args.card_model, "dataset": args.card_dataset}
        metadata = {key: value for key, value in named.items() if value is not None}
        update_model_card(Path(args.model_card), scores_of_report(page)[about], **metadata)
    _show(page, card, interactive=bool(args.interactive), as_json=args.json)


def _show(page: Path, card: Sequence[str], *, interactive: bool, as_json: bool) -> None:
    """Print the paths of the pages; JSON also has all files, and the scores as in `evaluate`."""
    from bayeslora.reporting.report import SCORES, VIEW

    if not as_json:
        show(page)
        if interactive:
            show(page.with_name(VIEW))
        return
    written = read_json(page.with_name(SCORES))
    files = [str(page.parent / name) for name in [*written["files"], SCORES]]
    print_json({"page": str(page), "files": [*files, *card], "methods": written["methods"]})


def _refuse_idle(args: argparse.Namespace) -> None:
    """Raise InputError for an option that has no effect beside the others."""
    if args.example_column is not None and args.examples is False:
        raise InputError("--example-column has no effect with --no-examples")
    if args.model_card is None:
        of_card = ("card_method", "card_model", "card_dataset")
        refuse(args, of_card, "has no effect without --model-card")


def _card_method(name: str | None, methods: Sequence[Method]) -> str:
    """Return the label of the method described by the card."""
    labels = [method.label for method in methods]
    if name is None:
        if len(labels) > 1:
            known = ", ".join(labels)
            raise InputError(f"--model-card: choose a method with --card-method, one of {known}")
        return labels[0]
    if name in labels:
        return name
    same = [method.label for method in methods if method.name == name]
    if len(same) == 1:
        return same[0]
    raise unknown_choice("method in --card-method", name, labels)
