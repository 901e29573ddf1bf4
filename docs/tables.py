"""Write the tables of pages that come from the code: scores, and the options of commands.

    python docs/tables.py    (make docs)

A page has each table between `<!-- NAME: ... -->` and `<!-- end -->`, so that it can be read in the
repository too. A test compares.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bayeslora.cli.parser import build_parser
from bayeslora.metrics.catalogue import DETECTION_SCORES, SCORES, SET_SCORES, ScoreInfo
from bayeslora.reporting.report import report
from bayeslora.reporting.viewer import view

DOCS = Path(__file__).parent

_PLACE = re.compile(r"(<!-- ([\w-]+): .*? -->\n).*?(<!-- end -->)", re.DOTALL)


def written(text: str) -> str:
    """Return a page with its tables as the code has them now."""
    return _PLACE.sub(lambda place: f"{place[1]}\n{TABLES[place[2]]()}\n{place[3]}", text)


def scores() -> str:
    """Return the table of every score: key, name, definition, source."""
    infos = [*SCORES.values(), *DETECTION_SCORES.values(), *SET_SCORES.values()]
    return table(("key", "in tables", "definition", "source"), map(_score_row, infos))


def _score_row(info: ScoreInfo) -> tuple[str, ...]:
    definition = "; ".join(filter(None, (info.meaning, info.details)))
    return f"`{info.key}`", f"{info.title} {info.arrow}".strip(), definition, info.source


def options(verb: str, function: Callable[..., Any], elsewhere: dict[str, str]) -> str:
    """Return the table of a command's options: how they are typed, in Python, what they do.

    Args:
        verb: The command.
        function: What it calls.
        elsewhere: What options that are no argument of it are in Python, by their names there.
    """
    arguments = inspect.signature(function).parameters
    rows = []
    for action in _verb(verb)._actions:
        name = action.dest
        value = f"={action.const}" if action.nargs == 0 else ""
        python = f"`{name}{value}`" if name in arguments else elsewhere.get(name, "")
        rows.append((_typed(action), python, (action.help or "").replace("%%", "%")))
    return table(("command line", "Python", "what it does"), rows)


def _verb(name: str) -> argparse.ArgumentParser:
    verbs = next(one for one in build_parser()._actions if isinstance(one.choices, dict))
    parser: argparse.ArgumentParser = verbs.choices[name]
    return parser


def _typed(action: argparse.Action) -> str:
    """Return an option as the help shows it, such as `--out DIR`."""
    if not action.option_strings:
        return f"`{action.metavar} …`"
    value = "" if action.nargs == 0 else f" {action.metavar or _values(action)}"
    more = " …" if action.nargs in ("+", "*") else ""
    return ", ".join(f"`{name}{value}{more}`" for name in action.option_strings)


def _values(action: argparse.Action) -> str:
    return "\\|".join(map(str, action.choices or ())) or action.dest.upper()


_FILES = {
    "files": "`items`",
    **dict.fromkeys(("delimiter", "encoding", "probability_column", "renormalise"), "`reading`"),
}
"""Options that both commands pass on by another name."""

_CARD = {
    "model_card": "`bl.update_model_card`",
    "card_model": "its `model`",
    "card_dataset": "its `dataset`",
}


TABLES: dict[str, Callable[[], str]] = {
    "scores": scores,
    "report-options": lambda: options("report", report, _FILES | _CARD),
    "view-options": lambda: options("view", view, _FILES),
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """Return text that is one cell; outside of code, `<` begins no tag."""
    parts = re.sub(r"(?<!\\)\|", r"\|", " ".join(text.split())).split("`")
    return "`".join(
        part if place % 2 else part.replace("<", "\\<") for place, part in enumerate(parts)
    )


def main() -> None:
    """Write the tables of every page that has one."""
    for page in sorted(DOCS.glob("*.md")):
        before = page.read_text(encoding="utf-8")
        if (after := written(before)) != before:
            page.write_text(after, encoding="utf-8")
            print(page)


if __name__ == "__main__":
    main()
