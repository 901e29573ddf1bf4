"""`bayeslora report`: a self-contained page with figures, tables and findings."""

from __future__ import annotations

from pathlib import Path

from bayeslora.cli import arguments
from bayeslora.cli.arguments import PART_OPTIONS, SCORING_OPTIONS, given, option
from bayeslora.cli.data import find
from bayeslora.cli.output import print_json, show
from bayeslora.errors import InputError
from bayeslora.io import read_json, refuse_inputs


class Options(arguments.Evaluated, arguments.Apart, arguments.Page, arguments.Overwriting):
    """Arguments of the verb."""

    out: str = option("DIR", required=True)
    """output directory"""
    shifted: list[str] | None = option("FILE", nargs="+")
    """predictions on corrupted copies of the same examples (`bayeslora predict --corrupt`): show
    calibration against severity"""
    figures: list[str] | None = option("FORMAT", nargs="+")
    """formats of the files in figures/: svg, png, pdf (default: svg)"""
    model_card: str | None = option("FILE")
    """add the reliability section and the metadata to this Hugging Face model card"""
    card_dataset: str | None = option("NAME")
    """name of the data set in the card"""


def run(args: Options) -> None:
    """Write the report and print the path of its page."""
    from bayeslora.reporting.model_card import read_card, update_model_card
    from bayeslora.reporting.report import SCORES, report

    scored = find(args)
    if args.model_card is not None:
        refuse_inputs(args.out, args.model_card)
        read_card(args.model_card)
        if len(scored.items) > 1:
            raise InputError("--model-card describes one method; pass its predictions alone")
    look = given(args, "title", "examples", "example_column", "figures")
    page = report(
        scored.items,
        ood=scored.ood,
        shifted=[*map(Path, args.shifted or ())],
        out=args.out,
        overwrite=bool(args.overwrite),
        provenance={"command": args.command},
        reading=scored.reading,
        **given(args, "over_seeds", *PART_OPTIONS, *SCORING_OPTIONS),
        **look,
    )
    if args.model_card is not None:
        dataset = {} if args.card_dataset is None else {"dataset": args.card_dataset}
        update_model_card(args.model_card, page.scores[0], **dataset)
    if args.json:
        written = read_json(page.with_name(SCORES))
        files = [str(page.parent / name) for name in [*written["files"], SCORES]]
        files += filter(None, [args.model_card])
        print_json({"page": str(page), "files": files, "methods": written["methods"]})
        return
    show(page)
