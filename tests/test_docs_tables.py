"""Tables in the documentation equal those generated from the code."""

import re
import sys
from pathlib import Path

import pytest

from bayeslora.metrics.scores import ALL_SCORES, DETECTION_SCORES

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def tables():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)  # as for a script
        import tables

        yield tables
    del sys.modules["tables"]


def test_pages_are_as_the_code_writes_them(tables):
    pages = {page: page.read_text(encoding="utf-8") for page in tables.pages()}
    stale = [name for name, text in pages.items() if tables.written(text) != text]
    assert stale == [], "write them with: python docs/tables.py"
    used = set(re.findall(r"<!-- ([\w-]+)[\w -]*: ", "".join(pages.values())))
    assert used >= {*tables.TABLES}


def test_every_score_has_a_row(tables):
    rows = [line for line in tables.scores().splitlines() if line.startswith("| `")]
    keys = [re.match(r"\| `(\w+)`", row)[1] for row in rows]
    assert sorted(keys) == sorted({**ALL_SCORES, **DETECTION_SCORES})
    assert all(len(re.split(r"(?<!\\)\|", row)) == 5 for row in rows)


@pytest.mark.parametrize("kind", ["adapters", "posteriors"])
def test_the_page_of_a_method_tells_what_it_is_without_the_site(tables, kind):
    for entry in tables.catalogue()[kind]:
        name = entry["name"]
        text = (DOCS / "methods" / kind / f"{name}.md").read_text(encoding="utf-8")
        assert f"<!-- about {kind} {name}: " in text
        about = tables.about(kind, name)
        sentence, formula, *_ = about.split("\n\n")
        assert entry["summary"][1:] in sentence
        assert re.match(r"```\n\S", formula)
        assert all(entry[key] in about for key in ("use", "source"))
        table = tables.options(kind, name)  # on the site; the page names the command that prints it
        assert all(f"| `{option}` | " in table for option in entry["options"])
        assert (f"bayeslora methods {name}" in about) == bool(entry["options"])


def test_a_cell_is_no_tag_and_no_column(tables):
    text = tables.table(("a", "b"), [("x|y <z>", "`<z>`")])
    assert text.splitlines()[2] == r"| x\|y \<z> | `<z>` |"
