"""`bayeslora view`: browse predictions on a local page."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bayeslora.cli.arguments import (
    add_examples,
    add_options,
    add_overwrite,
    add_scored,
    given,
    refuse,
)
from bayeslora.cli.data import find
from bayeslora.cli.output import check_new_file, hint, print_json, show
from bayeslora.cli.parser import VerbParser


def add_arguments(parser: VerbParser) -> None:
    """Add the verb's own arguments."""
    add_scored(parser)
    add_options(
        parser,
        {
            "--out FILE": "output file, .html (default: a temporary file)",
            "--no-browser": "only write the page and print its path",
        },
    )
    add_overwrite(parser)
    add_examples(parser)


def run(args: argparse.Namespace) -> None:
    """Write the page, print its path, and open it."""
    import webbrowser

    from bayeslora.reporting.viewer import view

    scored = find(args)
    out = args.out
    if out is None:
        refuse(args, ["overwrite"], "has no effect without --out")
        out = Path(tempfile.mkdtemp(prefix="bayeslora-view-")) / "view.html"
    else:
        check_new_file(out, overwrite=args.overwrite, inputs=scored.paths, ending=".html")
    page = view(
        scored.files,
        ood=scored.ood,
        out=out,
        reading=scored.reading,
        **given(args, "title", "examples", "example_column"),
    )
    if args.json:
        print_json({"page": str(page)})
    else:
        show(page)
    if not args.no_browser and not webbrowser.open(page.resolve().as_uri()):
        hint("no browser found; open the page manually")
