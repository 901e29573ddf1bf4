"""`bayeslora view`: browse predictions on a local page."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bayeslora.cli.arguments import (
    add_examples,
    add_options,
    add_overwrite,
    add_predictions,
    add_reading,
    given,
)
from bayeslora.cli.messages import hint, show
from bayeslora.cli.runs import find
from bayeslora.errors import InputError
from bayeslora.files import check_writable, refuse_existing, refuse_inputs

SUMMARY = "browse predictions: filter, sort and search them in the browser"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    add_predictions(parser)
    add_reading(parser, of_data=False)
    add_options(
        parser,
        {
            "--out FILE": "output file, .html (default: a temporary file)",
            "--title TEXT": "title of the page",
        },
    )
    add_examples(parser)
    parser.add_argument(
        "--no-browser", action="store_true", help="only write the page and print its path"
    )
    add_overwrite(parser)


def run(args: argparse.Namespace) -> None:
    """Write the page, print its path, and open it."""
    from bayeslora.reporting.viewer import view

    scored = find(args, args.ood)
    if args.out is None:
        if args.overwrite:
            raise InputError("--overwrite has no effect without --out")
        out = Path(tempfile.mkdtemp(prefix="bayeslora-view-")) / "view.html"
    else:
        out = _checked(Path(args.out), args, scored.paths)
    page = view(
        scored.files,
        ood=scored.ood,
        out=out,
        reading=scored.reading,
        **given(args, "title", "examples", "example_column"),
    )
    show(page)
    if not args.no_browser:
        _open(page)


def _checked(out: Path, args: argparse.Namespace, inputs: list[Path]) -> Path:
    if out.suffix != ".html":
        raise InputError(f"--out must end in .html, got {out}")
    refuse_inputs(out, *inputs)
    refuse_existing(out, overwrite=args.overwrite)
    check_writable(out)
    return out


def _open(page: Path) -> None:
    """Open the page in the browser, or print a hint if there is none."""
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        hint("no browser found; open the page manually")
