"""Write the parts of pages generated from the code: methods, scores; make others for the site.

    python docs/tables.py    (make docs)

Each part is between `<!-- NAME ARGUMENTS: ... -->` and `<!-- end -->` in its page, so that pages
can be read in the repository too. A test checks that they are up to date. Missing pages of adapters
and posteriors are created.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bayeslora.adapters import registry as adapters
from bayeslora.cli.methods import catalogue
from bayeslora.errors import CODES
from bayeslora.metrics.scores import ALL_SCORES, DETECTION_SCORES, ScoreInfo
from bayeslora.posteriors import registry as posteriors

DOCS = Path(__file__).parent

_PLACE = re.compile(r"(<!-- ([\w-]+)((?: [\w-]+)*): [^\n]*? -->\n).*?(<!-- end -->)", re.DOTALL)


def written(text: str) -> str:
    """Return a page with its parts generated from the current code."""
    return _PLACE.sub(
        lambda place: f"{place[1]}\n{TABLES[place[2]](*place[3].split())}\n{place[4]}", text
    )


def pages() -> list[Path]:
    """Return every page that may have generated parts."""
    return sorted([*DOCS.glob("*.md"), *DOCS.glob("api/*.md"), *DOCS.glob("methods/**/*.md")])


def scores() -> str:
    """Return the table of all scores: key, definition, source."""
    infos = [*ALL_SCORES.values(), *DETECTION_SCORES.values()]
    return table(("key", "definition", "source"), map(_score_row, infos))


def _score_row(info: ScoreInfo) -> tuple[str, ...]:
    definition = "; ".join(filter(None, (info.meaning, info.details)))
    return f"`{info.key}` {info.arrow}".strip(), definition, info.source


def default_fit() -> str:
    """Return the table of the report on the default fit: both methods, means over sets."""
    text = (DOCS.parent / "reports" / "default-fit" / "summary.md").read_text(encoding="utf-8")
    lines = text.split("## Means over sets\n\n")[1].split("\n\n")[0]
    names = {"minilm": "MiniLM", "smollm2-135m": "SmolLM2", " ± ": "\u00a0±\u00a0"}
    for name, written_as in names.items():
        lines = lines.replace(name, written_as)
    return f"{lines}\n"


def method_list(kind: str) -> str:
    """Return the table of `adapters` or `posteriors`, with a link to the page of each."""
    rows = (
        (f"[`{entry['name']}`]({kind}/{entry['name']}.md)", entry["use"])
        for entry in catalogue()[kind]
    )
    return table(("name", "when to use it"), rows)


def methods(*kind: str) -> str:
    """Return the options of each method of a kind."""
    return "\n".join(
        f"**{entry['name']}**: {entry['summary']}\n\n{_method_options(entry)}"
        for entry in catalogue()[" ".join(kind)]
        if entry["options"]
    )


def about(kind: str, name: str) -> str:
    """Return the summary of a method: use, formula, example, cost and limits."""
    [entry] = (entry for entry in catalogue()[kind] if entry["name"] == name)
    config = _config(kind, name)
    use = f" **When to use it:** {entry['use']}" if entry["use"] else ""
    facts = ["; ".join(_facts(kind, config, entry)), *_limits(config)]
    parts = [
        f"{entry['summary'][0].upper()}{entry['summary'][1:]}.{use}\n",
        f"```\n{formula(config)}\n```\n",
        _example(kind, config),
        "".join(f"- {fact}\n" for fact in facts),
    ]
    if entry["options"]:
        parts.append(f"```{{generated}} options {kind} {name}\nbayeslora methods {name}\n```\n")
    return "\n".join(parts)


_LIMITS = {"from_start": "Not for `calibrate`: it"}
"""Beginnings of the sentences with the reason of each limit of a posterior."""


def _config(kind: str, name: str) -> type[Any]:
    registry = adapters if kind == "adapters" else posteriors
    return next(config for config, _ in registry.CATALOGUE.listed() if config.name == name)


_FORMULA = re.compile(r"(?:^ {4}.*\n|^\n(?= {4}))+", re.MULTILINE)


def formula(config: type[Any]) -> str:
    """Return the formulas of an adapter or posterior: the first indented lines of a docstring.

    Of the class, else of the file of the method.
    """
    if own := _FORMULA.search((inspect.getdoc(config) or "").partition("Attributes:")[0]):
        return inspect.cleandoc(own[0])
    text = inspect.getdoc(inspect.getmodule(config)) or ""
    block = _FORMULA.search(f"{text}\n")
    return "" if block is None else inspect.cleandoc(block[0])


def _example(kind: str, config: type[Any]) -> str:
    """Return the shortest command that uses a method."""
    option = kind.removesuffix("s")
    command = f"bayeslora fit train.jsonl --{option} {config.name} --out my-model"
    return f"```\n{command}\n```\n"


def _facts(kind: str, config: type[Any], entry: dict[str, Any]) -> list[str]:
    name = config.__name__
    facts = [f"Python: [`bl.{name}`](../../api/{kind}.md#bayeslora.{name})"]
    facts.append(f"source: {entry['source']}")
    if "passes" in entry:
        facts.append(f"passes per prediction: {entry['passes']}")
    return facts


def _limits(config: type[Any]) -> list[str]:
    limits = [
        f"{begin} {reason}."
        for key, begin in _LIMITS.items()
        if (reason := getattr(config, key, ""))
    ]
    if getattr(config, "over_factors", False):
        limits.append("Needs a low-rank adapter: it is over the factors.")
    return limits


def options(kind: str, name: str) -> str:
    """Return the options of a method, with a heading line."""
    [entry] = (entry for entry in catalogue()[kind] if entry["name"] == name)
    return f"**Options**\n\n{_method_options(entry)}"


def _method_options(entry: dict[str, Any]) -> str:
    rows = (
        (f"`{name}`", f"`{default}`", _meaning(name, entry))
        for name, default in entry["options"].items()
    )
    return table(("option", "default", "meaning"), rows)


_ON_ONE_PAGE = ("target_modules", "num_layers")
"""Options of all adapters, whose defaults are on one page."""


def _meaning(name: str, entry: dict[str, Any]) -> str:
    meaning: str = entry["meanings"].get(name, "")
    return meaning.partition(";")[0] if name in _ON_ONE_PAGE else meaning


TABLES: dict[str, Callable[..., str]] = {
    "scores": scores,
    "method-list": method_list,
    "about": about,
    "default-fit": default_fit,
}
"""Functions that generate each part of a page from the words after its name."""

ON_THE_SITE: dict[str, Callable[..., str]] = {
    "methods": methods,
    "options": options,
    "error-codes": lambda: table(
        ("code", "meaning"), [(f"`{code}`", meaning) for code, meaning in CODES.items()]
    ),
}
"""Functions that generate what the directive `generated` puts on the site alone."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """Escape text for a table cell; outside of code, `<` starts no tag."""
    parts = re.sub(r"(?<!\\)\|", r"\|", " ".join(text.split())).split("`")
    return "`".join(
        part if place % 2 else part.replace("<", "\\<") for place, part in enumerate(parts)
    )


def _write_missing_pages() -> None:
    """Create the missing pages of our adapters and posteriors."""
    for kind in ("adapters", "posteriors"):
        for entry in catalogue()[kind]:
            name = entry["name"]
            page = DOCS / "methods" / kind / f"{name}.md"
            if entry["package"].split()[0] == "bayeslora" and not page.exists():
                page.parent.mkdir(parents=True, exist_ok=True)
                mark = f"<!-- about {kind} {name}: docs/tables.py -->"
                title = _config(kind, name).__name__
                page.write_text(f"# {title}\n\n{mark}\n<!-- end -->\n", encoding="utf-8")


def main() -> None:
    """Update the generated parts of every page."""
    _write_missing_pages()
    for page in pages():
        before = page.read_text(encoding="utf-8")
        if (after := written(before)) != before:
            page.write_text(after, encoding="utf-8")
            print(page)


if __name__ == "__main__":
    main()
