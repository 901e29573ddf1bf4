"""`bayeslora view`: browse predictions on a local page."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bayeslora.cli import arguments
from bayeslora.cli.arguments import given, option
from bayeslora.cli.data import find
from bayeslora.cli.output import hint, print_json, show
from bayeslora.io import refuse_existing, refuse_inputs


class Options(arguments.Scored, arguments.Page, arguments.Overwriting):
    """Arguments of the verb."""

    out: str | None = option("FILE")
    """output file, .html (default: a temporary file)"""
    no_browser: bool = option()
    """only write the page and print its path"""


def run(args: Options) -> None:
    """Write the page, print its path, and open it."""
    import webbrowser

    from bayeslora.reporting.viewer import view

    scored = find(args)
    if args.out is None:
        args.out = str(Path(tempfile.mkdtemp(prefix="bayeslora-view-")) / "view.html")
    else:
        refuse_inputs(args.out, *args.files)
        refuse_existing(args.out, overwrite=args.overwrite)
    look = given(args, "title", "examples", "example_column")
    page = view(scored.items, ood=scored.ood, out=args.out, reading=scored.reading, **look)
    if args.json:
        print_json({"page": str(page)})
    else:
        show(page)
    if not args.no_browser and not webbrowser.open(page.resolve().as_uri()):
        hint("no browser found; open the page manually")
