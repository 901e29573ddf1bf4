"""The report in a real browser: quiet, offline, sortable, accessible, printable, robust."""

import json
import re

import pytest

from bayeslora.reporting.report import report

WIDTHS = (1280, 768, 390)
LONG = "word " * 200
FEW_RULES = {"runOnly": ["color-contrast", "scrollable-region-focusable", "image-alt"]}


def serious_faults(page, options=None):
    """Return the serious and critical violations of axe, with everything unfolded."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    # axe cannot measure contrast on a gradient and would skip every table
    page.add_style_tag(content=".scroll { background: none !important; }")
    # Without the elements that pass, a quarter of the time.
    options = {"resultTypes": ["violations"], **(options or {})}
    response = axe.Axe().run(page, options=options).response
    assert "color-contrast" in [rule["id"] for rule in response["passes"]]
    return [
        (violation["id"], violation["nodes"][0]["html"])
        for violation in response["violations"]
        if violation["impact"] in {"serious", "critical"}
    ]


def written(make, out, *, names, classes, texts, title):
    """Return the page of a report with the given words in every external text."""
    rows = [texts[index % len(texts)] for index in range(240)]
    columns = {"text": rows}
    methods = [
        make(
            names[0], classes=classes, columns=columns, sharpness=3.0, metadata={"link": names[0]}
        ),
        make(names[1], classes=classes, columns=columns, spread=0.5),
    ]
    outside = [
        make(name, classes=classes, labelled=False, signal=0.3, rows=60, spread=spread)
        for name, spread in zip(names, (0.0, 0.5), strict=True)
    ]
    sets = {name: {names[0]: predictions} for name, predictions in zip(names, outside, strict=True)}
    return report(methods, ood=sets, out=out, title=title, num_resamples=20)


@pytest.fixture(scope="module")
def plain(make, tmp_path_factory):
    """Return a page with ordinary words."""
    return written(
        make,
        tmp_path_factory.mktemp("plain") / "report",
        names=["alpha " * 8, "beta " * 8],  # longer than a label
        classes=("autos", "baseball", "crypto", "medicine"),
        texts=["short text", LONG],
        title="Demo",
    )


def headings(page, table):
    return page.locator(f"table:has(#{table}-caption) tbody tr").evaluate_all(
        "rows => rows.map(row => row.cells[0].textContent)"
    )


def test_tables_sort_by_click_and_by_key(made, visit):
    methods = json.loads((made / "scores.json").read_text(encoding="utf-8"))["methods"]
    first = [method["label"] for method in methods]
    by_nll = sorted(methods, key=lambda method: method["scores"]["nll"]["value"])
    page = visit(made / "index.html")
    heading = page.locator("table:has(#scores-caption) th", has_text=re.compile("^NLL"))
    button = heading.get_by_role("button")
    button.click()
    assert headings(page, "scores") == [method["label"] for method in by_nll]
    assert heading.get_attribute("aria-sort") == "ascending"
    assert page.get_by_role("status").text_content() == "Sorted by NLL, ascending."
    button.press("Enter")
    assert headings(page, "scores") == [method["label"] for method in reversed(by_nll)]
    assert heading.get_attribute("aria-sort") == "descending"
    button.press("Space")
    assert headings(page, "scores") == first
    assert heading.get_attribute("aria-sort") is None
    page.locator("table:has(#scores-caption)").get_by_role("button", name="Method").click()
    assert headings(page, "scores") == sorted(first)


def test_without_scripts_the_tables_are_there_and_no_button_is(made, visit):
    page = visit(made / "index.html", java_script_enabled=False)
    assert page.locator("button").count() == 0
    assert page.locator("table:has(#scores-caption) tbody tr").count() == 3


@pytest.mark.parametrize(
    ("scheme", "width", "options"),
    [("light", 1280, {}), ("dark", 390, FEW_RULES)],
    ids=["light", "dark, on a phone"],
)
def test_axe_finds_no_serious_fault(plain, visit, scheme, width, options):
    page = visit(plain, color_scheme=scheme, viewport={"width": width, "height": 800})
    page.get_by_role("button", name=re.compile("^NLL")).first.click()
    assert serious_faults(page, options) == []


def unfolded(visit, place, width, height=800):
    """Return a page with everything open."""
    page = visit(place, viewport={"width": width, "height": height})
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    return page


def wide_tables(page):
    """Return the captions of the visible tables that scroll sideways."""
    return page.locator(".scroll:visible").evaluate_all(
        """all => all.filter(one => one.scrollWidth > one.clientWidth)
            .map(one => one.getAttribute("aria-labelledby"))"""
    )


@pytest.fixture(scope="module")
def four(make, tmp_path_factory):
    """Return a page on four methods and a set, with one tile in two lines on a phone."""
    names = ("maximum-likelihood", "temperature", "polar-vbll", "deep-ensemble")
    methods = [
        make(name, sharpness=sharpness, spread=0.7, rows=300)
        for name, sharpness in zip(names, (3.0, 1.0, 1.2, 1.6), strict=True)
    ]
    ood = {name: {"far news": make(name, signal=0.3, spread=0.7, labelled=False)} for name in names}
    out = tmp_path_factory.mktemp("four") / "report"
    return report(methods, ood=ood, out=out, num_resamples=20)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_table_of_four_methods_and_long_names_fit(four, plain, visit, width):
    for place in (four, plain):
        page = unfolded(visit, place, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert wide_tables(unfolded(visit, four, width)) == []


def test_on_a_phone_rows_of_many_scores_are_cards(four, visit):
    page = visit(four, viewport={"width": 390, "height": 800})
    cell = page.locator("table:has(#scores-caption) tbody td").first
    assert cell.evaluate("one => getComputedStyle(one, '::before').content") == '"Accuracy ↑ "'


def test_it_prints_dark_on_white(plain, visit):
    page = visit(plain, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    style = page.evaluate(
        """() => {
            const body = getComputedStyle(document.body);
            const drawing = getComputedStyle(document.querySelector(".plate img"));
            return [body.backgroundColor, body.color, drawing.filter];
        }"""
    )
    assert style == ["rgb(255, 255, 255)", "rgb(0, 0, 0)", "none"]
    assert not page.get_by_role("navigation").is_visible()


HOSTILE = [
    "<script>alert('text')</script><img src=x onerror=alert(1)>",
    "</svg></p></table></body>\" onload='alert(2)' x=\"",
    "\u202eevil\u202c \u2067rtl\u2069 עברית \x00\x1b[31m {{ 7 * 7 }}",
    "x" * 10_000,
]


def test_hostile_names_and_texts_change_nothing_but_words(make, plain, visit, tmp_path):
    strange = written(
        make,
        tmp_path / "report",
        names=[HOSTILE[0], HOSTILE[3]],
        classes=tuple(HOSTILE),
        texts=[HOSTILE[0] + HOSTILE[1] + HOSTILE[2], HOSTILE[3]],
        title=HOSTILE[1],
    )
    count = """() => {
        const found = {};
        for (const one of document.querySelectorAll("*:not(wbr)"))
            found[one.localName] = (found[one.localName] || 0) + 1;
        return found;
    }"""
    expected = visit(plain).evaluate(count)
    page = visit(strange, viewport={"width": 390, "height": 800})
    assert page.evaluate(count) == expected
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    words = page.locator("main").text_content()
    assert "<img src=x onerror=alert(1)>" in words
    assert "{{ 7 * 7 }}" in words
    assert not re.search("[\u202a-\u202e\u2066\u2067\u200e\u200f\x00\x1b]", words)
