"""`bayeslora cache`: list or clear the files cached between runs."""

from __future__ import annotations

import argparse

from bayeslora.cli.arguments import add_json
from bayeslora.cli.messages import show
from bayeslora.cli.outputs import print_columns, print_json
from bayeslora.io.cache import (
    DIRECTORY_VARIABLE,
    KINDS,
    SIZE_VARIABLE,
    cache_directory,
    clear,
    kept,
    most_bytes,
)

SUMMARY = "list or clear cached files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "--clear",
        choices=[*KINDS, "all"],
        metavar="KIND",
        help=f"delete all files of one kind ({', '.join(KINDS)}), or of all kinds ('all'); they "
        "are created again when needed",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print a line per kind, of the cached or the deleted files."""
    limit = most_bytes()
    entries = (
        kept() if args.clear is None else clear(KINDS if args.clear == "all" else [args.clear])
    )
    if args.json:
        print_json(
            {
                "directory": str(cache_directory()),
                "most_bytes_a_kind": limit,
                "cleared": args.clear is not None,
                "kinds": {
                    entry.kind: {"count": len(entry.paths), "bytes": entry.num_bytes}
                    for entry in entries
                },
            }
        )
        return
    print_columns(
        [("kind", "deleted" if args.clear else "files", "MiB", "description")]
        + [
            (
                entry.kind,
                str(len(entry.paths)),
                f"{entry.num_bytes / (1 << 20):.1f}",
                KINDS[entry.kind],
            )
            for entry in entries
        ]
    )
    if args.clear is None:
        show(
            f"\n{cache_directory()} ({DIRECTORY_VARIABLE}), at most {limit / (1 << 30):g} GiB "
            f"per kind except backbones ({SIZE_VARIABLE}, 0 to keep nothing)"
        )
